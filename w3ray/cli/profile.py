"""`w3ray profile`: what does a model cost, and how much of the cost is the attention?"""

from typing import Annotated, Any

import typer

from w3ray.cli._common import finish, run_command
from w3ray.errors import InputError


@run_command
def profile(
    model: Annotated[str, typer.Option(help="Name of a model: tsm, tsn, r3d_18, mc3_18, r2plus1d_18, ...")] = "tsm",
    backbone: Annotated[str, typer.Option(help="2D backbone of tsm and tsn.")] = "resnet50",
    frames: Annotated[int, typer.Option(min=1, help="Frames per clip.")] = 8,
    size: Annotated[int, typer.Option(min=1, help="Height and width in pixels.")] = 224,
    attention: Annotated[str, typer.Option(help="Attention to compare with the plain model, or 'none'.")] = "w3",
    dense: Annotated[bool, typer.Option("--dense", help="Use dense temporal convolutions in W3's Eq. 4.")] = False,
    num_classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Print multiply-adds (GMAC) per clip and parameters, plain and with attention. Nothing is computed or loaded."""
    document = measure(
        model,
        backbone=backbone,
        num_frames=frames,
        size=size,
        attention=None if attention == "none" else attention,
        dense=dense,
        num_classes=num_classes,
    )
    finish(document, as_json, table(document).split("\n"))


def measure(
    model: str,
    *,
    backbone: str,
    num_frames: int,
    size: int,
    attention: str | None,
    dense: bool,
    num_classes: int,
) -> dict[str, Any]:
    """Profile the plain model, then with attention, then with attention and AFR if the attention has masks.

    Raises:
        InputError: an unknown name, or `dense` without W3.
    """
    import torch

    from w3ray.models import MODELS, build_model
    from w3ray.models import profile as profile_model

    if dense and attention != "w3":
        raise InputError("profile: --dense is an option of w3; add --attention w3")
    options = {"kind": attention} | ({"depthwise": False} if dense else {})
    label = f"{attention} (dense)" if dense else attention
    variants: list[tuple[str, dict[str, Any] | None, bool]] = [("plain", None, False)]
    if attention is not None:
        variants += [(f"+ {label}", options, False), (f"+ {label} + refinement", options, True)]
    rows: list[dict[str, Any]] = []
    for name, kind, refinement in variants:
        try:
            # On the meta device a network has shapes but no memory, so even a dense W3 is built instantly.
            with torch.device("meta"):
                network = build_model(
                    model, backbone=backbone, num_classes=num_classes, attention=kind, refinement=refinement
                )
            if refinement and network.refinement is None:
                continue
            cost = profile_model(network, num_frames, size)
        except ValueError as error:
            raise InputError(str(error)) from error
        rows.append(
            {
                "name": name,
                "macs": cost.macs,
                "parameters": cost.parameters,
                "overhead_macs": cost.macs / rows[0]["macs"] - 1 if rows else 0.0,
                "overhead_parameters": cost.parameters / rows[0]["parameters"] - 1 if rows else 0.0,
                "parts": [{"name": p.name, "macs": p.macs, "parameters": p.parameters} for p in cost.parts],
            }
        )
    return {
        "model": model,
        "backbone": backbone if MODELS[model].takes_backbone else None,
        "num_frames": num_frames,
        "size": size,
        "num_classes": num_classes,
        "rows": rows,
    }


def table(document: dict[str, Any]) -> str:
    """The document as lines of text: one per variant, then the parts of the last variant."""
    title = document["model"] if document["backbone"] is None else f"{document['model']} {document['backbone']}"
    width = max(len(row["name"]) for row in document["rows"])
    width = max(width, len("refinement") + 2)
    lines = [
        f"{title}, {document['num_frames']} frames of {document['size']} x {document['size']}, "
        f"{document['num_classes']} classes, per clip",
        f"{'':{width}}  {'GMAC':>8}  {'':>7}  {'M parameters':>12}",
    ]
    for row in document["rows"]:
        extra = f"+{row['overhead_macs']:.1%}" if row is not document["rows"][0] else ""
        more = f"+{row['overhead_parameters']:.1%}" if row is not document["rows"][0] else ""
        lines.append(f"{row['name']:{width}}  {_giga(row['macs'])}  {extra:>7}  {_mega(row['parameters'])}  {more}")
    lines.append(f"parts of '{document['rows'][-1]['name']}':")
    for part in document["rows"][-1]["parts"]:
        lines.append(f"{'  ' + part['name']:{width}}  {_giga(part['macs'])}  {'':>7}  {_mega(part['parameters'])}")
    return "\n".join(line.rstrip() for line in lines)


def _giga(count: int) -> str:
    return f"{count / 1e9:8.2f}" if count >= 1e7 or count == 0 else f"{count / 1e9:8.4f}"


def _mega(count: int) -> str:
    return f"{count / 1e6:12.2f}"

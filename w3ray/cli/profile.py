"""`w3ray profile`: what does a model cost, and how much of the cost is the attention?"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._options import OverridesOption
from w3ray.errors import InputError


@run_command
def profile(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a shipped recipe, or a YAML file: profile its network.")
    ] = None,
    overrides: OverridesOption = None,
    model: Annotated[str | None, typer.Option(help="Name of a model: tsm (default), tsn, r3d_18, ...")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="2D backbone of tsm, tsn, tam, trn, ... Default: resnet50."),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames per clip. Default: 8.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Height and width in pixels. Default: 224.")] = None,
    attention: Annotated[
        str | None, typer.Option(help="Attention to compare with the plain model, or 'none'. Default: w3.")
    ] = None,
    dense: Annotated[bool, typer.Option("--dense", help="Use dense temporal convolutions in W3's Eq. 4.")] = False,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes. Default: those of the recipe's clips, else 1000.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Print one table of all systems that the paper's tables compare.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="With --all: print docs/zoo.md.")] = False,
    seconds: Annotated[
        bool, typer.Option("--seconds", help="Also measure a forward pass and a training step on this machine.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print multiply-adds (GMAC) per clip and parameters, plain and with attention. Nothing is computed or loaded."""
    given = {"--model": model, "--backbone": backbone, "--frames": frames, "--size": size, "--attention": attention,
             "--dense": dense or None}  # fmt: skip
    of_model = [name for name, value in given.items() if value is not None]
    others = {"--num-classes": num_classes, "--set": overrides, str(recipe): recipe}
    if everything:
        _refuse("--all", [*of_model, *(name for name, value in others.items() if value)])
        _all(markdown=markdown, seconds=seconds, as_json=as_json)
        return
    if markdown:
        raise InputError("profile: --markdown writes the table of all systems; add --all")
    if recipe is not None:
        _refuse(f"recipe {recipe}", of_model, "; change the recipe by --set")
        what = _of_recipe(recipe, overrides or [], num_classes)
    elif overrides:
        raise InputError("profile: --set changes a recipe; name one")
    else:
        what = _of_options(model, backbone, frames, size, attention or "w3", dense, num_classes)
    document = measure(replace(what, seconds=seconds))
    finish(document, as_json, table(document).split("\n"))


def _refuse(whole: str, names: list[str], hint: str = "") -> None:
    if names:
        raise InputError(f"profile: {', '.join(names)} cannot be given with {whole}{hint}")


def _all(*, markdown: bool, seconds: bool, as_json: bool) -> None:
    from w3ray.cli._systems import all_rows, document, text_table
    from w3ray.models.published import missing

    if markdown and seconds:
        raise InputError("profile: --seconds are of one machine, so they do not stand in the document; leave one out")
    rows = all_rows(seconds=seconds)
    lines = document(rows).rstrip("\n").split("\n") if markdown else text_table(rows)
    if not markdown:
        lines += [f"not counted: {name}: {reason}" for name, reason in missing().items()]
    finish({"systems": rows, "missing": missing()}, as_json, lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """A network and the clips that it is profiled with."""

    model: str
    backbone: str | None
    num_frames: int
    size: int
    attention: dict[str, Any] | None
    label: str
    """What the attention is called in the table."""
    num_classes: int
    options: dict[str, Any] = field(default_factory=dict)
    refinement: bool = True
    flow_fields: int | None = None
    """The clips are stacks of so many fields of optical flow. None: RGB frames."""
    boxes_per_frame: int = 10
    """Of a network that reads boxes."""
    seconds: bool = False


def _attention(kind: str, dense: bool) -> dict[str, Any] | None:
    if dense and kind != "w3":
        raise InputError("profile: --dense is an option of w3; add --attention w3")
    return None if kind == "none" else {"kind": kind} | ({"depthwise": False} if dense else {})


def _of_options(
    model: str | None,
    backbone: str | None,
    frames: int | None,
    size: int | None,
    kind: str,
    dense: bool,
    num_classes: int | None,
) -> Profiled:
    """The network that the options name."""
    return Profiled(
        model=model or "tsm", backbone=backbone or "resnet50", num_frames=frames or 8, size=size or 224,
        attention=_attention(kind, dense), label=f"{kind} (dense)" if dense else kind, num_classes=num_classes or 1000,
    )  # fmt: skip


def _of_recipe(name: str, overrides: list[str], num_classes: int | None) -> Profiled:
    """The network of a recipe's last stage, with its clips and its attention."""
    from w3ray.recipe import load_recipe

    recipe = load_recipe(name, overrides)
    stage = recipe.resolved_stages()[-1]
    arguments = stage.model.build_arguments()
    attention = arguments["attention"]
    return Profiled(
        model=arguments["name"],
        backbone=arguments["backbone"],
        options=arguments["options"],
        num_frames=recipe.data.num_frames,
        size=recipe.data.size,
        attention=attention,
        label="" if attention is None else attention["kind"],
        num_classes=num_classes or _classes_of(recipe),
        refinement=arguments["refinement"],
        flow_fields=recipe.data.flow_fields,
        boxes_per_frame=recipe.data.boxes_per_frame,
    )


def _classes_of(recipe: Any) -> int:
    """Scores of the recipe's clips; 1000 if its manifest is not there yet."""
    from w3ray.data.manifest import read_manifest
    from w3ray.data.synthetic import CLASSES

    if recipe.data.synthetic is not None:
        return len(CLASSES)
    if "://" not in recipe.data.manifest and not Path(recipe.data.manifest).is_file():
        return 1000
    found: int = recipe.data.chosen(read_manifest(recipe.data.manifest)).heads.num_scores
    return found


def measure(what: Profiled) -> dict[str, Any]:
    """Profile the plain model, then with attention, then with attention and AFR if the attention has masks.

    Raises:
        InputError: an unknown name, an option out of range, or clips that the model cannot take.
    """
    from w3ray.models import MODELS

    variants: list[tuple[str, dict[str, Any] | None, bool]] = [("plain", None, False)]
    if what.attention is not None:
        variants.append((f"+ {what.label}", what.attention, False))
        if what.refinement:
            variants.append((f"+ {what.label} + refinement", what.attention, True))
    rows: list[dict[str, Any]] = []
    for name, kind, refinement in variants:
        try:
            row = _variant(what, kind, refinement)
        except ValueError as error:
            raise InputError(str(error)) from error
        if row is not None:
            first = rows[0] if rows else row
            row["overhead_macs"] = row["macs"] / first["macs"] - 1
            row["overhead_parameters"] = row["parameters"] / first["parameters"] - 1
            rows.append({"name": name, **row})
    return {
        "model": what.model,
        "backbone": what.backbone if MODELS[what.model].takes_backbone else None,
        "num_frames": what.num_frames,
        "size": what.size,
        "num_classes": what.num_classes,
        "rows": rows,
    }


def _variant(what: Profiled, attention: dict[str, Any] | None, refinement: bool) -> dict[str, Any] | None:
    """One row. None: the attention has no masks, so there is no refinement.

    Raises:
        ValueError: as in `measure`.
    """
    import torch

    from w3ray.models import build_model
    from w3ray.models import profile as profile_model

    arguments: dict[str, Any] = {
        "name": what.model, "backbone": what.backbone, "options": what.options, "num_classes": what.num_classes,
        "attention": attention, "refinement": refinement, "flow_fields": what.flow_fields,
    }  # fmt: skip
    # On the meta device a network has shapes but no memory, so even a dense W3 is built instantly.
    with torch.device("meta"):
        network = build_model(**arguments)
    if refinement and network.refinement is None:
        return None
    cost = profile_model(network, what.num_frames, what.size, what.boxes_per_frame)
    row: dict[str, Any] = {
        "macs": cost.macs,
        "parameters": cost.parameters,
        "parts": [{"name": p.name, "macs": p.macs, "parameters": p.parameters} for p in cost.parts],
    }
    if what.seconds:
        from w3ray.models.timing import measure_seconds

        found = measure_seconds(build_model(**arguments), what.num_frames, what.size, what.boxes_per_frame)
        row |= {"device": found.device, "forward_s": found.forward, "training_step_s": found.training_step}
    return row


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
    if "device" in document["rows"][0]:
        for row in document["rows"]:
            lines.append(
                f"{row['name']:{width}}  forward {row['forward_s']:.3f} s, training step "
                f"{row['training_step_s']:.3f} s ({row['device']}, fp32, one clip)"
            )
    lines.append(f"parts of '{document['rows'][-1]['name']}':")
    for part in document["rows"][-1]["parts"]:
        lines.append(f"{'  ' + part['name']:{width}}  {_giga(part['macs'])}  {'':>7}  {_mega(part['parameters'])}")
    return "\n".join(line.rstrip() for line in lines)


def _giga(count: int) -> str:
    return f"{count / 1e9:8.2f}" if count >= 1e7 or count == 0 else f"{count / 1e9:8.4f}"


def _mega(count: int) -> str:
    return f"{count / 1e6:12.2f}"

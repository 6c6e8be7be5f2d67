"""`w3ray export`: a trained model as one file for PyTorch or ONNX Runtime."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._models import MODEL_HELP, TrackingOption, opened_models


class Format(StrEnum):
    """Format of the file."""

    TORCH = "torch"
    ONNX = "onnx"


@run_command
def export(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    out: Annotated[str, typer.Option("--out", "-o", help="File to write, such as model.pt2 or model.onnx.")],
    form: Annotated[
        Format, typer.Option("--format", help="torch: for torch.export.load; onnx: needs w3ray[onnx].")
    ] = Format.TORCH,
    stream: Annotated[
        bool, typer.Option("--stream", help="Take frame after frame, with the state of the stream (online TSM, TSN).")
    ] = False,
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model that takes raw frames (uint8 RGB) and returns logits and scores, for any number of clips at once.

    With --stream, it takes one frame at a time.

    First the exported model is read back and compared with the original. If the scores differ, no file is written.
    """
    from w3ray.export import CHECK_BATCHES, LOGITS_TOLERANCE, SCORES_TOLERANCE, export_model

    with opened_models([model], tracking) as (local,):
        done = export_model(local.folder, form.value, out, stream=stream)
    document = {
        "file": str(done.path),
        "format": form.value,
        "bytes": done.size_bytes,
        "check": {
            "batches": list(CHECK_BATCHES),
            "scores_difference": done.scores_difference,
            "scores_tolerance": SCORES_TOLERANCE,
            "logits_difference": done.logits_difference,
            "logits_tolerance": LOGITS_TOLERANCE,
        },
        **done.metadata,
    }
    finish(document, as_json, export_text(document))


def export_text(document: dict[str, Any]) -> list[str]:
    """What the file holds and how to use it."""
    clip, check = document["clip"], document["check"]
    classes = document["classes"]
    named = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
    lines = [f"{document['file']} ({document['bytes'] / 1e6:.1f} MB, {document['format']})"]
    for kind in ("inputs", "outputs"):
        for name, one in document[kind].items():
            shape = ", ".join(map(str, one["shape"]))
            lines.append(f"  {kind[:-1]:<6}  {name:<6}  {one['dtype']:<7}  [{shape}]  {one['meaning']}")
    batches = " and ".join(map(str, check["batches"]))
    lines += [
        f"  frames  {clip['num_frames']} by {clip['sampling']} sampling; short side {clip['short_side']} pixels, then "
        f"the centre {clip['size']}x{clip['size']}",
        f"  classes {len(classes)}: {named}",
        f"  check   with {batches} clips at once, scores differ from the model's by at most "
        f"{check['scores_difference']:.1g} (allowed {check['scores_tolerance']:g}), logits by "
        f"{check['logits_difference']:.1g} of their spread (allowed {check['logits_tolerance']:g})",
    ]
    return lines

"""`w3ray explain`: what does a model look at in a video?"""

from typing import Annotated, Any

import typer

from w3ray._format import percent
from w3ray.attention import health
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._console import Group, Line, RenderableType, Table
from w3ray.cli._console import lines as as_lines
from w3ray.cli._models import MODEL_HELP, BanksOption, TrackingOption, opened_models


@run_command
def explain(
    model: Annotated[str, typer.Argument(help=f"Model with attention: {MODEL_HELP[0].lower()}{MODEL_HELP[1:]}")],
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO...", help="One or more videos.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the pictures and films.")] = "explained",
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Second model to show beside it; with Grad-CAM if it has no masks."),
    ] = None,
    true: Annotated[str | None, typer.Option(metavar="CLASS", help="True class of the videos, to show.")] = None,
    boxes: Annotated[str | None, typer.Option(help="File of boxes of the videos, for models that need them.")] = None,
    bank: BanksOption = None,
    top: Annotated[int, typer.Option(min=1, help="Number of classes in the answer.")] = 5,
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw where and when a model's attention looks: for each video a strip, the stages, and a film."""
    from w3ray.explaining import explain_videos

    given = [model] if against is None else [model, against]
    with opened_models(given, tracking) as found:
        first, other = found[0].folder, None if against is None else found[1].folder
        document = explain_videos(
            first, videos, out=out, against=other, true=true, top=top, boxes=boxes, banks=bank or ()
        ).document()
    for key, one in zip(("model", "against"), found, strict=False):
        if one.folder != one.name:
            document[key] = one.name
    shown = as_lines([line for answer in document["videos"] for line in _video_lines(answer)])
    finish(document, as_json, Group(shown, *(part for one in document["attention"] for part in _gates(one))))


def _video_lines(answer: dict[str, Any]) -> list[str]:
    lines = [answer["video"]]
    for one in answer["models"]:
        scores = ", ".join(f"{row['class']} {percent(row['score'])}" for row in one["top"])
        lines.append(f"  {one['name']}: {scores}")
    return [*lines, *(f"  {name:<6}  {answer[name]}" for name in ("strip", "stages", "film"))]


def _gates(one: dict[str, Any]) -> list[RenderableType]:
    """What a model's gates did over all videos. Empty for a model without attention."""
    rows = health.rows(health.from_document(one["stages"]))
    if not rows:
        return []
    table = Table(title=f"{one['name']}: gates over these videos", title_justify="left", box=None)
    for name, header in _GATE_COLUMNS.items():
        table.add_column(header, justify="left" if name in ("gate", "verdict") else "right")
    for row in rows:
        table.add_row(*(_shown(row[name]) for name in _GATE_COLUMNS))
    return [table, *(Line(f"{one['name']}: {fault}", style="yellow") for fault in one["faults"])]


_GATE_COLUMNS = {
    "stage": "stage", "gate": "gate", "mean": "mean", "std": "deviation", "std_time": "over time",
    "std_channels": "over channels", "std_space": "over space", "near_zero": "near 0", "saturated": "saturated",
    "verdict": "",
}  # fmt: skip


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)

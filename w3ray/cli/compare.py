"""`w3ray compare`: which of several evaluated models is better, and could the difference be chance?"""

from typing import Annotated, Any

import typer

from w3ray._format import percent
from w3ray._redact import redact
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._console import Group, RenderableType, Table
from w3ray.cli._console import lines as as_lines


@run_command
def compare(
    evaluations: Annotated[
        list[str], typer.Argument(help="Folders written by `w3ray evaluate`.", metavar="EVALUATION...")
    ],
    classes: Annotated[int, typer.Option(min=0, help="How many classes with the largest changes to list.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Compare evaluations of the same clips with the first one."""
    from w3ray.scoring.compare import compare as run

    found = run(evaluations, classes=classes)
    finish({"compared": [one.document() for one in found]}, as_json, shown(found))


def shown(found: list[Any]) -> RenderableType:
    """The comparison for people."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    multi_label = found[0].map is not None
    for title in ("", "mAP" if multi_label else "top-1", "against the first", "95%", "p", "evaluation"):
        table.add_column(title, justify="left" if title == "evaluation" else "right")
    for number, one in enumerate(found, start=1):
        row = [str(number), percent(one.map if multi_label else one.top1), "", "", ""]
        if number > 1:
            low, high = one.interval
            row[2:] = [_signed(one.difference), f"{_signed(low)} to {_signed(high)}", f"{one.p_value:.2g}"]
        table.add_row(*row, redact(one.directory))
    lines = []
    for number, one in enumerate(found[1:], start=2):
        if not multi_label:
            lines.append(
                f"{number}: right on {one.only_this} clips where 1 is wrong, wrong on {one.only_first} where 1 is right"
            )
        changes = ", ".join(f"{name} {_signed(change)} of {clips}" for name, clips, change in one.classes)
        if changes:
            lines.append(f"{number}: average precision: {changes}" if multi_label else f"   {changes}")
    return Group(table, as_lines(lines))


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"

"""`w3ray lint`: before a recipe runs, where does it differ from the published one, and what is wrong for its data?"""

from typing import Annotated, Any

import typer

from w3ray._redact import redact
from w3ray.cli._common import EXIT_FAILED, JsonOption, finish, run_command
from w3ray.cli._console import Group, Line, RenderableType, Table
from w3ray.cli._console import lines as as_lines
from w3ray.cli._options import OverridesOption
from w3ray.lint import IN_EVERY_RECIPE, Finding, LintReport
from w3ray.lint import lint as lint_recipe
from w3ray.recipe import load_recipe


@run_command
def lint(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe (such as ssv1-w3-8f), or a YAML file.")],
    overrides: OverridesOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 if there are findings.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a recipe with the closest row of the W3 paper's tables, and find what is wrong for its data.

    For each difference it prints the known cost with the source of the figure, or that no figure is published. It reads
    the recipe and its manifest, but no video.
    """
    report = lint_recipe(load_recipe(recipe, list(overrides or [])))
    finish(report.document(), as_json, report_text(report))
    if strict and report.findings:
        raise typer.Exit(EXIT_FAILED)


def report_text(report: LintReport) -> RenderableType:
    """A report for people: what was compared, a table of findings, and how many there are."""
    row = report.row
    of_row = f"{row.title}, {row.frames} frames, {row.data}, W3 {row.table}"
    lines = [f"{report.recipe}, compared with {row.recipe}: {of_row}"]
    lines.append("Sources: W3 is arXiv:2004.01278, TSM the repository mit-han-lab/temporal-shift-module.")
    if not report.same_data:
        lines.append("The paper has no row for this data: differences are notes; figures are for the named data sets.")
    if report.data_unread is not None:
        lines.append(f"The data was not checked: {redact(report.data_unread)}")
    parts: list[RenderableType] = [as_lines(lines)]
    if report.findings:
        parts.append(_table(report))
    parts.append(Line(_counts(report)))
    parts.append(as_lines(["in every recipe:", *(f"- {one}" for one in IN_EVERY_RECIPE)], style="dim"))
    return Group(*parts)


def _table(report: LintReport) -> Table:
    table = Table(show_lines=True)
    table.add_column("", no_wrap=True)
    table.add_column("field")
    table.add_column("here")
    # Long sentences are folded even if there is no terminal with a width.
    table.add_column("published", max_width=50)
    table.add_column("known cost", max_width=60)
    for finding in report.findings:
        style = "yellow" if finding.severity == "warning" else ""
        table.add_row(
            Line(finding.severity, style=style),
            finding.field,
            _plain(finding.value),
            _published(finding),
            finding.cost + (f" [{finding.cost_source}]" if finding.cost_source else ""),
        )
    return table


def _published(finding: Finding) -> str:
    return finding.source if finding.published is None else f"{_plain(finding.published)} [{finding.source}]"


def _plain(value: Any) -> str:
    """A value as a recipe would write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)


def _counts(report: LintReport) -> str:
    counts = {kind: sum(finding.severity == kind for finding in report.findings) for kind in ("warning", "note")}
    said = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items() if count]
    return ", ".join(said) or "nothing found"

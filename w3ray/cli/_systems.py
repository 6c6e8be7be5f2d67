"""The table of all systems of the paper's tables, for people and as Markdown."""

from collections.abc import Sequence
from typing import Any

from w3ray.models.published import PARAMETERS_FROM, SYSTEMS, Cost, System, agrees, count, here

DOCUMENT = """# What the paper's tables compare

Each row is a system of the tables of the W3 paper (arXiv:2004.01278). `w3ray profile --all` counts them again, and
`w3ray profile --all --markdown` writes this page. A test compares both.

GMAC are 1e9 multiply-adds of one clip: convolutions and matrix products, in evaluation mode. Published GFLOPs are the
paper's. Published parameters (in 1e6) are from {parameters}.
They fit 400 classes, so they are compared at 400 classes. Where figures have another source, the remark names it. A
figure agrees if it is at most 1 % or one unit of the last printed digit away from ours. A system of several networks is
their sum.

The command trains the network of the row. Where a row has several networks, it trains all of them, and `w3ray evaluate`
averages their scores. A row without a command has no recipe.

{table}

**Verified** are the multiply-adds, the parameters and the layouts of public weights, as far as tests hold them. **Not
verified** is any accuracy on the paper's data sets: their videos and the published weights are not here.
{missing}"""


def rows_of(systems: Sequence[System], *, seconds: bool = False) -> list[dict[str, Any]]:
    """Count the systems. One JSON object for each.

    Args:
        systems: whose networks are here.
        seconds: measure a forward pass and a training step on this machine, too.
    """
    return [_row(system, count(system), _seconds(system) if seconds else None) for system in systems]


def _row(system: System, cost: Cost, seconds: dict[str, Any] | None) -> dict[str, Any]:
    gmac, millions = cost.macs / 1e9, cost.parameters_published / 1e6
    row: dict[str, Any] = {
        "system": system.name,
        "tables": system.tables,
        "frames": system.frames,
        "size": system.networks[0].size,
        "classes": system.classes,
        "macs": cost.macs,
        "parameters": cost.parameters,
        "published_gmac": system.gmac,
        "published_parameters": system.parameters,
        "gmac_agrees": None if system.gmac is None else agrees(gmac, system.gmac),
        "parameters_agree": None if system.parameters is None else agrees(millions, system.parameters),
        "command": _command(system),
        "remark": _remark(system),
    }
    return row if seconds is None else {**row, **seconds}


def _command(system: System) -> str:
    from w3ray.recipe.load import known_recipes

    if system.recipe not in known_recipes():
        return ""
    return " && ".join(f"w3ray run {name}" for name in (system.recipe, *system.others))


def _remark(system: System) -> str:
    source = f"published figures: {system.source}" if system.source else ""
    return "; ".join(filter(None, (source, system.remark)))


def _seconds(system: System) -> dict[str, Any]:
    from w3ray.models.build import build_model
    from w3ray.models.timing import measure_seconds

    found = [
        measure_seconds(build_model(**one.arguments(system.classes)), one.frames, one.size) for one in system.networks
    ]
    return {
        "device": found[0].device,
        "forward_s": sum(one.forward for one in found),
        "training_step_s": sum(one.training_step for one in found),
    }


_TITLES = ("system", "tables", "frames", "side", "classes", "GMAC", "published", "M parameters", "published", "agrees")


def _cells(row: dict[str, Any]) -> list[str]:
    verdicts = [row["gmac_agrees"], row["parameters_agree"]]
    words = {(True, True): "yes", (False, False): "no", (True, False): "GMAC only", (False, True): "parameters only"}
    known = [verdict for verdict in verdicts if verdict is not None]
    agreed = words.get((verdicts[0], verdicts[1]), ("yes" if all(known) else "no") if known else "")
    return [
        row["system"], row["tables"], row["frames"], str(row["size"]), str(row["classes"]),
        f"{row['macs'] / 1e9:.2f}", row["published_gmac"] or "", f"{row['parameters'] / 1e6:.2f}",
        row["published_parameters"] or "", agreed,
    ]  # fmt: skip


def text_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table as lines of text."""
    titles, lines = list(_TITLES), [_cells(row) for row in rows]
    if rows and "forward_s" in rows[0]:
        titles += [f"forward s ({rows[0]['device']})", "training step s"]
        for line, row in zip(lines, rows, strict=True):
            line += [f"{row['forward_s']:.3f}", f"{row['training_step_s']:.3f}"]
    titles.append("remark")
    for line, row in zip(lines, rows, strict=True):
        line.append(row["remark"])
    widths = [max(len(line[column]) for line in (titles, *lines)) for column in range(len(titles))]
    left = {0, 1, 2, 9, len(titles) - 1}
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (titles, *lines)
    ]


def document(rows: Sequence[dict[str, Any]]) -> str:
    """`docs/zoo.md`."""
    titles = [*_TITLES, "command", "remark"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in rows:
        command = f"`{row['command']}`" if row["command"] else ""
        lines.append(f"| {' | '.join([*_cells(row), command, row['remark']])} |")
    left_out = [f"- {one.name}, {one.frames} frames: {one.missing}" for one in SYSTEMS if one.missing]
    missing = "\n".join(["", "Not counted, because something is not here:", "", *left_out, ""]) if left_out else ""
    return DOCUMENT.format(parameters=PARAMETERS_FROM, table="\n".join(lines), missing=missing)


def all_rows(*, seconds: bool = False) -> list[dict[str, Any]]:
    """The rows of all systems whose networks are here."""
    return rows_of(here(), seconds=seconds)

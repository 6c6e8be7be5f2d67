"""What is a section of a report, and how are its numbers and figures formatted?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from w3ray._format import METRIC_LABELS, percent
from w3ray.sweep.space import Objective

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST, GOOD, DULL, STOPPED = "#c2410c", "#1d4ed8", "#94a3b8", "#cbd5e1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page: a figure, a table and lines of text in Markdown."""

    title: str
    text: tuple[str, ...] = ()
    figure: "Figure | None" = None
    name: str = ""
    """Name of the figure's file, without its extension."""
    table: tuple[tuple[str, ...], ...] = ()
    """The first row is the header."""
    best_row: int | None = None


def label_of(objective: Objective) -> str:
    """The label that people see for a metric."""
    return METRIC_LABELS.get(objective.metric, objective.metric.replace("_", " "))


def amount(objective: Objective, value: float) -> str:
    """An objective's value as text."""
    if math.isnan(value):
        return "-"
    return percent(value) if objective.metric in METRIC_LABELS else f"{value:.4g}"


def value_text(
    objective: Objective,
    values: Sequence[float] | None,
    place: int,
    deviations: Sequence[float] | None = None,
) -> str:
    if values is None:
        return "-"
    text = amount(objective, values[place])
    return text if deviations is None else f"{text} ± {amount(objective, deviations[place])}"


def new_figure(count: int, *, height: float, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, max(1.2, height)), layout="constrained")
    rows = math.ceil(count / columns)
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#94a3b8")
        ax.tick_params(colors="#475569", labelsize=9)
        ax.xaxis.label.set_color("#475569")
        ax.yaxis.label.set_color("#475569")
    return figure, axes


def value_axis(ax: "Axes", objective: Objective) -> None:
    from matplotlib.ticker import PercentFormatter

    ax.set_ylabel(label_of(objective))
    ax.grid(axis="y", color="#e2e8f0", lw=0.8)
    ax.set_axisbelow(True)
    if objective.metric in METRIC_LABELS:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def svg(figure: "Figure") -> str:
    """The figure as an SVG element of a page."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue().partition("<svg")[2].join(["<svg", ""])

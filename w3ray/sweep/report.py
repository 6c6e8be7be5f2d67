"""What did a sweep find? A page of pictures with a ranking, as HTML (one file) and as Markdown with pictures beside it.

Made from the sweep's records alone, at any time, also while it runs.
"""

import html
import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from w3ray._format import METRIC_LABELS, duration, percent
from w3ray._text import one_line
from w3ray.errors import InputError
from w3ray.recipe import Recipe, stored_recipe
from w3ray.recipe.load import apply_override, known_recipes
from w3ray.storage import StoragePath, written_whole
from w3ray.sweep.analysis import complete_values, effect, importances, noise, savings, values_at_common_epoch
from w3ray.sweep.book import short_names, show_value
from w3ray.sweep.records import PointResult, SweepFolder, by_point, pareto_front, ranked
from w3ray.sweep.space import CASE, Objective, Point, Space, usual_stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKDOWN, HTML = "report.md", "report.html"

_BEST, _GOOD, _DULL, _STOPPED = "#c2410c", "#1d4ed8", "#94a3b8", "#cbd5e1"
_RANKING_ROWS = 15
_MOST_LABELS = 6
_MARKS = re.compile(r"[\\`*\[\]<>|$~#!&^@]|\b_|_\b|:[\w+-]+:|://|^\s*([-+=]|\d+[.)])\s")
"""What Markdown, or a page that shows it, takes for more than text."""
_BOLD_OR_CODE = re.compile(r"\*\*|(?<!`)(?P<fence>`+)(?!`)(?P<code>.+?)(?<!`)(?P=fence)(?!`)")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1e293b; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem } p.lead { color: #475569 }
table { border-collapse: collapse; font-size: .9rem } th, td { padding: .25rem .7rem; text-align: right }
th { color: #64748b; font-weight: 500; border-bottom: 1px solid #cbd5e1 } td:nth-child(2) { text-align: left }
tr.best td { color: #c2410c; font-weight: 600 } pre { background: #f1f5f9; padding: .8rem; overflow-x: auto }
svg { width: 100%; height: auto } .facts { display: flex; gap: 2.5rem; flex-wrap: wrap; margin: 1.2rem 0 }
.facts b { display: block; font-size: 1.5rem; color: #0f172a } .facts span { color: #64748b; font-size: .85rem }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    title: str
    text: tuple[str, ...] = ()
    figure: "Figure | None" = None
    name: str = ""
    table: tuple[tuple[str, ...], ...] = ()
    """Its first row is the head."""
    best_row: int | None = None


def write_report(storage: str, name: str) -> dict[str, StoragePath]:
    """Write the report of a sweep into its folder.

    Args:
        storage: of its recipe.
        name: of the sweep.

    Returns:
        The page's forms, "html" and "markdown", and the pictures.

    Raises:
        InputError: there is no such sweep, or it has no trials yet.
    """
    folder = SweepFolder(storage, name)
    document = folder.document()
    if document is None:
        known = [path.name for path in folder.sweeps.iterdir()] if folder.sweeps.is_dir() else []
        raise InputError(f"no sweep {name!r} in {folder.sweeps}; there: {', '.join(sorted(known)) or 'none'}")
    space = Space.model_validate({**document["space"], "name": name})
    points = by_point(folder.trials())
    if not points:
        raise InputError(f"sweep {name!r}: {folder.directory} has no trials yet")
    page = _Page(space, stored_recipe(document["recipe"]), points)
    files: dict[str, StoragePath] = {}
    with written_whole(folder.report, last=HTML) as local:
        local.mkdir(parents=True, exist_ok=True)
        for section in page.sections:
            if section.figure is not None:
                section.figure.savefig(local / f"{section.name}.png", dpi=130)
                files[section.name] = folder.report / f"{section.name}.png"
        (local / MARKDOWN).write_text(page.markdown(), encoding="utf-8")
        (local / HTML).write_text(page.html(), encoding="utf-8")
    return {"html": folder.report / HTML, "markdown": folder.report / MARKDOWN, **files}


class _Page:
    def __init__(self, space: Space, base: Recipe, points: Sequence[PointResult]) -> None:
        self.space, self.base, self.points = space, base, points
        self.order = ranked(points, space.objectives)
        self.names = ([CASE] if space.cases else []) + list(space.parameters)
        self.short = short_names(self.names)
        self.trials = [trial for point in points for trial in point.trials]
        self.saved = savings(self.trials)
        self.importances = importances(space, points)
        self.sections = [section for section in self._sections() if section is not None]

    @property
    def objective(self) -> Objective:
        return self.space.objectives[0]

    @property
    def label(self) -> str:
        return _label(self.objective)

    def _sections(self) -> list[_Section | None]:
        return [
            self._ranking(),
            self._front() if len(self.space.objectives) > 1 else None,
            self._importance(),
            self._slices(),
            self._curves(),
            self._cost(),
            self._failures(),
        ]

    def facts(self) -> list[tuple[str, str]]:
        """The figures of the page's head."""
        states = [trial.state for trial in self.trials]
        best = self.order[0] if self.order else None
        value = "-" if best is None else _value(self.objective, best.values, 0)
        seconds = sum(trial.seconds for trial in self.trials)
        saved = 1 - self.saved.trained / self.saved.naive if self.saved.naive else 0.0
        return [
            (value, f"best {self.label}" + ("" if best is None else f", trial {best.number:04d}")),
            (str(len(states)), "trials: " + ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states))),
            (duration(seconds), "at work, all trials together"),
            (f"{saved:.0%}", "of the naive sweep's steps saved"),
        ]

    # Sections.

    def _ranking(self) -> _Section:
        head = ("rank", "trial", "state", *map(_label, self.space.objectives), *(self.short[n] for n in self.names))
        rows = []
        for rank, point in enumerate(self.order[:_RANKING_ROWS], start=1):
            values = (_value(one, point.values, place, point.deviations)
                      for place, one in enumerate(self.space.objectives))  # fmt: skip
            given = (show_value(point.point[name]) if name in point.point else "-" for name in self.names)
            rows.append((str(rank), f"{point.number:04d}", point.state, *values, *given))
        text = []
        spread = noise(self.points)
        if self.space.search.repeats > 1 and spread is not None:
            text.append(
                f"Means of up to {self.space.search.repeats} runs with other seeds. One run's standard deviation is "
                f"{_amount(self.objective, spread)}: differences of less than about "
                f"{_amount(self.objective, 2 * spread)} between two single runs are noise."
            )
        else:
            text.append(
                "Each point was run once: how much of a difference is chance is not known. `search.repeats` runs "
                "points with several seeds."
            )
        if any(point.state == "stopped" for point in self.order[:_RANKING_ROWS]):
            text.append("Stopped trials stand below whole ones: theirs is the best value until they were stopped.")
        if len(self.order) > _RANKING_ROWS:
            text.append(f"And {len(self.order) - _RANKING_ROWS} more.")
        return _Section(title="Ranking", text=tuple(text), table=(head, *rows), best_row=0 if rows else None)

    def _importance(self) -> _Section | None:
        complete, early = complete_values(self.points), values_at_common_epoch(self.points)
        lines = []
        if early is not None:
            lines.append(
                f"Of {len(complete)} trials that ran to their end, and of all {len(early[1])} after {early[0]} epochs, "
                "when none had been stopped:"
            )
        for name in self.names:
            text = f"**{_span(self.short[name])}**: {self._effect(name, complete)}"
            if early is not None:
                text += f" After {early[0]} epochs: {self._effect(name, early[1])}"
            lines.append(text)
        if len(self.names) > 1:
            lines.append("p-values are not corrected for the number of parameters.")
        if not self.importances:
            return _Section(title="What matters", text=("Too few complete trials to rank the parameters.", *lines))
        figure, axes = _figure(1, height=0.5 + 0.42 * len(self.importances))
        shown = list(reversed(self.importances.items()))
        colors = [_GOOD if place == len(shown) - 1 else _DULL for place in range(len(shown))]
        axes[0].barh([self.short[name] for name, _ in shown], [share for _, share in shown], color=colors)
        for place, (_, share) in enumerate(shown):
            axes[0].text(share, place, f" {share:.0%}", va="center", fontsize=9, color="#475569")
        axes[0].set_xlim(0, 1.12 * max(self.importances.values()))
        axes[0].set_xticks([])
        axes[0].set_xlabel(f"share of the variance of {self.label} that a forest explains (fANOVA)")
        axes[0].spines["bottom"].set_visible(False)
        return _Section(title="What matters", text=tuple(lines), figure=figure, name="importance")

    def _effect(self, name: str, values: Sequence[tuple[Point, float]]) -> str:
        found = effect(name, values)
        groups = "; ".join(
            f"{_span(label)}: {_amount(self.objective, mean)} ({count})" for label, count, mean, _ in found.groups
        )
        return f"{_span(found.verdict)}. Means: {groups or 'none'}."

    def _slices(self) -> _Section | None:
        names = [
            name for name in self.names if len({show_value(p.point[name]) for p in self.order if name in p.point}) > 1
        ]
        if not names or not self.order:
            return None
        columns = min(3, len(names))
        figure, axes = _figure(len(names), columns=columns, height=2.7 * math.ceil(len(names) / columns))
        for name, ax in zip(names, axes, strict=False):
            self._slice(ax, name)
        return _Section(
            title="Each parameter",
            text=("A dot a point: filled ones ran to their end, hollow ones were stopped; the best one is marked.",),
            figure=figure,
            name="slices",
        )

    def _slice(self, ax: "Axes", name: str) -> None:
        having = [point for point in self.order if name in point.point]
        values = [point.point[name] for point in having]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if numbers:
            xs = [float(value) for value in values]
            if name in self.space.parameters and self.space.parameters[name].loguniform is not None:
                ax.set_xscale("log")
            elif len(set(values)) <= _MOST_LABELS:
                ax.set_xticks(sorted(set(xs)), [show_value(value) for value in sorted(set(values))])
        else:
            known = list(dict.fromkeys(show_value(value) for value in values))
            xs = [float(known.index(show_value(value))) for value in values]
            ax.set_xticks(range(len(known)), [one_line(text)[:14] for text in known], parse_math=False)
            ax.set_xlim(-0.5, len(known) - 0.5)
        best = self.order[0].number
        for x, point in zip(xs, having, strict=True):
            assert point.values is not None
            color = _BEST if point.number == best else _GOOD
            face = color if point.complete else "none"
            ax.scatter([x], [point.values[0]], s=34, facecolors=face, edgecolors=color, linewidths=1.1, alpha=0.8)
        ax.set_xlabel(self.short[name])
        _value_axis(ax, self.objective)

    def _front(self) -> _Section | None:
        first, second = self.space.objectives[:2]
        valued = [point for point in self.order if point.values is not None and not math.isnan(point.values[1])]
        if not valued:
            return None
        front = sorted(pareto_front(self.points, self.space.objectives), key=lambda point: (point.values or (0, 0))[1])
        figure, axes = _figure(1, height=3.6)
        ax = axes[0]
        members = {point.number for point in front}
        for point in valued:
            assert point.values is not None
            color = _BEST if point.number in members else _DULL
            ax.scatter([point.values[1]], [point.values[0]], s=40, color=color, alpha=0.9)
        ax.plot([p.values[1] for p in front if p.values], [p.values[0] for p in front if p.values], color=_BEST, lw=1)
        for point in front[:8]:
            assert point.values is not None
            ax.annotate(f"{point.number:04d}", (point.values[1], point.values[0]), xytext=(5, 4),
                        textcoords="offset points", fontsize=8, color="#475569")  # fmt: skip
        ax.set_xlabel(_label(second))
        _value_axis(ax, first)
        text = "Marked: points that no other one beats in one objective without losing in another."
        return _Section(title="Pareto front", text=(text,), figure=figure, name="pareto")

    def _curves(self) -> _Section | None:
        from matplotlib.ticker import MaxNLocator

        with_curve = [trial for trial in self.trials if trial.reports]
        if not with_curve:
            return None
        figure, axes = _figure(1, height=3.4)
        ax = axes[0]
        places = {point.number: place for place, point in enumerate(self.order)}
        for trial in sorted(with_curve, key=lambda one: -places.get(one.number, len(places))):
            place = places.get(trial.number, len(places))
            color = _BEST if place == 0 else _GOOD if place <= 2 else _DULL
            epochs = [report.epoch for report in trial.reports]
            values = [report.metrics.get(self.objective.metric, math.nan) for report in trial.reports]
            ax.plot(epochs, values, color=color, lw=2.0 if place == 0 else 1.1, alpha=1.0 if place <= 2 else 0.6)
            if trial.state == "stopped":
                ax.plot(epochs[-1:], values[-1:], marker="x", color=color, ms=6)
            if place == 0 and trial.repeat == 0:
                ax.annotate(f" {trial.id}", (epochs[-1], values[-1]), color=color, fontsize=9, va="center")
        ax.set_xlabel(f"epoch of {usual_stage(self.space, self.base).name}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _value_axis(ax, self.objective)
        text = "Orange the best trial, blue the two after it; a cross where a trial was stopped."
        return _Section(title="Learning curves", text=(text,), figure=figure, name="curves")

    def _cost(self) -> _Section | None:
        saved = self.saved
        if not saved.naive:
            return None
        figure, axes = _figure(1, height=1.5)
        ax = axes[0]
        left = 0
        for steps, color, label in (
            (saved.trained, _GOOD, "trained"),
            (saved.shared, "#16a34a", "shared"),
            (saved.stopped, _STOPPED, "not needed"),
        ):
            if steps:
                ax.barh([0], [steps], left=left, color=color)
                ax.text(left + steps / 2, 0, f"{label}\n{steps}", ha="center", va="center", fontsize=9,
                        color="white" if color != _STOPPED else "#334155")  # fmt: skip
                left += steps
        ax.set_yticks([])
        ax.set_xlim(0, saved.naive)
        ax.set_xlabel("optimiser steps; the whole bar is what the same trials cost each on its own")
        taken = sum(stage.state == "reuse" for trial in self.trials for stage in trial.stages)
        trained = {stage.identity for trial in self.trials for stage in trial.stages if stage.steps and stage.identity}
        text = (
            f"{saved.trained} steps were trained of {saved.naive} that the same trials would cost one by one "
            f"({saved.trained / saved.naive:.0%}). {taken} stages were taken over from another trial instead of "
            f"trained again; {len(trained)} finished ones were trained. {saved.stopped} steps were not needed, because "
            "trials were stopped early, failed or have not ended."
        )
        return _Section(title="What sharing and stopping saved", text=(text,), figure=figure, name="cost")

    def _failures(self) -> _Section | None:
        rows = [(trial.id, trial.state, trial.reason) for trial in self.trials if trial.state in ("failed", "skipped")]
        if not rows:
            return None
        return _Section(title="Trials without a result", table=(("trial", "state", "reason"), *rows))

    # Forms.

    def lead(self) -> str:
        about = f"{self.space.description} " if self.space.description else ""
        return (
            f"{about}Recipe {self.base.name}, searcher {self.space.search.searcher}, scheduler "
            f"{self.space.scheduling.scheduler}, seed {self.space.search.seed}."
        )

    def command(self) -> str:
        """What runs the best point as a plain recipe."""
        if not self.order:
            return ""
        settings = {**self.space.fixed, **self.space.cases.get(self.order[0].point.get(CASE, ""), {})}
        settings |= {name: value for name, value in self.order[0].point.items() if name != CASE}
        options = [f"--set {shlex.quote(f'{name}={_yaml(value)}')}" for name, value in settings.items()]
        recipe = self.base.name if self.base.name in known_recipes() else "RECIPE.yaml"
        return " \\\n  ".join([f"w3ray run {recipe}", *options])

    def markdown(self) -> str:
        lines = [f"# Sweep {self.space.name}", "", _span(self.lead()), ""]
        lines += [f"- **{value}** {what}" for value, what in self.facts()]
        for section in self.sections:
            lines += ["", f"## {section.title}", ""]
            if section.figure is not None:
                lines += [f"![{section.title}]({section.name}.png)", ""]
            if section.table:
                head, *rows = section.table
                lines += [_row(head), _row(["---"] * len(head)), *map(_row, rows), ""]
            lines += [f"- {text}" if len(section.text) > 1 else text for text in section.text]
        if command := self.command():
            fence = _fence(command, least=3)
            lines += ["", "## The best point as a plain run", "", fence, command, fence]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        parts = [f"<h1>Sweep {html.escape(self.space.name)}</h1><p class=lead>{html.escape(one_line(self.lead()))}</p>"]
        facts = "".join(f"<div><b>{html.escape(v)}</b><span>{html.escape(w)}</span></div>" for v, w in self.facts())
        parts.append(f"<div class=facts>{facts}</div>")
        for section in self.sections:
            parts.append(f"<h2>{html.escape(section.title)}</h2>")
            if section.figure is not None:
                parts.append(_svg(section.figure))
            if section.table:
                parts.append(_html_table(section))
            parts += [f"<p>{_html_text(text)}</p>" for text in section.text]
        if command := self.command():
            parts.append(f"<h2>The best point as a plain run</h2><pre>{html.escape(command)}</pre>")
        title = html.escape(f"Sweep {self.space.name}")
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
            f"<body>{''.join(parts)}</body></html>\n"
        )


def _label(objective: Objective) -> str:
    return METRIC_LABELS.get(objective.metric, objective.metric.replace("_", " "))


def _amount(objective: Objective, value: float) -> str:
    if math.isnan(value):
        return "-"
    return percent(value) if objective.metric in METRIC_LABELS else f"{value:.4g}"


def _value(
    objective: Objective,
    values: Sequence[float] | None,
    place: int,
    deviations: Sequence[float] | None = None,
) -> str:
    if values is None:
        return "-"
    text = _amount(objective, values[place])
    return text if deviations is None else f"{text} ± {_amount(objective, deviations[place])}"


def _yaml(value: Any) -> str:
    """A value on one line of YAML; a text without quotes where it is read as the same text."""
    if not isinstance(value, str):
        return json.dumps(value)
    read: dict[str, Any] = {}
    try:
        apply_override(read, f"value={value}")
    except InputError:
        return json.dumps(value)
    return value if read["value"] == value and one_line(value) == value else json.dumps(value)


def _span(text: str) -> str:
    """What a user may have given, for Markdown: as code where it could mean something there."""
    text = one_line(text)
    if not _MARKS.search(text):
        return text
    fence = _fence(text)
    return f"{fence} {text} {fence}"


def _fence(text: str, least: int = 1) -> str:
    """More backticks than `text` has in a row."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_span(cell).replace("|", "\\|") for cell in cells) + " |"


def _html_table(section: _Section) -> str:
    head, *rows = section.table
    body = "".join(
        f"<tr{' class=best' if place == section.best_row else ''}>"
        + "".join(f"<td>{html.escape(one_line(cell))}</td>" for cell in row)
        + "</tr>"
        for place, row in enumerate(rows)
    )
    return f"<table><tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>{body}</table>"


def _html_text(text: str) -> str:
    """Markdown's bold and code, in HTML. What a user gave and could be taken for either is code: see `_span`."""
    pieces, end, is_bold = [], 0, False
    for mark in _BOLD_OR_CODE.finditer(text):
        pieces.append(html.escape(text[end : mark.start()]))
        if mark["code"]:
            pieces.append(f"<code>{html.escape(mark['code'].strip(' '))}</code>")
        else:
            pieces.append("</b>" if is_bold else "<b>")
            is_bold = not is_bold
        end = mark.end()
    return "".join([*pieces, html.escape(text[end:])])


def _figure(count: int, *, height: float, columns: int = 1) -> "tuple[Figure, list[Axes]]":
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


def _value_axis(ax: "Axes", objective: Objective) -> None:
    from matplotlib.ticker import PercentFormatter

    ax.set_ylabel(_label(objective))
    ax.grid(axis="y", color="#e2e8f0", lw=0.8)
    ax.set_axisbelow(True)
    if objective.metric in METRIC_LABELS:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _svg(figure: "Figure") -> str:
    """The picture as a part of a page."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue().partition("<svg")[2].join(["<svg", ""])

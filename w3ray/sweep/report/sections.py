"""The sections of a report. Each one is a function of the findings; None: there is nothing to show."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from w3ray._text import one_line
from w3ray.sweep.analysis import complete_values, effect, noise, values_at_common_epoch
from w3ray.sweep.book import show_value
from w3ray.sweep.records import pareto_front
from w3ray.sweep.report.findings import Findings
from w3ray.sweep.report.markup import span
from w3ray.sweep.report.section import (
    BEST,
    DULL,
    GOOD,
    STOPPED,
    Section,
    amount,
    label_of,
    new_figure,
    value_axis,
    value_text,
)
from w3ray.sweep.space import Point, usual_stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RANKING_ROWS = 15
_MOST_LABELS = 6


def ranking(found: Findings) -> Section:
    """The best points, and how large the differences are that chance can explain."""
    head = ("rank", "trial", "state", *map(label_of, found.space.objectives), *(found.short[n] for n in found.names))
    rows = []
    for rank, point in enumerate(found.order[:_RANKING_ROWS], start=1):
        values = (value_text(one, point.values, place, point.deviations)
                  for place, one in enumerate(found.space.objectives))  # fmt: skip
        given = (show_value(point.point[name]) if name in point.point else "-" for name in found.names)
        rows.append((str(rank), f"{point.number:04d}", point.state, *values, *given))
    text = []
    spread = noise(found.points)
    if found.space.search.repeats > 1 and spread is not None:
        text.append(
            f"Means of up to {found.space.search.repeats} runs with different seeds. One run's standard deviation is "
            f"{amount(found.objective, spread)}: differences of less than about "
            f"{amount(found.objective, 2 * spread)} between two single runs are noise."
        )
    else:
        text.append(
            "Each point was run once, so it is not known how much of a difference is chance. `search.repeats` runs "
            "points with several seeds."
        )
    if any(point.state == "stopped" for point in found.order[:_RANKING_ROWS]):
        text.append("Stopped trials are listed below complete ones; their value is the best before the stop.")
    if len(found.order) > _RANKING_ROWS:
        text.append(f"And {len(found.order) - _RANKING_ROWS} more.")
    return Section(title="Ranking", text=tuple(text), table=(head, *rows), best_row=0 if rows else None)


def front(found: Findings) -> Section | None:
    """The Pareto front, if there are several objectives."""
    if len(found.space.objectives) < 2:
        return None
    first, second = found.space.objectives[:2]
    valued = [point for point in found.order if point.values is not None and not math.isnan(point.values[1])]
    if not valued:
        return None
    best = sorted(pareto_front(found.points, found.space.objectives), key=lambda point: (point.values or (0, 0))[1])
    figure, axes = new_figure(1, height=3.6)
    ax = axes[0]
    members = {point.number for point in best}
    for point in valued:
        assert point.values is not None
        color = BEST if point.number in members else DULL
        ax.scatter([point.values[1]], [point.values[0]], s=40, color=color, alpha=0.9)
    ax.plot([p.values[1] for p in best if p.values], [p.values[0] for p in best if p.values], color=BEST, lw=1)
    for point in best[:8]:
        assert point.values is not None
        ax.annotate(f"{point.number:04d}", (point.values[1], point.values[0]), xytext=(5, 4),
                    textcoords="offset points", fontsize=8, color="#475569")  # fmt: skip
    ax.set_xlabel(label_of(second))
    value_axis(ax, first)
    text = "Marked: points that no other point beats in one objective without being worse in another."
    return Section(title="Pareto front", text=(text,), figure=figure, name="pareto")


def importance(found: Findings) -> Section | None:
    """Which parameters matter."""
    complete, early = complete_values(found.points), values_at_common_epoch(found.points)
    lines = []
    if early is not None:
        lines.append(
            f"From the {len(complete)} trials that ran to the end, and from all {len(early[1])} after {early[0]} "
            "epochs, before any trial was stopped:"
        )
    for name in found.names:
        text = f"**{span(found.short[name])}**: {_effect(found, name, complete)}"
        if early is not None:
            text += f" After {early[0]} epochs: {_effect(found, name, early[1])}"
        lines.append(text)
    if len(found.names) > 1:
        lines.append("p-values are not corrected for the number of parameters.")
    if not found.importances:
        return Section(title="What matters", text=("Too few complete trials to rank the parameters.", *lines))
    figure, axes = new_figure(1, height=0.5 + 0.42 * len(found.importances))
    shown = list(reversed(found.importances.items()))
    colors = [GOOD if place == len(shown) - 1 else DULL for place in range(len(shown))]
    axes[0].barh([found.short[name] for name, _ in shown], [share for _, share in shown], color=colors)
    for place, (_, share) in enumerate(shown):
        axes[0].text(share, place, f" {share:.0%}", va="center", fontsize=9, color="#475569")
    axes[0].set_xlim(0, 1.12 * max(found.importances.values()))
    axes[0].set_xticks([])
    axes[0].set_xlabel(f"share of the variance of {found.label} that a forest explains (fANOVA)")
    axes[0].spines["bottom"].set_visible(False)
    return Section(title="What matters", text=tuple(lines), figure=figure, name="importance")


def _effect(found: Findings, name: str, values: Sequence[tuple[Point, float]]) -> str:
    its = effect(name, values)
    groups = "; ".join(
        f"{span(label)}: {amount(found.objective, mean)} ({count})" for label, count, mean, _ in its.groups
    )
    return f"{span(its.verdict)}. Means: {groups or 'none'}."


def slices(found: Findings) -> Section | None:
    """The objective over each parameter."""
    names = [
        name for name in found.names if len({show_value(p.point[name]) for p in found.order if name in p.point}) > 1
    ]
    if not names or not found.order:
        return None
    columns = min(3, len(names))
    figure, axes = new_figure(len(names), columns=columns, height=2.7 * math.ceil(len(names) / columns))
    for name, ax in zip(names, axes, strict=False):
        _slice(found, ax, name)
    return Section(
        title="Each parameter",
        text=("One dot per point: filled dots ran to the end, hollow dots were stopped; the best one is marked.",),
        figure=figure,
        name="slices",
    )


def _slice(found: Findings, ax: "Axes", name: str) -> None:
    having = [point for point in found.order if name in point.point]
    values = [point.point[name] for point in having]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numbers:
        xs = [float(value) for value in values]
        if name in found.space.parameters and found.space.parameters[name].loguniform is not None:
            ax.set_xscale("log")
        elif len(set(values)) <= _MOST_LABELS:
            ax.set_xticks(sorted(set(xs)), [show_value(value) for value in sorted(set(values))])
    else:
        known = list(dict.fromkeys(show_value(value) for value in values))
        xs = [float(known.index(show_value(value))) for value in values]
        ax.set_xticks(range(len(known)), [one_line(text)[:14] for text in known], parse_math=False)
        ax.set_xlim(-0.5, len(known) - 0.5)
    best = found.order[0].number
    for x, point in zip(xs, having, strict=True):
        assert point.values is not None
        color = BEST if point.number == best else GOOD
        face = color if point.complete else "none"
        ax.scatter([x], [point.values[0]], s=34, facecolors=face, edgecolors=color, linewidths=1.1, alpha=0.8)
    ax.set_xlabel(found.short[name])
    value_axis(ax, found.objective)


def curves(found: Findings) -> Section | None:
    """The objective over the epochs of each trial."""
    from matplotlib.ticker import MaxNLocator

    with_curve = [trial for trial in found.trials if trial.reports]
    if not with_curve:
        return None
    figure, axes = new_figure(1, height=3.4)
    ax = axes[0]
    places = {point.number: place for place, point in enumerate(found.order)}
    for trial in sorted(with_curve, key=lambda one: -places.get(one.number, len(places))):
        place = places.get(trial.number, len(places))
        color = BEST if place == 0 else GOOD if place <= 2 else DULL
        epochs = [report.epoch for report in trial.reports]
        values = [report.metrics.get(found.objective.metric, math.nan) for report in trial.reports]
        ax.plot(epochs, values, color=color, lw=2.0 if place == 0 else 1.1, alpha=1.0 if place <= 2 else 0.6)
        if trial.state == "stopped":
            ax.plot(epochs[-1:], values[-1:], marker="x", color=color, ms=6)
        if place == 0 and trial.repeat == 0:
            ax.annotate(f" {trial.id}", (epochs[-1], values[-1]), color=color, fontsize=9, va="center")
    ax.set_xlabel(f"epoch of {usual_stage(found.space, found.base).name}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    value_axis(ax, found.objective)
    text = "Orange: the best trial. Blue: the next two. A cross marks where a trial was stopped."
    return Section(title="Learning curves", text=(text,), figure=figure, name="curves")


def cost(found: Findings) -> Section | None:
    """How many steps were saved by sharing stages and by stopping trials."""
    saved = found.saved
    if not saved.naive:
        return None
    figure, axes = new_figure(1, height=1.5)
    ax = axes[0]
    left = 0
    for steps, color, label in (
        (saved.trained, GOOD, "trained"),
        (saved.shared, "#16a34a", "shared"),
        (saved.stopped, STOPPED, "not needed"),
    ):
        if steps:
            ax.barh([0], [steps], left=left, color=color)
            ax.text(left + steps / 2, 0, f"{label}\n{steps}", ha="center", va="center", fontsize=9,
                    color="white" if color != STOPPED else "#334155")  # fmt: skip
            left += steps
    ax.set_yticks([])
    ax.set_xlim(0, saved.naive)
    ax.set_xlabel("optimiser steps; the whole bar is the cost of the same trials without sharing")
    taken = sum(stage.state == "reuse" for trial in found.trials for stage in trial.stages)
    trained = {stage.identity for trial in found.trials for stage in trial.stages if stage.steps and stage.identity}
    text = (
        f"{saved.trained} steps were trained; the same trials would cost {saved.naive} steps without sharing "
        f"({saved.trained / saved.naive:.0%}). {taken} stages were reused from another trial instead of "
        f"trained again; {len(trained)} finished stages were trained. {saved.stopped} steps were not needed, because "
        "trials were stopped early, failed or have not ended."
    )
    return Section(title="What sharing and stopping saved", text=(text,), figure=figure, name="cost")


def failures(found: Findings) -> Section | None:
    """The trials without a result, and why."""
    rows = [(trial.id, trial.state, trial.reason) for trial in found.trials if trial.state in ("failed", "skipped")]
    if not rows:
        return None
    return Section(title="Trials without a result", table=(("trial", "state", "reason"), *rows))


SECTIONS: tuple[Callable[[Findings], Section | None], ...] = (
    ranking,
    front,
    importance,
    slices,
    curves,
    cost,
    failures,
)
"""In the report's order."""

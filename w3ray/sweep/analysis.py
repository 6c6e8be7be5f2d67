"""What does a sweep say about each parameter, how certain is it, and what did sharing and stopping save?"""

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from w3ray.sweep.book import show_value
from w3ray.sweep.records import PointResult, Trial
from w3ray.sweep.space import CASE, Point, Space

_LEAST_POINTS = 6
"""With fewer points nothing can be said about a parameter's importance."""
_ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One parameter's effect on the first objective, over the points that have the parameter."""

    name: str
    points: int
    groups: tuple[tuple[str, int, float, float], ...]
    """(value or range, points, mean, standard deviation) for each category or each half of a range."""
    statistic: str
    """The test: "Spearman" (rank correlation, for numbers) or "Kruskal-Wallis" (for categories)."""
    correlation: float | None
    p_value: float | None
    """Null hypothesis: no effect. None if there are too few points. Not corrected for the number of parameters."""

    @property
    def verdict(self) -> str:
        """A sentence for people."""
        if self.p_value is None:
            return f"{self.points} points: too few for a conclusion"
        sure = f"{self.statistic}, p = {self.p_value:.2g}, {self.points} points"
        if self.p_value >= _ALPHA:
            return f"no significant effect ({sure})"
        best = max(self.groups, key=lambda group: group[2]) if self.groups else None
        how = f"rank correlation {self.correlation:+.2f}" if self.correlation is not None else ""
        most = f"highest mean at {best[0]}" if best is not None else ""
        return f"{', '.join(filter(None, (how, most)))} ({sure})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """Optimiser steps of a sweep, compared with the same trials if each were trained fully and separately."""

    naive: int
    trained: int
    shared: int
    """Steps of stages that were reused from another trial."""

    @property
    def stopped(self) -> int:
        """Steps not trained because trials were stopped, failed, or have not ended."""
        return max(0, self.naive - self.trained - self.shared)


def savings(trials: Sequence[Trial]) -> Savings:
    """The steps that were trained, and those that separate trials would have needed."""
    valid = [trial for trial in trials if trial.state != "skipped"]
    totals: dict[str, int] = {}
    for trial in valid:
        for stage in trial.stages:
            totals[stage.name] = max(totals.get(stage.name, 0), stage.total_steps)
    naive = trained = shared = 0
    for trial in valid:
        mine = {stage.name: stage for stage in trial.stages}
        naive += sum(mine[name].total_steps if name in mine else total for name, total in totals.items())
        trained += sum(stage.steps for stage in mine.values())
        shared += sum(stage.total_steps for stage in mine.values() if stage.state == "reuse")
    return Savings(naive=naive, trained=trained, shared=shared)


def importances(space: Space, points: Sequence[PointResult]) -> dict[str, float]:
    """Each parameter's share of the variance that a forest explains (fANOVA, Hutter et al., ICML 2014), largest first.

    Empty if there are too few complete points, or if all have the same value.
    """
    complete = [point for point in points if point.complete and point.values is not None]
    values = [point.values[0] for point in complete if point.values is not None]
    if len(complete) < _LEAST_POINTS or len(set(values)) < 2 or any(map(math.isnan, values)):
        return {}
    names = [name for name in ([CASE] if space.cases else []) + list(space.parameters)
             if all(name in point.point for point in complete)]  # fmt: skip
    names = [name for name in names if len({show_value(point.point[name]) for point in complete}) > 1]
    if not names:
        return {}
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize" if space.objectives[0].lower_is_better else "maximize")
    distributions: dict[str, Any] = {}
    columns: dict[str, list[Any]] = {}
    for name in names:
        column = [point.point[name] for point in complete]
        if _is_number(column):
            least, most = min(column), max(column)
            log = name in space.parameters and space.parameters[name].loguniform is not None
            distributions[name] = FloatDistribution(float(least), float(most), log=log)
            columns[name] = [float(value) for value in column]
        else:
            columns[name] = [show_value(value) for value in column]
            distributions[name] = CategoricalDistribution(sorted(set(columns[name])))
    for place, value in enumerate(values):
        params = {name: columns[name][place] for name in names}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    return {name: float(share) for name, share in found.items()}


def complete_values(points: Sequence[PointResult]) -> list[tuple[Point, float]]:
    """(point, first objective) of the points that ran to the end."""
    return [
        (point.point, point.values[0])
        for point in points
        if point.complete and point.values is not None and not math.isnan(point.values[0])
    ]


def values_at_common_epoch(points: Sequence[PointResult]) -> tuple[int, list[tuple[Point, float]]] | None:
    """(epoch, [(point, best first objective until that epoch), ...]); None: no point was stopped.

    Only points that reached the epoch are included. The points that a scheduler lets run to the end are few, and they
    are a biased selection. Up to the first epoch at which it stops a trial, all trials are comparable.
    """
    tried = [[trial for trial in point.trials if trial.reports] for point in points]
    if not any(trial.state == "stopped" for trials in tried for trial in trials):
        return None
    epoch = min(trial.reports[-1].epoch for trials in tried for trial in trials)
    values = []
    for point, trials in zip(points, tried, strict=True):
        best = [max((one for one in trial.reports if one.epoch <= epoch), key=lambda one: one.epoch).best
                for trial in trials if trial.reports[0].epoch <= epoch]  # fmt: skip
        if best and not any(map(math.isnan, best)):
            values.append((point.point, statistics.fmean(best)))
    return epoch, values


def effect(name: str, values: Sequence[tuple[Point, float]]) -> Effect:
    """What (point, first objective) pairs say about one parameter."""
    from scipy import stats

    pairs = [(point[name], value) for point, value in values if name in point]
    given, reached = [value for value, _ in pairs], [value for _, value in pairs]
    number = bool(given) and _is_number(given)
    distinct = sorted(set(given)) if number else sorted({show_value(value) for value in given})
    groups: dict[str, list[float]] = {}
    if number and len(distinct) > 5:
        middle = statistics.median(given)
        for value, score in pairs:
            half = f"up to {show_value(middle)}" if value <= middle else f"above {show_value(middle)}"
            groups.setdefault(half, []).append(score)
    else:
        for value, score in sorted(pairs, key=lambda pair: (pair[0] if number else 0, show_value(pair[0]))):
            groups.setdefault(show_value(value), []).append(score)
    p_value = correlation = None
    if len(pairs) >= _LEAST_POINTS and len(distinct) > 1 and len(set(reached)) > 1:
        if number:
            result = stats.spearmanr(given, reached)
            correlation, p_value = float(result.statistic), float(result.pvalue)
        else:
            p_value = float(stats.kruskal(*groups.values()).pvalue)
    return Effect(
        name=name,
        points=len(pairs),
        groups=tuple(
            (label, len(scores), statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else math.nan)
            for label, scores in groups.items()
        ),
        statistic="Spearman" if number else "Kruskal-Wallis",
        correlation=correlation,
        p_value=None if p_value is None or np.isnan(p_value) else p_value,
    )


def noise(points: Sequence[PointResult]) -> float | None:
    """Standard deviation between runs of a point with different seeds, pooled over points; None without repeats."""
    groups = [
        [trial.values[0] for trial in point.trials if trial.values is not None and trial.state == "finished"]
        for point in points
    ]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        return None
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in groups)
    return math.sqrt(squares / sum(len(group) - 1 for group in groups))


def _is_number(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

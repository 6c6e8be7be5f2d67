"""How certain is an accuracy? Is one model better than another on the same clips? Are scores calibrated?

Letters: N clips, K classes, G units that are resampled (clips, or groups of clips), R resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000
_AT_ONCE = 1 << 22
"""The maximum number of drawn indices in memory at once."""


def bootstrap_interval(
    values_N: np.ndarray,
    groups_N: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap percentile interval of the mean of `values_N` (Efron & Tibshirani, 1993, section 13.3).

    Clips of the same person or scene are not independent; for such data the interval is too narrow. With `groups_N`,
    whole groups are resampled instead of clips (Davison & Hinkley, 1997, section 3.8). With only a few groups the
    interval still says little.

    Raises:
        ValueError: there are no values, or the number of groups differs from the number of values.
    """
    values_N = np.asarray(values_N, dtype=np.float64)
    if not len(values_N):
        raise ValueError("no clip was scored, so there is no interval")
    if groups_N is not None and len(groups_N) != len(values_N):
        raise ValueError(f"{len(groups_N)} groups for {len(values_N)} clips")
    drawn_N = np.arange(len(values_N)) if groups_N is None else np.unique(groups_N, return_inverse=True)[1]
    sum_G, count_G = np.bincount(drawn_N, values_N), np.bincount(drawn_N)
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // len(sum_G))
    means = []
    for done in range(0, resamples, at_once):
        again_RG = rng.integers(len(sum_G), size=(min(at_once, resamples - done), len(sum_G)))
        means.append(sum_G[again_RG].sum(1) / count_G[again_RG].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def accuracy_interval(right_N: np.ndarray, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """`bootstrap_interval` of an accuracy. If all clips are right, or none: the exact binomial interval.

    In these two cases the bootstrap interval has length 0, however few clips there are. The exact interval is that of
    Clopper & Pearson (Biometrika 1934).

    Raises:
        ValueError: there are no clips.
    """
    right_N = np.asarray(right_N, dtype=bool)
    if not len(right_N) or not (right_N.all() or not right_N.any()):
        return bootstrap_interval(right_N, level=level, seed=seed)
    reach = ((1 - level) / 2) ** (1 / len(right_N))
    return (reach, 1.0) if right_N.all() else (0.0, 1 - reach)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Clips in bins of the best score: `count`, mean `confidence` and `accuracy` of each bin (nan for an empty bin)."""

    edges: tuple[float, ...]
    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def expected_error(self) -> float:
        """Mean gap between confidence and accuracy (Naeini et al., "Obtaining Well Calibrated Probabilities", 2015)."""
        total = sum(self.count)
        gaps = zip(self.count, self.confidence, self.accuracy, strict=True)
        return sum(count / total * abs(sure - right) for count, sure, right in gaps if count)


def calibration(scores_NK: np.ndarray, labels_N: np.ndarray, *, bins: int = 15) -> Calibration:
    """How often the best class is right, in bins of its score. Rows that are not finite are ignored.

    Raises:
        ValueError: no row is finite.
    """
    sure_N = np.where(np.isfinite(scores_NK).all(1), scores_NK.max(1), np.nan)
    return calibration_of(sure_N, scores_NK.argmax(1) == labels_N, bins=bins)


def calibration_of(sure_N: np.ndarray, right_N: np.ndarray, *, bins: int = 15) -> Calibration:
    """`calibration` from the confidence of each answer, in [0, 1], and whether it is right.

    Values of confidence that are not finite are ignored.

    Raises:
        ValueError: no confidence is finite.
    """
    finite_N = np.isfinite(sure_N)
    if not finite_N.any():
        raise ValueError("no clip has finite scores")
    sure_N, right_N = sure_N[finite_N], right_N[finite_N]
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_N = np.clip(np.searchsorted(edges, sure_N, side="left") - 1, 0, bins - 1)
    count = np.bincount(bin_N, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bin_N, sure_N, minlength=bins) / count
        accuracy = np.bincount(bin_N, right_N, minlength=bins) / count
    return Calibration(
        edges=tuple(edges.tolist()),
        count=tuple(count.tolist()),
        confidence=tuple(confidence.tolist()),
        accuracy=tuple(accuracy.tolist()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Two models on the same N clips. `difference` is second minus first, with its bootstrap interval."""

    only_first: int
    """Clips that only the first model has right."""
    only_second: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    """Two-sided p value of the exact McNemar test: the probability that chance alone divides the clips on which the two
    models differ at least this unevenly."""


def paired_difference(
    first_right_N: np.ndarray, second_right_N: np.ndarray, groups_N: Sequence[str] | None = None, *, seed: int = 0
) -> PairedDifference:
    """Is the second model better than the first? (McNemar, Psychometrika 1947; the exact binomial form.)

    `groups_N` is only for the interval, as in `bootstrap_interval`. The p value always treats clips as independent.

    Raises:
        ValueError: the numbers of clips differ, or there are no clips.
    """
    first, second = np.asarray(first_right_N, dtype=bool), np.asarray(second_right_N, dtype=bool)
    if first.shape != second.shape or not len(first):
        raise ValueError(f"need the same clips for both models, got {first.shape} and {second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    per_clip_N = second.astype(np.float64) - first
    return PairedDifference(
        only_first=only_first,
        only_second=only_second,
        difference=float(per_clip_N.mean()),
        interval=bootstrap_interval(per_clip_N, groups_N, seed=seed),
        p_value=_binomial_p(only_first, only_first + only_second),
    )


def _binomial_p(hits: int, trials: int) -> float:
    """Two-sided p value of `hits` in `trials` fair draws."""
    few = min(hits, trials - hits)
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) - trials * math.log(2)
        for k in range(few + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))

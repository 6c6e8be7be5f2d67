"""How certain is a mean average precision, and is that of one model higher than that of another on the same clips?

The clips are resampled, and the mean average precision is computed for each resample (Efron & Tibshirani, 1993, section
13.3). A clip that is drawn twice counts twice; nothing is sorted again.

Letters: N clips, K classes, M models, R resamples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
_AT_ONCE = 1 << 21
"""The maximum number of weights in memory at once."""


def resampled_maps(
    scores_MNK: Sequence[np.ndarray], has_NK: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Average precisions of the clips themselves, float64 [M, K], and mean average precisions of resamples, [R, M].

    A resample has the same clips for all models. Its mean is over the classes that its clips have. Average precisions
    are nan for classes without clips.

    Args:
        scores_MNK: the scores of each model.
        has_NK: bool, which classes the clips have.

    Raises:
        ValueError: no clip has a class.
    """
    num_clips = len(has_NK)
    if not has_NK.any():
        raise ValueError("no clip has a class, so there is no average precision")
    once_N1 = np.ones((num_clips, 1))
    whole_MK = np.stack([_precisions(scores_NK, has_NK, once_N1)[:, 0] for scores_NK in scores_MNK])
    rng, means = np.random.default_rng(seed), []
    for count in _parts(resamples, max(1, _AT_ONCE // num_clips)):
        # Sums of whole numbers below 2^24 are exact in 32 bits.
        kind = np.float32 if num_clips < 1 << 24 else np.float64
        drawn_NR = rng.multinomial(num_clips, np.full(num_clips, 1 / num_clips), size=count).T.astype(kind, order="C")
        means.append(np.stack([_mean_of_known(_precisions(one, has_NK, drawn_NR)) for one in scores_MNK], axis=1))
    return whole_MK, np.concatenate(means)


def map_interval(scores_NK: np.ndarray, has_NK: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap percentile interval of the mean average precision.

    Raises:
        ValueError: no clip has a class.
    """
    _, maps_R1 = resampled_maps([scores_NK], has_NK)
    return _interval(maps_R1[:, 0], level)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapDifference:
    """Two models on the same clips: the second's mean average precision minus the first's, with its interval."""

    difference: float
    interval: tuple[float, float]
    p_value: float
    """Two-sided bootstrap p value: twice the share of resamples in which the difference has the other sign, or is 0. At
    least 2 / R, because a share of R resamples cannot tell less."""
    classes_K: np.ndarray
    """Difference of each class's average precision; nan for a class without clips."""


def map_difference(first_NK: np.ndarray, second_NK: np.ndarray, has_NK: np.ndarray) -> MapDifference:
    """Is the second model better than the first?

    Raises:
        ValueError: no clip has a class.
    """
    whole_MK, maps_RM = resampled_maps([first_NK, second_NK], has_NK)
    change_K, change_R = whole_MK[1] - whole_MK[0], maps_RM[:, 1] - maps_RM[:, 0]
    first, second = _mean_of_known(whole_MK.T)
    other = min(int((change_R <= 0).sum()), int((change_R >= 0).sum()))
    return MapDifference(
        difference=float(second - first),
        interval=_interval(change_R, 0.95),
        p_value=min(1.0, 2 * max(other, 1) / len(change_R)),
        classes_K=change_K,
    )


def _parts(total: int, at_once: int) -> Iterator[int]:
    for done in range(0, total, at_once):
        yield min(at_once, total - done)


def _interval(values_R: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.nanquantile(values_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean_of_known(precisions_KR: np.ndarray) -> np.ndarray:
    """The means over the classes, [R]."""
    known_KR = ~np.isnan(precisions_KR)
    means_R: np.ndarray = np.where(known_KR, precisions_KR, 0.0).sum(0) / np.maximum(known_KR.sum(0), 1)
    return means_R


def _precisions(scores_NK: np.ndarray, has_NK: np.ndarray, weights_NR: np.ndarray) -> np.ndarray:
    """Average precision of each class, [K, R], if a clip counts `weights_NR` times. nan for a class without clips.

    That is the sum over the different scores of clips with the class, from the highest down: the share that such clips
    have of the class, times the precision at that score.
    """
    precisions_KR = np.full((has_NK.shape[1], weights_NR.shape[1]), np.nan)
    for label in np.flatnonzero(has_NK.any(0)).tolist():
        order_N = np.argsort(-scores_NK[:, label], kind="stable")
        sorted_N, right_P = scores_NK[order_N, label], np.flatnonzero(has_NK[order_N, label])
        # Clips of equal scores are found together: at the last one of them.
        last_P = len(sorted_N) - 1 - np.searchsorted(sorted_N[::-1], sorted_N[right_P], side="left")
        ends_T, groups_P = np.unique(last_P, return_inverse=True)
        found_TR = weights_NR[order_N].cumsum(0)[ends_T]
        of_groups_TR = np.zeros_like(found_TR)
        np.add.at(of_groups_TR, groups_P, weights_NR[order_N[right_P]])
        right_TR = of_groups_TR.cumsum(0)
        with np.errstate(invalid="ignore"):
            precisions_KR[label] = (of_groups_TR * right_TR / np.maximum(found_TR, 1)).sum(0) / right_TR[-1]
    return precisions_KR

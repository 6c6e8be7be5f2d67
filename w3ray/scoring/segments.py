"""What happens when in a video? Scores of windows become scores over time, and those become segments.

The score of a window stands for the time around its middle, up to half-way to the middles of its neighbours. The first
window also stands for all that is before it, the last one for all that is after it.

Letters: W windows, S scores of all heads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from w3ray.heads import UNLABELLED, Heads

_SLACK_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A span of time in which one class (with several heads: one combination) is the best of all.

    Of a multi-label model: in which a class has a score above the threshold.
    """

    start_s: float
    end_s: float
    label: int
    """Of the class; with several heads, of the combination (`w3ray.heads`)."""
    name: str
    score: float
    """Mean of its score over the segment, after smoothing. Of a combination: the product of its classes' scores."""
    peak: float
    """The highest of them."""
    heads: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """With several heads: head -> (its class, mean of the score)."""

    def document(self) -> dict[str, Any]:
        heads = {head: {"class": name, "score": score} for head, (name, score) in self.heads.items()}
        seconds = {"start_s": round(self.start_s, 6), "end_s": round(self.end_s, 6)}
        return {**seconds, "class": self.name, "score": self.score, "peak": self.peak, **heads}


def window_edges(starts_s_W: np.ndarray, window_s: float, duration_s: float) -> np.ndarray:
    """The borders of the time that each window stands for: float64 [W + 1], from 0 to the end of the video."""
    middles_s_W = starts_s_W + window_s / 2
    return np.concatenate([[0.0], (middles_s_W[1:] + middles_s_W[:-1]) / 2, [duration_s]])


def smooth_scores(starts_s_W: np.ndarray, scores_WS: np.ndarray, smooth_s: float) -> np.ndarray:
    """Moving average: the mean over all windows whose beginnings are at most `smooth_s` / 2 away. float64 [W, S].

    With `smooth_s` as long as a window, it is the mean over the windows that see the middle of this one. Windows whose
    scores are nan do not count. 0: the scores as they are.
    """
    scores_WS = scores_WS.astype(np.float64)
    if smooth_s == 0:
        return scores_WS
    known_W = np.isfinite(scores_WS).all(axis=1)
    sums_WS = np.cumsum(np.where(known_W[:, None], scores_WS, 0.0), axis=0)
    sums_WS = np.concatenate([np.zeros((1, scores_WS.shape[1])), sums_WS])
    counts_W = np.concatenate([[0], np.cumsum(known_W)])
    first_W = np.searchsorted(starts_s_W, starts_s_W - smooth_s / 2 - _SLACK_S)
    stop_W = np.searchsorted(starts_s_W, starts_s_W + smooth_s / 2 + _SLACK_S)
    count_W = counts_W[stop_W] - counts_W[first_W]
    mean_WS = (sums_WS[stop_W] - sums_WS[first_W]) / np.maximum(count_W, 1)[:, None]
    mean_WS[count_W == 0] = np.nan
    return mean_WS


def best_over_time(scores_WS: np.ndarray, heads: Heads) -> tuple[np.ndarray, np.ndarray]:
    """The best label of each window, int [W], and its score, [W].

    With several heads, these are the best combination and the product of its classes' scores. A window whose scores
    are nan has the label `UNLABELLED` and the score nan.
    """
    known_W = np.isfinite(scores_WS).all(axis=1)
    parts_HW = [scores_WS[:, head.scores].argmax(axis=1) for head in heads.each()]
    score_W = np.prod([scores_WS[:, head.scores].max(axis=1) for head in heads.each()], axis=0)
    return np.where(known_W, heads.joined(parts_HW), UNLABELLED), np.where(known_W, score_W, np.nan)


def find_segments(
    scores_WS: np.ndarray,
    edges_s: np.ndarray,
    heads: Heads,
    *,
    threshold: float,
    min_segment_s: float,
    independent: bool = False,
) -> list[Segment]:
    """Neighbouring windows with the same best class, each with a score of at least `threshold`, in order of time.

    Args:
        scores_WS: after smoothing.
        edges_s: of `window_edges`.
        min_segment_s: shorter segments are left out.
        independent: each class has segments of its own, which may overlap, as in a multi-label model.
    """
    rows = [best_over_time(scores_WS, heads)]
    if independent:
        rows = [(np.full(len(scores_WS), label), scores_WS[:, label]) for label in range(scores_WS.shape[1])]
    found = []
    for label_W, score_W in rows:
        counted_W = np.where(np.nan_to_num(score_W, nan=-1.0) >= threshold, label_W, UNLABELLED)
        found += list(_runs(scores_WS, score_W, counted_W, edges_s, heads, min_segment_s))
    return sorted(found, key=lambda segment: (segment.start_s, segment.end_s))


def _runs(
    scores_WS: np.ndarray,
    score_W: np.ndarray,
    counted_W: np.ndarray,
    edges_s: np.ndarray,
    heads: Heads,
    min_segment_s: float,
) -> Iterator[Segment]:
    changes = np.flatnonzero(np.diff(counted_W)) + 1
    for first, stop in zip([0, *changes], [*changes, len(counted_W)], strict=True):
        label, seconds = int(counted_W[first]), float(edges_s[stop] - edges_s[first])
        if label != UNLABELLED and seconds >= min_segment_s - _SLACK_S:
            yield _segment(scores_WS, score_W, edges_s, heads, label, slice(first, stop))


def _segment(
    scores_WS: np.ndarray, score_W: np.ndarray, edges_s: np.ndarray, heads: Heads, label: int, where: slice
) -> Segment:
    seconds = np.diff(edges_s[where.start : where.stop + 1])

    def mean(values: np.ndarray) -> float:
        return float(np.average(values[where], weights=seconds))

    of_heads = {
        head.name: (head.classes[head.label(label)], mean(scores_WS[:, head.start + head.label(label)]))
        for head in heads.each()
        if heads.several
    }
    return Segment(
        start_s=float(edges_s[where.start]), end_s=float(edges_s[where.stop]), label=label,
        name=heads.class_name(label), score=mean(score_W), peak=float(score_W[where].max()), heads=of_heads,
    )  # fmt: skip

"""How good are the scores of clips? Accuracies with their intervals, calibration, and which clips are right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from w3ray.errors import InputError, RunError
from w3ray.heads import Heads
from w3ray.scoring.clip_scores import ClipScores
from w3ray.scoring.multi_label import counted_sets, measured_sets

if TYPE_CHECKING:
    from w3ray.evaluation.counting import SplitCounts
    from w3ray.evaluation.uncertainty import Calibration

_SCORES_AT_ONCE = 1 << 24


def measure(
    result: ClipScores,
    heads: Heads,
    prior_P: np.ndarray | None = None,
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Accuracies with their intervals, loss, and calibration, over the clips that could be read and have a label.

    With several heads, `top1` and the other names are of their combinations, `verb_top1` and so on of each head; the
    loss is the sum over the heads. Of multi-label clips: the figures of `MultiLabelCounts.result`, with the interval of
    `map`. {} if no clip has a label.

    Args:
        result: the scores.
        heads: their heads.
        prior_P: logarithms of the frequencies of the combinations; they have a part in `top1`, `top5` and
            `mean_class_accuracy`. None: there is none.
        thresholds: of multi-label clips, one for each class; None: 0.5.

    Raises:
        RunError: no clip could be read.
    """
    from w3ray.evaluation.uncertainty import accuracy_interval

    if not result.readable.any():
        raise RunError("no clip of the split can be read")
    known = result.measurable
    if not known.any():
        return {}
    if heads.multi_label:
        return measured_sets(result, heads, thresholds)
    metrics: dict[str, Any] = dict(counted(result, heads, prior_P).result())
    scores, labels = result.scores[known], result.labels[known]
    for name, rank_N in _ranks(scores, labels, heads, prior_P).items():
        for top in (1, 5):
            metrics[f"{name}top{top}_interval"] = accuracy_interval(rank_N < top)
    metrics |= {f"{name}calibration_error": one.expected_error for name, one in calibrations(result, heads).items()}
    return metrics


def calibrations(result: ClipScores, heads: Heads) -> "dict[str, Calibration]":
    """Prefix of the metrics' names -> calibration: "" for all heads together; of several, also "verb_" and so on.

    Multi-label clips have none: there is no one best class that is right or wrong.
    """
    from w3ray.evaluation.uncertainty import calibration_of

    if heads.multi_label:
        return {}
    known = result.measurable
    scores, labels = result.scores[known], result.labels[known]
    sure_N, right_N = np.ones(len(scores)), np.ones(len(scores), dtype=bool)
    found = {}
    for head in heads.each():
        own_NK = scores[:, head.scores]
        own_sure_N, own_right_N = own_NK.max(1), own_NK.argmax(1) == head.label(labels)
        sure_N, right_N = sure_N * own_sure_N, right_N & own_right_N
        if heads.several:
            found[head.metric("")] = calibration_of(own_sure_N, own_right_N)
    return {"": calibration_of(sure_N, right_N), **found}


def counted(
    result: ClipScores,
    heads: Heads,
    prior_P: np.ndarray | None = None,
    thresholds: Sequence[float] | None = None,
) -> "SplitCounts":
    """Counts over the `measurable` clips. The loss is computed from the logarithms of the scores."""
    if heads.multi_label:
        return counted_sets(result, heads, thresholds)
    import torch

    from w3ray.evaluation.head_counts import HeadCounts

    known = result.measurable
    scores = torch.from_numpy(result.scores[known].astype(np.float64))
    counts = HeadCounts(heads, prior_P=None if prior_P is None else torch.from_numpy(prior_P))
    counts.update(scores.clamp(min=1e-30).log(), torch.from_numpy(result.labels[known]).long())
    return counts


def right(result: ClipScores, heads: Heads) -> np.ndarray:
    """bool [N]: whether the best class is the clip's label (for several heads: the best combination); else False."""
    hits = np.zeros(len(result.labels), dtype=bool)
    known = result.measurable
    hits[known] = _ranks(result.scores[known], result.labels[known], heads)[""] == 0
    return hits


def ensemble(results: Sequence[ClipScores], weights: Sequence[float] | None = None) -> ClipScores:
    """The mean of several models' scores. A clip that one of the models could not read has no scores.

    Args:
        results: of the same clips.
        weights: one for each model, above 0. The mean is divided by their sum, so scores stay probabilities. None: all
            models count the same.
    """
    first = results[0]
    reasons = {clip: reason for result in results for clip, reason in result.reasons.items()}
    scores = np.average([result.scores.astype(np.float64) for result in results], axis=0, weights=weights)
    return ClipScores(clip_ids=first.clip_ids, labels=first.labels, scores=scores.astype(np.float32), reasons=reasons)


def check_weights(weights: Sequence[float], num_models: int) -> tuple[float, ...] | None:
    """The weights of an ensemble. None: there are none, or all are equal, so the mean needs none.

    Raises:
        InputError: there is not one for each of several models, or one is not a number above 0.
    """
    if not weights:
        return None
    if num_models == 1:
        raise InputError("--weight: there is one model, and its scores need no weight; leave it out")
    if len(weights) != num_models:
        raise InputError(
            f"--weight: {len(weights)} given for {num_models} models; give one for each model, in the same order"
        )
    for weight in weights:
        if not (np.isfinite(weight) and weight > 0):
            raise InputError(f"--weight {weight:g}: must be a number above 0")
    return None if len(set(weights)) == 1 else tuple(weights)


def _ranks(
    scores_NS: np.ndarray, labels_N: np.ndarray, heads: Heads, prior_P: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Prefix of the metrics' names -> int [N]: how many classes rank before the label. Ties go by class number."""
    import torch

    from w3ray.evaluation.head_scores import combined_scores

    ranks = {head.metric(""): _rank(scores_NS[:, head.scores], head.label(labels_N)) for head in heads.each()}
    if not heads.several:
        return ranks
    logarithms = torch.from_numpy(scores_NS.astype(np.float64)).clamp(min=1e-30).log()
    at_once = max(1, _SCORES_AT_ONCE // heads.num_labels)
    parts = zip(logarithms.split(at_once), range(0, len(scores_NS), at_once), strict=True)
    prior = None if prior_P is None else torch.from_numpy(prior_P)
    combined = [_rank(combined_scores(part, heads, prior).numpy(), labels_N[i : i + at_once]) for part, i in parts]
    return {"": np.concatenate(combined), **ranks}


def _rank(scores_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    true_N1 = np.take_along_axis(scores_NK, labels_N[:, None].astype(np.int64), 1)
    classes_K = np.arange(scores_NK.shape[1])
    ahead = (scores_NK > true_N1) | ((scores_NK == true_N1) & (classes_K < labels_N[:, None]))
    rank: np.ndarray = np.where(np.isfinite(scores_NK).all(1), ahead.sum(1), scores_NK.shape[1])
    return rank

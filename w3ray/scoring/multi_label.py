"""How good are the kept scores of multi-label clips, and from which score on does a clip have a class?"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from w3ray.errors import InputError
from w3ray.heads import Heads
from w3ray.scoring.clip_scores import ClipScores
from w3ray.storage import storage_path

if TYPE_CHECKING:
    from w3ray.evaluation.multi_label import MultiLabelCounts


def thresholds_of(threshold: str | None, heads: Heads) -> tuple[float, ...] | None:
    """The threshold of each class of a multi-label model. None: the model is not multi-label.

    Args:
        threshold: a number from 0 to 1 for all classes, or the folder of a finished evaluation: each class then has the
            threshold with the highest F1 there. None: 0.5.
        heads: of the model.

    Raises:
        InputError: the model is not multi-label, the number is outside [0, 1], or the folder holds no evaluation of a
            multi-label model with the same classes.
    """
    from w3ray.evaluation.multi_label import DEFAULT_THRESHOLD

    if not heads.multi_label:
        if threshold is not None:
            raise InputError(f"--threshold {threshold}: the model is not multi-label; leave the option out")
        return None
    try:
        number = DEFAULT_THRESHOLD if threshold is None else float(threshold)
    except ValueError:
        return _best_of(threshold or "", heads, DEFAULT_THRESHOLD)
    if not 0 <= number <= 1:
        raise InputError(
            f"--threshold {threshold}: must be a number from 0 to 1, or a folder that w3ray evaluate wrote"
        )
    return (number,) * heads.num_scores


def _best_of(directory: str, heads: Heads, otherwise: float) -> tuple[float, ...]:
    from w3ray.evaluation.report import PER_CLASS_JSON

    try:
        rows = json.loads((storage_path(directory) / "report" / PER_CLASS_JSON).read_text())["classes"]
        found = {row["class"]: row["best_threshold"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--threshold {directory}: must be a number from 0 to 1, or a folder that w3ray evaluate wrote for a "
            f"multi-label model ({error!r})"
        ) from error
    if tuple(found) != heads.classes:
        raise InputError(f"--threshold {directory}: the evaluation has other classes than the model")
    return tuple(otherwise if found[name] is None else float(found[name]) for name in heads.classes)


def counted_sets(result: ClipScores, heads: Heads, thresholds: Sequence[float] | None) -> "MultiLabelCounts":
    """The figures of the clips that are readable and have a label. `thresholds`: of each class; None: 0.5."""
    import torch

    from w3ray.evaluation.multi_label import DEFAULT_THRESHOLD, MultiLabelCounts

    known = result.measurable
    counts = MultiLabelCounts(heads, thresholds=DEFAULT_THRESHOLD if thresholds is None else thresholds)
    counts.add_scores(torch.from_numpy(result.scores[known]), torch.from_numpy(result.labels[known]).long())
    return counts


def measured_sets(result: ClipScores, heads: Heads, thresholds: Sequence[float] | None) -> dict[str, Any]:
    """`MultiLabelCounts.result`, with the interval of the mean average precision."""
    from w3ray.evaluation.map_uncertainty import map_interval

    known = result.measurable
    metrics: dict[str, Any] = dict(counted_sets(result, heads, thresholds).result())
    has_NK = classes_of_clips(result.labels[known], heads)
    if has_NK.any():
        metrics["map_interval"] = map_interval(finite_scores(result.scores[known]), has_NK)
    return metrics


def classes_of_clips(labels_N: np.ndarray, heads: Heads) -> np.ndarray:
    """bool [N, K]: which classes clips have. All labels must be known."""
    from w3ray.evaluation.label_sets import classes_of_sets

    has_NK: np.ndarray = classes_of_sets(heads).numpy()[labels_N]
    return has_NK


def finite_scores(scores_NK: np.ndarray) -> np.ndarray:
    """Scores of 0 for clips with scores that are not finite, as `MultiLabelCounts` has them."""
    return np.where(np.isfinite(scores_NK).all(1)[:, None], scores_NK, np.float32(0))


def said(scores_K: np.ndarray, heads: Heads, thresholds: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """The classes that the model says a clip has, with their scores, best first."""
    order = np.argsort(-scores_K, kind="stable").tolist()
    return tuple((heads.classes[one], float(scores_K[one])) for one in order if scores_K[one] >= thresholds[one])

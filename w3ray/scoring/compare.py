"""Which of several evaluated models is better on the same clips, and is the difference more than chance?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from w3ray.errors import InputError
from w3ray.evaluation.uncertainty import paired_difference
from w3ray.heads import UNLABELLED, Heads
from w3ray.scoring.clip_scores import ClipScores, heads_of, read_scores, require_no_prior
from w3ray.scoring.measure import right
from w3ray.scoring.multi_label import classes_of_clips, counted_sets, finite_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One evaluation compared with the first one, over the labelled clips that all evaluations could read.

    `difference` is the top-1 accuracy of this evaluation minus that of the first. For several heads, a clip counts as
    right if all its heads are right. `interval` is a 95% bootstrap interval over clips. `p_value` is from the exact
    McNemar test. `classes` are the classes whose accuracy changed most: (name, clips, change).

    For multi-label clips, `map` takes the place of `top1`: `difference` is one of mean average precisions, `interval`
    and `p_value` are from resampled clips (`w3ray.evaluation.map_uncertainty`), and `classes` are those whose average
    precision changed most. `only_first` and `only_this` are 0.
    """

    directory: str
    models: tuple[str, ...]
    protocol: str
    top1: float | None = None
    map: float | None = None
    difference: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    p_value: float = 1.0
    only_first: int = 0
    only_this: int = 0
    classes: tuple[tuple[str, int, float], ...] = ()

    def document(self) -> dict[str, Any]:
        return asdict(self)


def compare(directories: Sequence[str], *, classes: int = 5) -> list[Compared]:
    """Compare each evaluation with the first one.

    Args:
        directories: the folders that `w3ray.scoring.evaluate.evaluate` wrote (`Evaluated.directory`).
        classes: how many classes to name.

    Raises:
        InputError: fewer than two evaluations, one that is not finished or has a prior, other clips, other labels for
            the same clips, or multi-label clips compared with others.
    """
    if len(directories) < 2:
        raise InputError("compare: name at least two evaluations: folders that `w3ray evaluate` wrote")
    found = [read_scores(directory) for directory in directories]
    for directory, (document, _) in zip(directories, found, strict=True):
        require_no_prior(directory, document)
    scores, heads = [clip_scores for _, clip_scores in found], [heads_of(document) for document, _ in found]
    for directory, one, its in zip(directories[1:], scores[1:], heads[1:], strict=True):
        _check_same(directories[0], directory, (scores[0], heads[0]), (one, its))
    both = np.logical_and.reduce([one.measurable for one in scores])
    if not both.any():
        raise InputError("compare: no clip has a label and could be read in all evaluations")
    if heads[0].multi_label:
        return _compare_sets(directories, [document for document, _ in found], scores, heads[0], both, classes)
    hits = [right(one, its)[both] for one, its in zip(scores, heads, strict=True)]
    labels = scores[0].labels[both]
    compared: list[Compared] = []
    for directory, (document, _), hit in zip(directories, found, hits, strict=True):
        this = Compared(
            directory=directory,
            models=tuple(document["models"]),
            protocol=document["protocol"],
            top1=float(hit.mean()),
        )
        if compared:
            paired = paired_difference(hits[0], hit)
            this = replace(
                this,
                difference=paired.difference,
                interval=paired.interval,
                p_value=paired.p_value,
                only_first=paired.only_first,
                only_this=paired.only_second,
                classes=_changed(hits[0], hit, labels, heads[0], classes),
            )
        compared.append(this)
    return compared


def _changed(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, heads: Heads, count: int
) -> tuple[tuple[str, int, float], ...]:
    changes = []
    for label in np.unique(labels).tolist():
        mine = labels == label
        changes.append((heads.class_name(label), int(mine.sum()), float(after[mine].mean() - before[mine].mean())))
    changes.sort(key=lambda change: -abs(change[2]))
    return tuple(change for change in changes[:count] if change[2])


def _compare_sets(
    directories: Sequence[str],
    documents: Sequence[Mapping[str, Any]],
    scores: Sequence[ClipScores],
    heads: Heads,
    both: np.ndarray,
    count: int,
) -> list[Compared]:
    """`compare` for multi-label clips. `both`: the clips that all evaluations could read."""
    from w3ray.evaluation.map_uncertainty import map_difference

    has_NK = classes_of_clips(scores[0].labels[both], heads)
    if not has_NK.any():
        raise InputError("compare: no clip that could be read has a class")
    compared: list[Compared] = []
    for directory, document, one in zip(directories, documents, scores, strict=True):
        of_both = ClipScores(
            clip_ids=tuple(np.array(one.clip_ids)[both].tolist()),
            labels=scores[0].labels[both],
            scores=one.scores[both],
            reasons={},
        )
        this = Compared(
            directory=directory,
            models=tuple(document["models"]),
            protocol=document["protocol"],
            map=counted_sets(of_both, heads, None).result()["map"],
        )
        if compared:
            first, second = (finite_scores(its.scores[both]) for its in (scores[0], one))
            found = map_difference(first, second, has_NK)
            this = replace(
                this,
                difference=found.difference,
                interval=found.interval,
                p_value=found.p_value,
                classes=_changed_precisions(found.classes_K, has_NK.sum(0), heads, count),
            )
        compared.append(this)
    return compared


def _changed_precisions(
    change_K: np.ndarray, clips_K: np.ndarray, heads: Heads, count: int
) -> tuple[tuple[str, int, float], ...]:
    order = np.argsort(-np.abs(np.nan_to_num(change_K)), kind="stable")[:count].tolist()
    return tuple(
        (heads.classes[one], int(clips_K[one]), float(change_K[one])) for one in order if np.nan_to_num(change_K[one])
    )


def _check_same(first: str, other: str, this: tuple[ClipScores, Heads], that: tuple[ClipScores, Heads]) -> None:
    (ours, heads), (theirs, other_heads) = this, that
    if heads.multi_label != other_heads.multi_label:
        raise InputError(f"compare: one of {first} and {other} is of multi-label clips, the other is not")
    if heads.multi_label and heads.classes != other_heads.classes:
        raise InputError(f"compare: {first} and {other} have other classes")
    if ours.clip_ids != theirs.clip_ids:
        missing = len(set(ours.clip_ids) ^ set(theirs.clip_ids))
        what = f"{missing} clips are in one of them only" if missing else "their clips are in another order"
        raise InputError(f"compare: {first} and {other} do not have the same clips: {what}")
    if not np.array_equal(_meaning(ours.labels, heads), _meaning(theirs.labels, other_heads)):
        raise InputError(f"compare: {first} and {other} have different labels for the same clips")


def _meaning(labels_N: np.ndarray, heads: Heads) -> np.ndarray:
    """Labels that are equal if they mean the same: two manifests may count the same sets of classes differently."""
    if heads.label_sets is None:
        return labels_N
    known = labels_N != UNLABELLED
    has_NK = np.zeros((len(labels_N), heads.num_scores + 1), dtype=bool)
    has_NK[known, :-1], has_NK[:, -1] = classes_of_clips(labels_N[known], heads), known
    return has_NK

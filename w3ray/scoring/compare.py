"""Which of several evaluated models is better on the same clips, and is the difference more than chance?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from w3ray.errors import InputError
from w3ray.evaluation.uncertainty import paired_difference
from w3ray.heads import Heads
from w3ray.scoring.clip_scores import ClipScores, heads_of, read_scores, require_no_prior
from w3ray.scoring.measure import right


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One evaluation compared with the first one, over the labelled clips that all evaluations could read.

    `difference` is the top-1 accuracy of this evaluation minus that of the first. For several heads, a clip counts as
    right if all its heads are right. `interval` is a 95% bootstrap interval over clips. `p_value` is from the exact
    McNemar test. `classes` are the classes whose accuracy changed most: (name, clips, change).
    """

    directory: str
    models: tuple[str, ...]
    protocol: str
    top1: float
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
        InputError: fewer than two evaluations, one that is not finished or has a prior, other clips, or other labels
            for the same clips.
    """
    if len(directories) < 2:
        raise InputError("compare: name at least two evaluations: folders that `w3ray evaluate` wrote")
    found = [read_scores(directory) for directory in directories]
    for directory, (document, _) in zip(directories, found, strict=True):
        require_no_prior(directory, document)
    scores = [clip_scores for _, clip_scores in found]
    for directory, one in zip(directories[1:], scores[1:], strict=True):
        _check_same(directories[0], directory, scores[0], one)
    both = np.logical_and.reduce([one.measurable for one in scores])
    if not both.any():
        raise InputError("compare: no clip has a label and could be read in all evaluations")
    heads = [heads_of(document) for document, _ in found]
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


def _check_same(first: str, other: str, ours: ClipScores, theirs: ClipScores) -> None:
    if ours.clip_ids != theirs.clip_ids:
        missing = len(set(ours.clip_ids) ^ set(theirs.clip_ids))
        what = f"{missing} clips are in one of them only" if missing else "their clips are in another order"
        raise InputError(f"compare: {first} and {other} do not have the same clips: {what}")
    if not np.array_equal(ours.labels, theirs.labels):
        raise InputError(f"compare: {first} and {other} have different labels for the same clips")

"""Which of several evaluated models is better on the same clips, and is that more than chance?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from w3ray.errors import InputError
from w3ray.evaluation.uncertainty import paired_difference
from w3ray.pipeline.clip_scores import ClipScores, read_scores
from w3ray.pipeline.evaluate import right


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One evaluation beside the first one, over the clips that all of them could read.

    `difference` is of top-1, this one minus the first; the interval is a bootstrap over clips (95%), the p value that
    of the exact McNemar test. `classes` are those whose accuracy changed most: (name, clips, change).
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
    """Hold evaluations against the first one.

    Args:
        directories: what `w3ray.pipeline.evaluate.evaluate` wrote: the folders that it ended with.
        classes: how many classes to name.

    Raises:
        InputError: fewer than two, no finished evaluation, other clips, or other labels for the same clips.
    """
    if len(directories) < 2:
        raise InputError("compare: name at least two evaluations, the folders that `w3ray evaluate` ended with")
    found = [read_scores(directory) for directory in directories]
    scores = [clip_scores for _, clip_scores in found]
    for directory, one in zip(directories[1:], scores[1:], strict=True):
        _check_same(directories[0], directory, scores[0], one)
    both = np.logical_and.reduce([one.readable for one in scores])
    if not both.any():
        raise InputError("compare: no clip could be read in all of them")
    hits = [right(one)[both] for one in scores]
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
                classes=_changed(hits[0], hit, labels, document, classes),
            )
        compared.append(this)
    return compared


def _changed(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, document: Mapping[str, Any], count: int
) -> tuple[tuple[str, int, float], ...]:
    names = document["classes"]
    changes = []
    for label in np.unique(labels).tolist():
        mine = labels == label
        changes.append((names[label], int(mine.sum()), float(after[mine].mean() - before[mine].mean())))
    changes.sort(key=lambda change: -abs(change[2]))
    return tuple(change for change in changes[:count] if change[2])


def _check_same(first: str, other: str, ours: ClipScores, theirs: ClipScores) -> None:
    if ours.clip_ids != theirs.clip_ids:
        missing = len(set(ours.clip_ids) ^ set(theirs.clip_ids))
        what = f"{missing} clips are in one of them only" if missing else "their clips are in another order"
        raise InputError(f"compare: {first} and {other} are not of the same clips: {what}")
    if not np.array_equal(ours.labels, theirs.labels):
        raise InputError(f"compare: {first} and {other} have other labels for the same clips")

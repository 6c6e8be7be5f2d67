"""Which classes are the best ones by a clip's scores, and of several heads which combinations of them?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from w3ray.heads import Heads


class Best(NamedTuple):
    """(class name, score) from the best on, equal ones by class number."""

    top: tuple[tuple[str, float], ...]
    """Of one head its classes; of several their combinations, whose score is the product of their classes'."""
    heads: dict[str, tuple[tuple[str, float], ...]]
    """Of several heads: the classes of each, by its name."""


def best_classes(scores_S: np.ndarray, heads: Heads, top: int) -> Best:
    """The `top` best of a clip's scores, each head's part of which adds up to 1."""
    of_heads = {head.name: _best(scores_S[head.scores], head.classes, top) for head in heads.each()}
    if not heads.several:
        return Best(of_heads[""], {})
    combined_P = np.ones(1)
    for head in heads.each():
        combined_P = np.outer(combined_P, scores_S[head.scores]).ravel()
    order = np.argsort(-combined_P, kind="stable")[:top]
    return Best(tuple((heads.class_name(int(label)), float(combined_P[label])) for label in order), of_heads)


def _best(scores_K: np.ndarray, classes: Sequence[str], top: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-scores_K, kind="stable")[:top]
    return tuple((classes[label], float(scores_K[label])) for label in order)

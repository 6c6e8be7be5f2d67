"""Which classes have the best scores for a clip? With several heads: which combinations of classes?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from w3ray.heads import Heads


class Best(NamedTuple):
    """Pairs (class name, score), best first. Equal scores are ordered by class number."""

    top: tuple[tuple[str, float], ...]
    """The best classes. With several heads: the best combinations. The score of a combination is the product of the
    scores of its classes."""
    heads: dict[str, tuple[tuple[str, float], ...]]
    """With several heads: head name -> best classes of this head."""


def best_classes(scores_S: np.ndarray, heads: Heads, top: int) -> Best:
    """The `top` best classes by a clip's scores. The scores of each head must sum to 1,
    unless the model is multi-label."""
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

"""How do the scores of two models, one of verbs and one of nouns, become scores of actions?

Each model has the classes of one head of the clips. Their scores are put side by side, as a model with both heads gives
them. With a prior, the score of an action is p(verb) p(noun) times how often the pair occurs among training clips (Wu
et al., arXiv:1812.05038, Sec. 5.3). A pair that never occurs there comes after all that do.
"""

from collections.abc import Sequence

import numpy as np

from w3ray.data.manifest import Manifest, known_labels, read_manifest
from w3ray.errors import InputError
from w3ray.heads import Head, Heads
from w3ray.models.bundle import ModelDescription
from w3ray.scoring.clip_scores import ClipScores

_NEVER = 1e-30
"""The frequency of a pair that never occurs. Its logarithm is finite, so such pairs still have an order."""


def head_of(name: str, description: ModelDescription, clips: Manifest) -> Head:
    """The head of the clips whose classes a model has.

    Raises:
        InputError: the clips have one head, or the model has other classes than each of their heads.
    """
    if not clips.head_sizes:
        what = "are multi-label" if clips.heads.multi_label else "have one label each"
        raise InputError(f"--combine: {clips.location}: its clips {what}; leave the option out")
    if not description.head_sizes:
        for head in clips.heads.each():
            if head.classes == description.classes:
                return head
    sizes = ", ".join(f"{head} ({count})" for head, count in clips.head_sizes)
    raise InputError(
        f"--combine: {name}: its {len(description.classes)} classes are not those of one head of {clips.location}, "
        f"which has {sizes}"
    )


def check_heads(names: Sequence[str], found: Sequence[Head], heads: Heads) -> None:
    """Raises: InputError unless there is one model for each head."""
    for head in heads.each():
        mine = [name for name, its in zip(names, found, strict=True) if its == head]
        if len(mine) > 1:
            raise InputError(f"--combine: {mine[0]} and {mine[1]} both have the head {head.name!r}; name one of each")
    if missing := [head.name for head in heads.each() if head not in found]:
        raise InputError(f"--combine: no model has the head {missing[0]!r} of the clips")


def side_by_side(results: Sequence[ClipScores], found: Sequence[Head]) -> ClipScores:
    """The scores of a model with all heads. A clip that one of the models could not read has no scores.

    Args:
        results: of the same clips.
        found: the head of each.
    """
    order = sorted(range(len(found)), key=lambda number: found[number].start)
    reasons = {clip: reason for result in results for clip, reason in result.reasons.items()}
    scores = np.concatenate([results[number].scores for number in order], axis=1)
    unread = np.array([clip in reasons for clip in results[0].clip_ids], dtype=bool)
    return ClipScores(
        clip_ids=results[0].clip_ids,
        labels=results[0].labels,
        scores=np.where(unread[:, None], np.nan, scores).astype(np.float32),
        reasons=reasons,
    )


def log_prior(prior: str, clips: Manifest) -> np.ndarray:
    """Logarithms of the frequencies of all combinations among training clips: float64 [P], in the order of labels.

    Args:
        prior: a split of `clips`, such as "train", or MANIFEST:SPLIT.
        clips: the clips that are scored.

    Raises:
        InputError: no such manifest or split, other heads, or no clip with a label.
    """
    location, colon, split = prior.rpartition(":")
    other = read_manifest(location) if colon else clips
    if other.heads != clips.heads:
        raise InputError(f"--prior {prior}: has other classes than {clips.location}")
    labels_N = known_labels(other.split(other.split_named(split)))
    labels_N = labels_N[labels_N >= 0]
    if not len(labels_N):
        raise InputError(f"--prior {prior}: none of its clips has a label")
    counts_P = np.bincount(labels_N, minlength=clips.heads.num_labels)
    logarithms_P: np.ndarray = np.log(np.maximum(counts_P / len(labels_N), _NEVER))
    return logarithms_P

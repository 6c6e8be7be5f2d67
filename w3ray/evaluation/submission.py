"""In which form does a challenge want the scores of its test clips, whose labels are not public?

EPIC-KITCHENS: a JSON document with the scores of all verbs, of all nouns and of the 100 best actions of each segment.
The challenge's description (epic-kitchens/epic-kitchens-55-lib, docs/source/submission_format.md; version 0.1) says:
the server takes the softmax of verb and noun scores; the probability of an action is the product of the two; if actions
are given, there must be exactly 100. So verbs and nouns are written as logarithms, because the softmax of these gives
the scores back, and actions are written as products. EPIC-KITCHENS-100 (epic-kitchens/C1-Action-Recognition,
utils/challenge.py and create_submission.py; version 0.2) needs three more numbers: the levels of supervision of
github.com/epic-kitchens/SLS.

Something-Something and Jester: the archives of these challenges are closed. The form is known from a program that wrote
it, mit-han-lab/temporal-shift-module, test_models.py: one line `id;class` per video. For Something-Something v2 a line
has the numbers of the five best classes, best first: `id;12;3;77;140;9`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from w3ray.heads import Heads
from w3ray.published_sets import EPIC_KITCHENS_55, EPIC_KITCHENS_100

NUM_ACTIONS = 100
_EPIC = {"55": EPIC_KITCHENS_55, "100": EPIC_KITCHENS_100}
_TOP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """Levels of supervision of a model for EPIC-KITCHENS-100, each 0 to 5. The defaults are those of its starter kit.

    Raises: ValueError naming the field.
    """

    pretraining: int = 2
    """2: public images and videos."""
    training_labels: int = 3
    """3: start, end and class of each segment."""
    training_data: int = 4
    """3: the training split. 4: the training and validation splits."""

    def __post_init__(self) -> None:
        for name in ("pretraining", "training_labels", "training_data"):
            if not 0 <= getattr(self, name) <= 5:
                raise ValueError(f"{name} must be 0 to 5, not {getattr(self, name)}")


def epic_submission(
    clip_ids: Sequence[str],
    scores_NS: np.ndarray,
    heads: Heads,
    version: Literal["55", "100"] = "55",
    supervision: Supervision | None = None,
) -> dict[str, Any]:
    """The JSON document of one test split.

    Args:
        clip_ids: the uid (55) or narration_id (100) of each segment.
        scores_NS: for each clip the scores of all verbs, then of all nouns. The scores of each head sum to 1.
        heads: must be the heads of the data set.
        supervision: only for version 100.

    Raises:
        ValueError: the heads are not those of the data set, a clip appears twice, or the scores of a head are not
            probabilities.
    """
    if heads.sizes != (wanted := _EPIC[version]).heads:
        raise ValueError(f"{wanted.title} has the heads {dict(wanted.classes)}, not {_described(heads)}")
    _check(clip_ids, scores_NS, heads)
    verb, noun = heads.each()
    levels = {}
    if version == "100":
        taught = supervision or Supervision()
        levels = {
            "sls_pt": taught.pretraining,
            "sls_tl": taught.training_labels,
            "sls_td": taught.training_data,
        }
    return {
        "version": "0.1" if version == "55" else "0.2",
        "challenge": "action_recognition",
        **levels,
        "results": {
            clip_id: {
                "verb": _by_number(scores_S[verb.scores]),
                "noun": _by_number(scores_S[noun.scores]),
                "action": _actions(scores_S[verb.scores], scores_S[noun.scores]),
            }
            for clip_id, scores_S in zip(clip_ids, scores_NS, strict=True)
        },
    }


def something_submission(
    clip_ids: Sequence[str],
    scores_NK: np.ndarray,
    classes: Sequence[str],
    form: Literal["numbers", "name"] = "numbers",
) -> str:
    """The lines for Something-Something v2 ("numbers": five best classes), or for v1 and Jester ("name": best class).

    Args:
        clip_ids: the videos, with or without an extension: `8.webm` is the video 8.

    Raises:
        ValueError: a clip appears twice, a name is not a number, or the scores are not probabilities.
    """
    _check(clip_ids, scores_NK, Heads(tuple(classes)))
    lines = []
    for clip_id, scores_K in zip(clip_ids, scores_NK, strict=True):
        video = clip_id.rpartition("/")[2].partition(".")[0]
        if not video.isdecimal():
            raise ValueError(f"clip {clip_id!r}: its name must be the number of a video")
        best = _best(scores_K, _TOP)
        answer = [str(label) for label in best] if form == "numbers" else [classes[best[0]]]
        lines.append(";".join([video, *answer]))
    return "\n".join(lines) + "\n"


def _described(heads: Heads) -> str:
    return str(dict(heads.sizes)) if heads.several else f"one head of {heads.num_scores} classes"


def _check(clip_ids: Sequence[str], scores_NS: np.ndarray, heads: Heads) -> None:
    if scores_NS.shape != (len(clip_ids), heads.num_scores):
        raise ValueError(f"scores of shape {scores_NS.shape} for {len(clip_ids)} clips and {heads.num_scores} classes")
    if len(set(clip_ids)) < len(clip_ids):
        raise ValueError("a clip appears twice")
    for head in heads.each():
        sums_N = scores_NS[:, head.scores].sum(axis=1)
        wrong = ~((scores_NS[:, head.scores] >= 0).all(axis=1) & (np.abs(sums_N - 1) < 1e-3))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"the scores of clip {clip_ids[row]!r} are not probabilities: they sum to {sums_N[row]:g}")


def _by_number(scores_K: np.ndarray) -> dict[str, float]:
    # A score may be 0 in float32. JSON has no number for its logarithm.
    logs_K = np.log(np.maximum(scores_K.astype(np.float64), np.finfo(np.float32).tiny))
    return {str(label): float(log) for label, log in enumerate(logs_K)}


def _actions(verbs_V: np.ndarray, nouns_N: np.ndarray) -> dict[str, float]:
    scores_A = np.multiply.outer(verbs_V.astype(np.float64), nouns_N.astype(np.float64)).reshape(-1)
    return {
        f"{action // len(nouns_N)},{action % len(nouns_N)}": float(scores_A[action])
        for action in _best(scores_A, NUM_ACTIONS)
    }


def _best(scores_K: np.ndarray, count: int) -> list[int]:
    """The positions of the highest scores, best first. Of equal scores, the first one wins."""
    # Select the candidates before sorting: to sort all 44,000 actions of 8,000 clips takes half a minute.
    least = np.partition(scores_K, -count)[-count] if count < len(scores_K) else -np.inf
    candidates = np.flatnonzero(scores_K >= least)
    order = np.argsort(-scores_K[candidates], kind="stable")[:count]
    return [int(place) for place in candidates[order]]

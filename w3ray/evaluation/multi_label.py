"""How good are the scores of multi-label clips? Average precision and, at a threshold, precision, recall and F1.

Average precision needs the scores themselves: no counts can be added up for it. So every worker keeps the scores of its
clips, and they are gathered at the end. All figures are computed from scores as 32-bit numbers and do not depend on the
order of the clips, so any number of workers gives the same bits.

Letters: B clips of a batch, N clips, K classes, L sets of classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from w3ray.evaluation.head_scores import scores_of_logits
from w3ray.evaluation.label_sets import best_is_a_class, classes_of_sets
from w3ray.evaluation.metrics import LOSS_UNIT, MAX_LOSS
from w3ray.heads import Heads

DEFAULT_THRESHOLD = 0.5

_LEAST = 1e-30
"""A score of 0 has no logarithm."""
_LEAST_REST = 2.0**-25
"""Half of the smallest difference of a 32-bit score from 1: the loss of a wrong score of 1 would be infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """How well one class is found among the clips. Shares are None where they are not defined."""

    clips: int
    """Clips that have the class."""
    average_precision: float | None
    """None: no clip has the class."""
    threshold: float
    """From this score on, the model says that a clip has the class."""
    right: int
    """Clips with the class for which the model says so."""
    wrong: int
    """Clips without the class for which the model says that they have it."""
    best_threshold: float | None
    """The threshold with the highest F1 on these clips: halfway between two neighbouring scores."""
    best_f1: float | None

    @property
    def precision(self) -> float | None:
        """Share of the clips with the class, among those for which the model says so."""
        said = self.right + self.wrong
        return self.right / said if said else None

    @property
    def recall(self) -> float | None:
        """Share of the clips for which the model says so, among those with the class."""
        return self.right / self.clips if self.clips else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        found = self.clips + self.right + self.wrong
        return 2 * self.right / found if self.clips else None


class MultiLabelCounts:
    """Scores of multi-label clips, and the figures that follow from them.

    Has the methods of `w3ray.evaluation.head_counts.HeadCounts`. But its `state` holds the figures of all clips: states
    of parts cannot be added up.

    Args:
        heads: of the clips: which sets of classes their labels stand for.
        thresholds: from which score on the model says that a clip has the class; one for all classes, or one for each.
        device: where the scores are kept. To gather them, it must be a device of the process group.

    Raises:
        ValueError: the heads are of clips with one class each, or there is not one threshold for each class.
    """

    def __init__(
        self,
        heads: Heads,
        *,
        thresholds: float | Sequence[float] = DEFAULT_THRESHOLD,
        device: torch.device | str = "cpu",
    ) -> None:
        if not heads.multi_label:
            raise ValueError("need the heads of multi-label clips")
        self.heads, self._device = heads, torch.device(device)
        K = heads.num_scores
        self.thresholds = (float(thresholds),) * K if isinstance(thresholds, float | int) else tuple(thresholds)
        if len(self.thresholds) != K:
            raise ValueError(f"{len(self.thresholds)} thresholds for {K} classes")
        self._classes_LK = classes_of_sets(heads, self._device)
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []
        # Rows, rows that are not finite, hits, units of loss.
        self._totals = torch.zeros(4, dtype=torch.int64, device=self._device)
        self._loaded: tuple[ClassFigures, ...] | None = None

    def update(self, logits_BK: Tensor, labels_B: Tensor, valid_B: Tensor | None = None) -> None:
        """Add a batch of logits. Rows where `valid_B` is False are padding and are left out.

        Raises:
            ValueError: the shapes do not fit.
        """
        self.add_scores(scores_of_logits(logits_BK.double(), self.heads).float(), labels_B, valid_B)

    def add_scores(self, scores_BK: Tensor, labels_B: Tensor, valid_B: Tensor | None = None) -> None:
        """As `update`, but scores between 0 and 1. A clip with scores that are not finite gets scores of 0: it is never
        found, and makes the loss nan."""
        if scores_BK.shape != (len(labels_B), self.heads.num_scores):
            raise ValueError(f"need scores ({len(labels_B)}, {self.heads.num_scores}), got {tuple(scores_BK.shape)}")
        scores_BK, labels_B = scores_BK.detach().to(self._device), labels_B.to(self._device, torch.int64)
        if valid_B is not None:
            rows = valid_B.to("cpu", torch.bool).nonzero().squeeze(1).to(self._device)
            scores_BK, labels_B = scores_BK[rows], labels_B[rows]
        finite_B = scores_BK.isfinite().all(1)
        scores_BK = torch.where(finite_B[:, None], scores_BK, 0.0)
        has_BK = self._classes_LK[labels_B]
        exact_BK = scores_BK.double()
        losses_BK = torch.where(has_BK, -exact_BK.clamp(min=_LEAST).log(), -(1 - exact_BK).clamp(min=_LEAST_REST).log())
        units_B = (losses_BK.mean(1).clamp(max=MAX_LOSS) / LOSS_UNIT).round().to(torch.int64) * finite_B
        hits_B = best_is_a_class(scores_BK, labels_B, self._classes_LK) & finite_B
        rows_here = torch.tensor(len(labels_B), device=self._device)
        self._totals += torch.stack([rows_here, (~finite_B).sum(), hits_B.sum(), units_B.sum()])
        self._scores.append(scores_BK)
        self._labels.append(labels_B)
        self.__dict__.pop("figures", None)

    def all_reduce(self) -> Self:
        """Gather the scores of all ranks. Outside torch.distributed this does nothing."""
        if dist.is_available() and dist.is_initialized():
            scores_NK, labels_N = self._joined()
            self._scores, self._labels = [_gathered(scores_NK)], [_gathered(labels_N)]
            dist.all_reduce(self._totals)
            self.__dict__.pop("figures", None)
        return self

    def _joined(self) -> tuple[Tensor, Tensor]:
        none_NK = torch.zeros(0, self.heads.num_scores, device=self._device)
        none_N = torch.zeros(0, dtype=torch.int64, device=self._device)
        return torch.cat([none_NK, *self._scores]), torch.cat([none_N, *self._labels])

    @property
    def rows(self) -> int:
        """Number of clips."""
        return int(self._totals[0])

    @property
    def not_finite(self) -> int:
        """Number of clips with scores that are not finite."""
        return int(self._totals[1])

    @cached_property
    def figures(self) -> tuple[ClassFigures, ...]:
        """The figures of each class."""
        if self._loaded is not None:
            return self._loaded
        scores_NK, labels_N = self._joined()
        return _figures(scores_NK.cpu(), self._classes_LK[labels_N].cpu(), self.thresholds)

    def result(self) -> dict[str, float | int]:
        """Figures of all clips, shares in [0, 1].

        - `map`: mean of the average precisions of the classes that clips have; nan if there is none.
        - `hit1`: share of the clips of which the best score is one of their classes.
        - `micro_f1`, `micro_precision`, `micro_recall`: of all pairs of a clip and a class together; 0 where undefined.
        - `macro_f1`: mean of the F1 of the classes that clips have.
        - `loss`: mean binary cross-entropy. `rows`: number of clips.

        Raises:
            ValueError: there is no clip.
        """
        rows, not_finite, hits, loss_units = self._totals.tolist()
        if rows == 0:
            raise ValueError("no clip was counted, so there is no precision")
        present = [one for one in self.figures if one.clips]
        clips, right, wrong = (sum(getattr(one, name) for one in self.figures) for name in ("clips", "right", "wrong"))
        return {
            "map": _mean([one.average_precision for one in present]),
            "hit1": hits / rows,
            "micro_f1": 2 * right / max(1, clips + right + wrong),
            "macro_f1": _mean([one.f1 for one in present]),
            "micro_precision": right / max(1, right + wrong),
            "micro_recall": right / max(1, clips),
            "loss": float("nan") if not_finite else loss_units * LOSS_UNIT / rows,
            "rows": rows,
        }

    def state(self) -> Tensor:
        """The figures of all clips as one float64 vector. Call `all_reduce` before."""
        values = []
        for one in self.figures:
            shares = (one.average_precision, one.best_threshold, one.best_f1)
            values.append([one.clips, one.right, one.wrong, one.threshold, *map(_number, shares)])
        return torch.cat([self._totals.cpu().double(), torch.tensor(values, dtype=torch.float64).flatten()])

    def load_state(self, state: Tensor) -> Self:
        """Load a vector from `state()`: the figures, but not the scores.

        Raises:
            ValueError: the vector belongs to other classes.
        """
        if state.shape != (4 + 7 * self.heads.num_scores,):
            raise ValueError(f"need {4 + 7 * self.heads.num_scores} numbers, got {tuple(state.shape)}")
        self._totals.copy_(state[:4].to(torch.int64))
        self._loaded = tuple(
            ClassFigures(
                clips=int(clips),
                right=int(right),
                wrong=int(wrong),
                threshold=threshold,
                average_precision=_known(precision),
                best_threshold=_known(best),
                best_f1=_known(f1),
            )
            for clips, right, wrong, threshold, precision, best, f1 in state[4:].view(-1, 7).tolist()
        )
        self.__dict__.pop("figures", None)
        return self


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _known(value: float) -> float | None:
    return None if value != value else value


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _gathered(rows: Tensor) -> Tensor:
    """The rows of all ranks, which may have different numbers of them."""
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    most = max(int(one) for one in counts)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    parts = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(one)] for part, one in zip(parts, counts, strict=True)])


def _figures(scores_NK: Tensor, has_NK: Tensor, thresholds: Sequence[float]) -> tuple[ClassFigures, ...]:
    from torchmetrics.functional.classification import binary_average_precision, binary_precision_recall_curve

    limits_K = torch.tensor(thresholds, dtype=torch.float64)
    said_NK = scores_NK.double() >= limits_K
    figures = []
    for label, threshold in enumerate(thresholds):
        scores_N, has_N = scores_NK[:, label], has_NK[:, label].long()
        clips, said_N = int(has_N.sum()), said_NK[:, label]
        right = int((said_N & (has_N > 0)).sum())
        precision = best = best_f1 = None
        if clips:
            precision = float(binary_average_precision(scores_N, has_N))
            curve = binary_precision_recall_curve(scores_N, has_N)
            best, best_f1 = _best_threshold(*(one.double().numpy() for one in curve))
        figures.append(
            ClassFigures(
                clips=clips,
                average_precision=precision,
                threshold=threshold,
                right=right,
                wrong=int(said_N.sum()) - right,
                best_threshold=best,
                best_f1=best_f1,
            )
        )
    return tuple(figures)


def _best_threshold(precision_T: np.ndarray, recall_T: np.ndarray, scores_T: np.ndarray) -> tuple[float, float]:
    """The threshold with the highest F1, and that F1. Of equally good ones, the highest.

    Args:
        precision_T, recall_T, scores_T: of the clips with at least this score, for each different score, ascending.
    """
    precision_T, recall_T = precision_T[: len(scores_T)], recall_T[: len(scores_T)]
    f1_T = 2 * precision_T * recall_T / np.maximum(precision_T + recall_T, _LEAST)
    place = len(f1_T) - 1 - int(np.argmax(f1_T[::-1]))
    below = scores_T[place - 1] if place else 0.0
    return float((scores_T[place] + below) / 2), float(f1_T[place])

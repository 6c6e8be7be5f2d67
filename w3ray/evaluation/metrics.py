"""How many clips of each class were right? Counted in integers, so the sum is the same for any number of workers."""

from typing import Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

# Losses are added as integer multiples of 2^-24, about 6e-8: integer sums do not depend on the order of addition.
LOSS_UNIT = 2.0**-24
MAX_LOSS = 1e6


class Counts:
    """Counts of scored clips: confusion, top-k hits by class, and the summed cross-entropy.

    `confusion_KP` is int64 [K, K + 1]: rows are true classes, columns are predicted classes. The last column counts
    clips with scores that are not finite. Such clips are never right, and they make the mean loss nan. Equal scores are
    ranked by class number, so the counts do not depend on the sorting algorithm.

    Args:
        num_classes: K.
        top: a clip is a `top{top}` hit if its label is among the `top` best scores.
        device: where the counts are stored. For an all-reduce it must be a device of the process group.
    """

    def __init__(self, num_classes: int, *, top: int = 5, device: torch.device | str = "cpu") -> None:
        if num_classes < 1 or top < 1:
            raise ValueError(f"num_classes and top must be >= 1, got {num_classes} and {top}")
        self.num_classes, self.top = num_classes, top
        sizes = (num_classes * (num_classes + 1), num_classes, 1)
        # One buffer for one all-reduce. The three tensors are views of it.
        self._flat = torch.zeros(sum(sizes), dtype=torch.int64, device=device)
        confusion, self.top_hits_K, self._loss_units = self._flat.split(sizes)
        self.confusion_KP = confusion.view(num_classes, num_classes + 1)

    def update(self, logits_BK: Tensor, labels_B: Tensor, valid_B: Tensor | None = None) -> None:
        """Count a batch. Rows where `valid_B` is False are padding and are not counted.

        Raises:
            ValueError: the shapes do not fit.
        """
        if logits_BK.ndim != 2 or logits_BK.shape[1] != self.num_classes or labels_B.shape != logits_BK.shape[:1]:
            raise ValueError(
                f"need scores (B, {self.num_classes}) and labels (B,), got {tuple(logits_BK.shape)} and "
                f"{tuple(labels_B.shape)}"
            )
        device = self._flat.device
        logits_BK = logits_BK.detach().to(device, torch.float64)
        labels_B = labels_B.to(device, torch.int64)
        if valid_B is None:
            valid_B = torch.ones_like(labels_B, dtype=torch.bool)
        valid_B = valid_B.to(device, torch.bool)
        # Padding may hold any label. With weight 0 and class 0 the shapes stay fixed, so nothing waits for the device.
        labels_B = torch.where(valid_B, labels_B, 0)
        weight_B = valid_B.to(torch.int64)
        finite_B = logits_BK.isfinite().all(1)
        logits_BK = torch.where(finite_B[:, None], logits_BK, 0.0)

        true_B1 = logits_BK.gather(1, labels_B[:, None])
        classes_K = torch.arange(self.num_classes, device=device)
        ahead_BK = (logits_BK > true_B1) | ((logits_BK == true_B1) & (classes_K < labels_B[:, None]))
        rank_B = ahead_BK.sum(1)
        best_BK = logits_BK == logits_BK.amax(1, keepdim=True)
        predicted_B = torch.where(best_BK, classes_K, self.num_classes).amin(1)
        predicted_B = torch.where(finite_B, predicted_B, self.num_classes)
        cell_B = labels_B * (self.num_classes + 1) + predicted_B
        self.confusion_KP.view(-1).scatter_add_(0, cell_B, weight_B)
        self.top_hits_K.scatter_add_(0, labels_B, weight_B * (finite_B & (rank_B < self.top)))
        loss_B = F.cross_entropy(logits_BK, labels_B, reduction="none").clamp(max=MAX_LOSS)
        self._loss_units += (weight_B * finite_B * (loss_B / LOSS_UNIT).round().to(torch.int64)).sum()

    def state(self) -> Tensor:
        """All counts as one int64 vector (a copy). Sum the states of several parts to get the state of all clips."""
        return self._flat.clone()

    def load_state(self, state: Tensor) -> Self:
        """Load a vector from `state()`, or a sum of such vectors."""
        if state.shape != self._flat.shape or state.dtype != torch.int64:
            raise ValueError(f"need int64 {tuple(self._flat.shape)}, got {state.dtype} {tuple(state.shape)}")
        self._flat.copy_(state)
        return self

    def merge(self, other: "Counts") -> Self:
        """Add the counts of `other`."""
        if (other.num_classes, other.top) != (self.num_classes, self.top):
            raise ValueError(f"cannot add counts of {other.num_classes} classes to counts of {self.num_classes}")
        self._flat += other._flat.to(self._flat.device)
        return self

    def all_reduce(self) -> Self:
        """Add up the counts of all ranks, in one reduction. Outside torch.distributed this does nothing."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._flat)
        return self

    @property
    def rows(self) -> int:
        """Number of counted clips."""
        return int(self.confusion_KP.sum())

    @property
    def not_finite(self) -> int:
        """Number of clips with scores that are not finite."""
        return int(self.confusion_KP[:, -1].sum())

    @property
    def rows_K(self) -> Tensor:
        """Clips of each class, int64 [K]."""
        return self.confusion_KP.sum(1)

    @property
    def hits_K(self) -> Tensor:
        """Clips of each class with the right best score, int64 [K]."""
        return self.confusion_KP[:, :-1].diagonal()

    @property
    def loss_sum(self) -> float:
        """Sum of the cross-entropy over the clips with finite scores."""
        return int(self._loss_units) * LOSS_UNIT

    def result(self) -> dict[str, float | int]:
        """`top1`, `top5`, `mean_class_accuracy` (over classes that have clips), all in [0, 1]; `loss`, `rows`.

        Raises:
            ValueError: nothing was counted.
        """
        rows = self.rows
        if rows == 0:
            raise ValueError("no clip was counted, so there is no accuracy")
        present_K = self.rows_K > 0
        accuracy_K = self.hits_K[present_K].double() / self.rows_K[present_K].double()
        return {
            "top1": int(self.hits_K.sum()) / rows,
            f"top{self.top}": int(self.top_hits_K.sum()) / rows,
            "mean_class_accuracy": float(accuracy_K.mean()),
            "loss": float("nan") if self.not_finite else self.loss_sum / rows,
            "rows": rows,
        }

"""How far are the class scores from the label?"""

import torch
import torch.nn.functional as F
from torch import Tensor

from w3ray.heads import Head
from w3ray.training.losses._common import LossInputs
from w3ray.training.losses.uneven import Uneven


class CrossEntropy:
    """Cross-entropy of the clip's scores, summed over clips.

    Args:
        label_smoothing: share of the target that is spread evenly over all classes, 0 <= label_smoothing < 1.
        head: use only this head's scores and its part of the label. None: all scores.
        uneven: what to do about classes with few clips.

    Raises:
        ValueError: label_smoothing outside [0, 1).
    """

    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0, head: Head | None = None, uneven: Uneven | None = None) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.head = head
        name = "" if head is None else head.name
        self._weights = None if uneven is None else uneven.weights(name)
        self._offsets = None if uneven is None else uneven.offsets(name)
        self._gamma = 0.0 if uneven is None else uneven.focal_gamma

    def __call__(self, inputs: LossInputs) -> Tensor:
        # Under autocast, scores may be bf16. A sum of logarithms needs more digits.
        logits_BK = inputs.logits_BK.to(torch.promote_types(inputs.logits_BK.dtype, torch.float32))
        labels_B = inputs.labels_B
        if self.head is not None:
            logits_BK, labels_B = logits_BK[:, self.head.scores], self.head.label(labels_B)
        if self._offsets is not None:
            logits_BK = logits_BK + self._offsets.to(logits_BK)
        if self._weights is None and self._gamma == 0:
            return F.cross_entropy(logits_BK, labels_B, reduction="sum", label_smoothing=self.label_smoothing)
        losses_B = F.cross_entropy(logits_BK, labels_B, reduction="none", label_smoothing=self.label_smoothing)
        if self._gamma > 0:
            right_B = logits_BK.softmax(dim=1).gather(1, labels_B[:, None]).squeeze(1)
            # At p = 1 the power of a number below 1 has no gradient.
            losses_B = losses_B * (1 - right_B).clamp(min=torch.finfo(right_B.dtype).eps) ** self._gamma
        if self._weights is not None:
            losses_B = losses_B * self._weights.to(losses_B)[labels_B]
        return losses_B.sum()

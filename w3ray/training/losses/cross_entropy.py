"""How far are the class scores from the label?"""

import torch
import torch.nn.functional as F
from torch import Tensor

from w3ray.heads import Head
from w3ray.training.losses._common import LossInputs


class CrossEntropy:
    """Cross-entropy of the clip's scores, summed over clips.

    Args:
        label_smoothing: share of the target that is spread evenly over all classes, 0 <= label_smoothing < 1.
        head: use only this head's scores and its part of the label. None: all scores.

    Raises:
        ValueError: label_smoothing outside [0, 1).
    """

    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0, head: Head | None = None) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.head = head

    def __call__(self, inputs: LossInputs) -> Tensor:
        # Under autocast, scores may be bf16. A sum of logarithms needs more digits.
        logits_BK = inputs.logits_BK.to(torch.promote_types(inputs.logits_BK.dtype, torch.float32))
        labels_B = inputs.labels_B
        if self.head is not None:
            logits_BK, labels_B = logits_BK[:, self.head.scores], self.head.label(labels_B)
        return F.cross_entropy(logits_BK, labels_B, reduction="sum", label_smoothing=self.label_smoothing)

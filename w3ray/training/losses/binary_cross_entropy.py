"""How far is each class's own probability from whether the clip has the class?"""

import torch
import torch.nn.functional as F
from torch import Tensor

from w3ray.training.losses import check_uneven_of_sets
from w3ray.training.losses._common import LossInputs
from w3ray.training.losses.uneven import Uneven


class BinaryCrossEntropy:
    """Binary cross-entropy of the sigmoid of each score: the mean over classes, summed over clips.

    It is the classification loss of multi-label clips. The mean over classes is that of `torch.nn.BCEWithLogitsLoss`,
    with which PySlowFast trains on Charades. Clips with one class each may use it, too.

    Args:
        label_smoothing: e; the target is 1 - e / 2 for a class that the clip has, e / 2 for another one, because each
            class is a question with two answers. 0 <= label_smoothing < 1.
        uneven: what to do about classes with few clips. Class weights "balanced" multiply the loss of the n clips with
            a class by (N - n) / n, as `pos_weight` of `torch.nn.BCEWithLogitsLoss` does: of N clips, those with the
            class count as much as those without. The focal factor is (1 - p)^gamma, where p is the probability of the
            right answer for the class (Lin et al., ICCV 2017, Eq. 4).

    Raises:
        ValueError: label_smoothing outside [0, 1), or a treatment of uneven classes that is not for this loss.
    """

    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0, uneven: Uneven | None = None) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        uneven = uneven or Uneven()
        check_uneven_of_sets(uneven.class_weights, uneven.logit_adjustment)
        self.label_smoothing = label_smoothing
        self._positive_weights_K = uneven.positive_weights()
        self._gamma = uneven.focal_gamma

    def __call__(self, inputs: LossInputs) -> Tensor:
        # Under autocast, scores may be bf16. A sum of logarithms needs more digits.
        logits_BK = inputs.logits_BK.to(torch.promote_types(inputs.logits_BK.dtype, torch.float32))
        classes_BK = inputs.classes_BK
        if classes_BK is None:
            classes_BK = F.one_hot(inputs.labels_B, logits_BK.shape[1])
        has_BK = classes_BK.to(logits_BK.dtype)
        targets_BK = has_BK * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights_K = None if self._positive_weights_K is None else self._positive_weights_K.to(logits_BK)
        losses_BK = F.binary_cross_entropy_with_logits(logits_BK, targets_BK, reduction="none", pos_weight=weights_K)
        if self._gamma > 0:
            wrong_BK = torch.sigmoid(torch.where(has_BK > 0, -logits_BK, logits_BK))
            # At 0 the power of a number below 1 has no gradient.
            losses_BK = losses_BK * wrong_BK.clamp(min=torch.finfo(wrong_BK.dtype).eps) ** self._gamma
        return losses_BK.mean(dim=1).sum()

"""Focal loss: clips with a confident and correct score count less (Lin et al., ICCV 2017, Eq. 4).

L = -(1 - p)^gamma log p,    p = softmax(scores)[label],    gamma = 2
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from w3ray.training.losses import LossInputs

GAMMA = 2.0


class Focal:
    """The SUM over the given clips: the training step divides by the clips of the whole batch."""

    needs_teacher = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        # Scores may be bf16 under autocast. A sum of logarithms needs more digits.
        logits_BK = inputs.logits_BK.to(torch.promote_types(inputs.logits_BK.dtype, torch.float32))
        log_p_B = F.log_softmax(logits_BK, dim=1).gather(1, inputs.labels_B[:, None]).squeeze(1)
        return (-((1 - log_p_B.exp()) ** GAMMA) * log_p_B).sum()

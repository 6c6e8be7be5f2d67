"""What does a loss do about classes with few clips?

With n_c training clips of class c, N in all, and K classes that have any:

- class weights "balanced": N / (K n_c) for each clip of class c.
- class weights "effective": (1 - b) / (1 - b^n_c) with b = 0.999, scaled so that their mean over the clips is 1 (Cui et
  al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, Eq. 4). It weights classes of some hundred
  clips nearly alike.
- focal loss: (1 - p)^gamma times the loss, where p is the probability of the right class (Lin et al., "Focal Loss for
  Dense Object Detection", ICCV 2017, Eq. 4). Clips that are right already count less.
- logit adjustment: tau log(n_c / N) is added to the scores in training only (Menon et al., "Long-tail learning via
  logit adjustment", ICLR 2021, Eq. 10). So the network learns scores for classes that are equally frequent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

ClassWeights = Literal["balanced", "effective"]
EFFECTIVE_BETA = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Uneven:
    """How a cross-entropy treats uneven classes. The defaults change nothing.

    Raises:
        ValueError: a number is out of range.
    """

    class_weights: ClassWeights | None = None
    focal_gamma: float = 0.0
    logit_adjustment: float = 0.0
    """tau."""
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Name of a head ("" for a single one) -> training clips of each of its classes."""
    clips: int = 0
    """All training clips."""

    def __post_init__(self) -> None:
        if self.focal_gamma < 0 or self.logit_adjustment < 0:
            raise ValueError(
                f"focal_gamma and logit_adjustment must be >= 0, got {self.focal_gamma} and {self.logit_adjustment}"
            )

    def weights(self, head: str) -> Tensor | None:
        """The weight of a clip of each class, [K]."""
        if self.class_weights is None:
            return None
        counts = self._counts(head)
        if self.class_weights == "balanced":
            weights = counts.reciprocal()
        else:
            weights = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**counts)
        weights[counts == 0] = 0.0  # no clip asks for it
        return weights * counts.sum() / (weights * counts).sum()

    def offsets(self, head: str) -> Tensor | None:
        """What is added to the scores of each class in training, [K]. A class without clips counts as one with one."""
        if self.logit_adjustment == 0:
            return None
        counts = self._counts(head)
        return self.logit_adjustment * (counts.clamp(min=1) / counts.sum()).log()

    def positive_weights(self) -> Tensor | None:
        """For the binary cross-entropy: how often clips without a class there are for one with it, [K].

        A class without clips counts as one with one, and a class that all clips have as one that all but one have.
        """
        if self.class_weights is None:
            return None
        counts = self._counts("")
        return (self.clips - counts).clamp(min=1) / counts.clamp(min=1)

    def _counts(self, head: str) -> Tensor:
        return torch.tensor(self.counts[head], dtype=torch.float64)

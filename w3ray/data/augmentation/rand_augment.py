"""RandAugment: some random changes in a row, all of the same strength.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", arXiv:1909.13719.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from w3ray._options import check_whole
from w3ray.data.augmentation._common import AugmentationOptions, transformed, v2
from w3ray.data.crop import Frames

_STRENGTHS = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class RandAugment(AugmentationOptions):
    """torchvision's RandAugment, with one draw for all frames. The defaults are the paper's for ResNet-50 on ImageNet.

    The changes are shear, translation, rotation, brightness, colour, contrast, sharpness, posterising, solarising,
    automatic contrast and equalising. Nothing is mirrored.
    """

    label: ClassVar[str] = "rand_augment"
    num_ops: int = 2
    """Changes of a clip, N in the paper."""
    magnitude: int = 9
    """Their strength, M in the paper, from 0 to 30."""

    def __post_init__(self) -> None:
        check_whole(self.label, "num_ops", self.num_ops)
        check_whole(self.label, "magnitude", self.magnitude, least=0)
        if self.magnitude >= _STRENGTHS:
            raise ValueError(f"{self.label}: magnitude={self.magnitude}: must be a whole number from 0 to 30")

    def __call__(self, frames_TSSC: Frames, rng: np.random.Generator) -> Frames:
        transform = v2().RandAugment(self.num_ops, self.magnitude, num_magnitude_bins=_STRENGTHS)
        return transformed(transform, frames_TSSC, rng)

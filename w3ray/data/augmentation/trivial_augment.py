"""TrivialAugment: one random change of random strength, without anything to tune.

Müller & Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", arXiv:2103.10158.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from w3ray.data.augmentation._common import AugmentationOptions, transformed, v2
from w3ray.data.crop import Frames


@dataclass(frozen=True, slots=True, kw_only=True)
class TrivialAugment(AugmentationOptions):
    """torchvision's TrivialAugmentWide ("wide" as in the paper's table 1), with one draw for all frames.

    Rotations reach 135 degrees: classes that differ in direction, such as left and right, can be confused.
    """

    label: ClassVar[str] = "trivial_augment"

    def __call__(self, frames_TSSC: Frames, rng: np.random.Generator) -> Frames:
        return transformed(v2().TrivialAugmentWide(), frames_TSSC, rng)

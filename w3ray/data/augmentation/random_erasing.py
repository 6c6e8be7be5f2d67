"""Random erasing: a random rectangle is covered, at the same place in all frames.

Zhong et al., "Random Erasing Data Augmentation", arXiv:1708.04896.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from w3ray.data.augmentation._common import AugmentationOptions, transformed, v2
from w3ray.data.crop import Frames

_MEAN_COLOUR = (124.0, 116.0, 104.0)
"""ImageNet's mean: 0 for a network that subtracts it."""
_NO_MOTION = 128.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomErasing(AugmentationOptions):
    """torchvision's RandomErasing, with one draw for all frames. The defaults are the paper's (p, s_l, s_h, r_1).

    The rectangle gets the mean colour; optical flow gets no motion.
    """

    label: ClassVar[str] = "random_erasing"
    needs_rgb: ClassVar[bool] = False
    probability: float = 0.5
    """Share of the clips that are changed."""
    least_area: float = 0.02
    """Area of the smallest rectangle, as a share of the frame."""
    most_area: float = 0.4
    """Area of the largest rectangle."""

    def __post_init__(self) -> None:
        for name in ("probability", "least_area", "most_area"):
            self.check_share(name)
        if not 0 < self.least_area <= self.most_area:
            raise ValueError(
                f"{self.label}: least_area={self.least_area!r}: must be above 0 and at most most_area "
                f"({self.most_area!r})"
            )

    def __call__(self, frames_TSSC: Frames, rng: np.random.Generator) -> Frames:
        channels = frames_TSSC.shape[3]
        cover = list(_MEAN_COLOUR) if channels == 3 else [_NO_MOTION] * channels
        transform = v2().RandomErasing(
            self.probability, scale=(self.least_area, self.most_area), ratio=(0.3, 1 / 0.3), value=cover
        )
        return transformed(transform, frames_TSSC, rng)

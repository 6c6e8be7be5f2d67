"""Colour jitter: random brightness, contrast, saturation and hue.

Source of the method and of the name: torchvision's ColorJitter.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from w3ray.data.augmentation._common import AugmentationOptions, transformed, v2
from w3ray.data.crop import Frames


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorJitter(AugmentationOptions):
    """torchvision's ColorJitter, with one draw for all frames.

    The defaults are those of MoCo v2 (Chen et al., arXiv:2003.04297, its code).
    """

    label: ClassVar[str] = "color_jitter"
    brightness: float = 0.4
    """The factor of brightness is drawn from [1 - brightness, 1 + brightness]."""
    contrast: float = 0.4
    """The factor of contrast is drawn from [1 - contrast, 1 + contrast]."""
    saturation: float = 0.4
    """The factor of saturation is drawn from [1 - saturation, 1 + saturation]."""
    hue: float = 0.1
    """The shift is drawn from [-hue, hue], as a share of the colour circle; at most 0.5."""
    probability: float = 0.8
    """Share of the clips that are changed."""

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "probability"):
            self.check_share(name)
        self.check_share("hue", most=0.5)

    def __call__(self, frames_TSSC: Frames, rng: np.random.Generator) -> Frames:
        jitter = v2().ColorJitter(self.brightness, self.contrast, self.saturation, self.hue)
        return transformed(v2().RandomApply([jitter], p=self.probability), frames_TSSC, rng)

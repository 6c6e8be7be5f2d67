"""What do all augmentations have in common?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from w3ray._options import Options
from w3ray.data.crop import Frames

if TYPE_CHECKING:
    from torch import Tensor

Augmentation = Callable[[Frames, np.random.Generator], Frames]


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationOptions(Options):
    """Base of augmentations with options: the fields are the options, and a call changes a clip.

    A subclass with options checks them in `__post_init__` (ValueError, the message names the field).
    """

    needs_rgb: ClassVar[bool] = True
    """It changes colours or expects three channels, so it cannot be used for optical flow."""

    def __call__(self, frames_TSSC: Frames, rng: np.random.Generator) -> Frames:
        """The changed clip, uint8 [T, S, S, C]. All random numbers come from `rng`."""
        raise NotImplementedError

    def check_share(self, name: str, *, above: float = 0.0, most: float = 1.0) -> None:
        """Raise ValueError unless the option `name` is a number from `above` to `most`."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not above <= value <= most:
            raise ValueError(f"{self.label}: {name}={value!r}: must be a number from {above:g} to {most:g}")


def transformed(transform: "Callable[[Tensor], Tensor]", frames_TSSC: Frames, rng: np.random.Generator) -> Frames:
    """The clip after a transform of torchvision, which makes the same change to all frames.

    torchvision draws from torch's global generator. It gets a seed from `rng`, and its old state afterwards.
    """
    import torch

    seed = int(rng.integers(2**63))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        changed_TCSS = transform(torch.from_numpy(frames_TSSC).permute(0, 3, 1, 2))
    return np.ascontiguousarray(changed_TCSS.permute(0, 2, 3, 1).numpy())


def v2() -> Any:
    """`torchvision.transforms.v2`, imported when the first clip is augmented: recipes are checked without it."""
    from torchvision.transforms import v2 as transforms

    return transforms

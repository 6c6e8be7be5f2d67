"""How do masks of any resolution become maps over the frames of a clip?

Axes: T frames, H height, W width, S side of the square frames.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from w3ray.explaining.record import FloatArray, Look

FLAT = 1e-6
"""If the range of values is below this share of the largest one, all count as equal."""


def to_frames(mask_THW: FloatArray, num_frames: int, size: int) -> FloatArray:
    """Resize a mask to the number and size of the frames: [T', H, W] -> [T, S, S].

    The interpolation is linear in space and, for 3D networks, in time. A cell of the mask covers the same share of the
    picture before and after.
    """
    mask_11THW = torch.from_numpy(np.ascontiguousarray(mask_THW))[None, None]
    frames_11TSS = F.interpolate(mask_11THW, size=(num_frames, size, size), mode="trilinear", align_corners=False)
    frames_TSS: FloatArray = frames_11TSS[0, 0].numpy()
    return frames_TSS


def stretch(values: npt.ArrayLike) -> FloatArray:
    """Stretch values to [0, 1], over all frames together, so that quiet frames stay quiet. If all are equal: all 0."""
    array = np.asarray(values, np.float32)
    least, greatest = float(array.min()), float(array.max())
    if greatest - least <= FLAT * max(abs(least), abs(greatest)):
        return np.zeros_like(array)
    return (array - least) / np.float32(greatest - least)


def last_of_stages(looks: Iterable[Look]) -> list[Look]:
    """One look for each stage: its last look with a mask, as in refinement (Eq. 7)."""
    return list({look.stage: look for look in looks if look.mask_THW is not None}.values())


def mean_map(masks: Sequence[FloatArray], num_frames: int, size: int) -> FloatArray:
    """One map [T, S, S] in [0, 1]: the mean of several masks. Each is stretched first, because their ranges differ."""
    stretched = [stretch(to_frames(mask_THW, num_frames, size)) for mask_THW in masks]
    return stretch(np.mean(stretched, axis=0))

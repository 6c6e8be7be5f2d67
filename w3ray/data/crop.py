"""How does a frame of any size become a square of the training size, the same way for all frames of a clip?

Only boxes are random: pure functions draw a box (top, left, height, width; pixels of the source frame) and
`crop_and_resize` cuts it out before it resizes, so that no pixel is resized and then thrown away. Frames are
uint8 from the decoder to the training step.

Letters: T frames, H height, W width, S side of the square, C = 3 colours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]


class Box(NamedTuple):
    """A rectangle in pixels of the source frame."""

    top: int
    left: int
    height: int
    width: int


# Thirteen places in quarters of the free space (down, right): corners, centre, middles of the edges, quarter points.
# Source: GroupMultiScaleCrop with fix_crop and more_fix_crop, which TSM trains with.
_PLACES = (
    (0, 0), (0, 4), (4, 0), (4, 4), (2, 2),
    (2, 0), (2, 4), (4, 2), (0, 2),
    (1, 1), (1, 3), (3, 1), (3, 3),
)  # fmt: skip


def random_crop_box(height: int, width: int, scales: Sequence[float], rng: np.random.Generator) -> Box:
    """TSM's multi-scale crop: both sides are a scale times the short side, at one of thirteen places.

    The two sides may differ by one step of `scales` (aspect ratio jitter), not more.

    Raises: ValueError if `scales` is empty or holds a value outside (0, 1].
    """
    check_scales(scales)
    short_side = min(height, width)
    sides = [max(1, int(short_side * scale)) for scale in scales]
    pairs = [(i, j) for i in range(len(sides)) for j in range(len(sides)) if abs(i - j) <= 1]
    i, j = pairs[int(rng.integers(len(pairs)))]
    down, right = _PLACES[int(rng.integers(len(_PLACES)))]
    top = (height - sides[i]) * down // 4
    left = (width - sides[j]) * right // 4
    return Box(top, left, sides[i], sides[j])


def centre_crop_box(height: int, width: int, share: float = 1.0) -> Box:
    """The centred square whose side is `share` of the short side.

    With `share` = size / short_side the result is that of resizing the short side and then cutting out the centre.

    Raises: ValueError if `share` is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], not {share}")
    side = max(1, round(min(height, width) * share))
    return Box((height - side) // 2, (width - side) // 2, side, side)


def check_scales(scales: Sequence[float]) -> None:
    """Raises ValueError unless `scales` holds at least one number and all are in (0, 1]."""
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise ValueError(f"scales must be one or more numbers in (0, 1], not {tuple(scales)}")


def crop_and_resize(frames_THWC: Frames, box: Box, size: int | tuple[int, int], *, mirror: bool = False) -> Frames:
    """Cut `box` out of every frame, resize it (antialiased bilinear), mirror left and right if asked.

    Args: uint8 [T, H, W, 3]; `size` is the side of a square, or (height, width).
    Returns: a new contiguous uint8 array [T, S, S, 3].
    """
    # Imported here: processes that need only the settings of a clip (driver, coordinator) start seconds earlier.
    import torch
    from torch.nn import functional as F

    box_THWC = frames_THWC[:, box.top : box.top + box.height, box.left : box.left + box.width]
    size = (size, size) if isinstance(size, int) else size
    if (box.height, box.width) == size:
        square_TSSC = box_THWC
    else:
        # A permuted view keeps the channels last. Torch then resizes interleaved RGB pixels, 4x faster than per plane.
        box_TCHW = torch.from_numpy(box_THWC).permute(0, 3, 1, 2)
        square_TCSS = F.interpolate(box_TCHW, size=size, mode="bilinear", antialias=True)
        square_TSSC = square_TCSS.permute(0, 2, 3, 1).numpy()
    if mirror:
        square_TSSC = square_TSSC[:, :, ::-1]
    # Never a view of the decoded frames: it would keep these large arrays in memory.
    if np.shares_memory(square_TSSC, frames_THWC):
        return square_TSSC.copy()
    return np.ascontiguousarray(square_TSSC)

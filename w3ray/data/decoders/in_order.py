"""How are many frames of a long video read in one pass, without holding them all?"""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from w3ray.data.decoders._common import DecodeError, Video, check_indices

_AT_ONCE = 8
"""How many frames a decoder without `in_order` is asked for at a time."""


@runtime_checkable
class InOrder(Protocol):
    """A `Video` that decodes each frame of a long request once. A decoder may have this; none needs it."""

    def in_order(self, ascending: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        """As `frames_in_order`, for indices that ascend without repeats."""


def frames_in_order(video: Video, ascending: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
    """The frames at these indices one after the other, uint8 [H, W, 3] each.

    The frames are those of `video.frames`. A video without `in_order` is asked for a few frames at a time. Read nothing
    else from the video before the iterator is at its end.

    Args:
        video: an open video.
        ascending: indices that ascend without repeats.

    Raises:
        IndexError: an index lies outside the video.
        ValueError: the indices do not ascend.
        DecodeError: a frame cannot be decoded, or the size of the frames changes.
    """
    wanted = check_indices(ascending, video.info.num_frames)
    if (np.diff(wanted) <= 0).any():
        raise ValueError("the indices must ascend, without repeats")
    shape: tuple[int, ...] | None = None
    for image in video.in_order(wanted) if isinstance(video, InOrder) else _by_few(video, wanted):
        if shape is not None and shape != image.shape:
            uri = str(getattr(video, "uri", "the video"))
            raise DecodeError(uri, f"the frame size changes within the video: {sorted([shape, image.shape])}")
        shape = image.shape
        yield np.ascontiguousarray(image)  # a frame that was turned upright is a view, which torch refuses


def _by_few(video: Video, wanted: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(wanted), _AT_ONCE):
        yield from video.frames(wanted[first : first + _AT_ONCE])

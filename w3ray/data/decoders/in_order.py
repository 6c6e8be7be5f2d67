"""How are many frames of a long video read in one pass, without holding them all?"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from w3ray.data.decoders._common import DecodeError, Video, check_indices

Pixels = Callable[[], np.ndarray]
"""Makes the pixels of a decoded frame, uint8 [H, W, 3]. Another thread than the decoder's may call it."""

_AT_ONCE = 8
"""How many frames a decoder without `in_order` is asked for at a time."""


@runtime_checkable
class InOrder(Protocol):
    """A `Video` that decodes each frame of a long request once. A decoder may have this; none needs it."""

    def in_order(self, ascending: Sequence[int] | np.ndarray) -> Iterator[Pixels]:
        """As `decoded_in_order`, for indices that ascend without repeats."""


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
    return (pixels() for pixels in decoded_in_order(video, ascending))


def decoded_in_order(video: Video, ascending: Sequence[int] | np.ndarray) -> Iterator[Pixels]:
    """As `frames_in_order`, but the pixels of a frame are made when it is called. So two threads can share the work.

    Call each one once, in order, before the video is closed. Each holds a decoded frame in memory.
    """
    wanted = check_indices(ascending, video.info.num_frames)
    if (np.diff(wanted) <= 0).any():
        raise ValueError("the indices must ascend, without repeats")
    same_size = _SameSize(str(getattr(video, "uri", "the video")))
    for pixels in video.in_order(wanted) if isinstance(video, InOrder) else _by_few(video, wanted):
        yield partial(same_size, pixels)


class _SameSize:
    """Refuses a frame whose size differs from the first one's."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._shape: tuple[int, ...] | None = None

    def __call__(self, pixels: Pixels) -> np.ndarray:
        image = pixels()
        if self._shape is not None and self._shape != image.shape:
            sizes = sorted([self._shape, image.shape])
            raise DecodeError(self._uri, f"the frame size changes within the video: {sizes}")
        self._shape = image.shape
        return np.ascontiguousarray(image)  # a frame that was turned upright is a view, which torch refuses


def _by_few(video: Video, wanted: np.ndarray) -> Iterator[Pixels]:
    for first in range(0, len(wanted), _AT_ONCE):
        for image in video.frames(wanted[first : first + _AT_ONCE]):
            yield partial(_itself, image)


def _itself(image: np.ndarray) -> np.ndarray:
    return image

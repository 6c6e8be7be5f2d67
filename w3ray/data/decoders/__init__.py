"""Which decoders read a video, and how is one opened? A new decoder is one file here and one entry in DECODERS."""

from collections.abc import Callable

from w3ray.data.decoders._common import DecodeError, Video, VideoInfo
from w3ray.data.decoders.decord import DecordVideo
from w3ray.data.decoders.pyav import PyavVideo
from w3ray.errors import InputError

__all__ = ["DECODERS", "DecodeError", "Video", "VideoInfo", "open_video"]

DECODERS: dict[str, Callable[[str], Video]] = {
    "decord": DecordVideo,
    "pyav": PyavVideo,
}


def open_video(uri: str, decoder: str = "decord") -> Video:
    """Open a video for reading single frames.

    Raises:
        InputError: no decoder has that name.
        DecodeError: the video can not be read; the reason says why.
    """
    if decoder not in DECODERS:
        raise InputError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}")
    return DECODERS[decoder](uri)

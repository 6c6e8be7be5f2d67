"""Which decoders read a video, and how is one opened? A new decoder is one file here and one entry in DECODERS.

`FrameFolder` reads a folder of images, whatever decoder is asked for. The decoders in DECODERS read files.
"""

from collections.abc import Callable, Sequence

from w3ray._registry import Registry
from w3ray.data.decoders._common import DecodeError, Video, VideoInfo
from w3ray.data.decoders.decord import DecordVideo
from w3ray.data.decoders.frames import FrameFolder, is_frame_folder
from w3ray.data.decoders.pyav import PyavVideo
from w3ray.data.decoders.torchcodec import TorchcodecVideo, load_torchcodec
from w3ray.data.roots import outside
from w3ray.data.video_cache import VideoCache
from w3ray.errors import InputError

__all__ = ["DECODERS", "DEFAULT_DECODER", "DecodeError", "Video", "VideoInfo", "open_video", "require_decoder"]

MIN_FRAMES = 2

DEFAULT_DECODER = "pyav"
"""The exact decoder. The others refuse files on which they are not proven right."""

DECODERS: Registry[Callable[[str, VideoCache | None], Video]] = Registry(
    "decoders",
    {"pyav": PyavVideo, "decord": DecordVideo, "torchcodec": TorchcodecVideo},
    contract="w3ray.testing:check_decoder",
)
"""Name -> `decoder(uri, cache)`, which opens a file."""


def open_video(
    uri: str,
    decoder: str = DEFAULT_DECODER,
    roots: Sequence[str] | None = None,
    cache: VideoCache | None = None,
) -> Video:
    """Open a video, or a folder of frames, for reading single frames.

    Args:
        uri: the video or folder.
        decoder: a key of `DECODERS`.
        roots: the video must lie below one of them, links followed; None: anywhere.
        cache: keeps videos from object storage; None: no cache.

    Raises:
        InputError: no decoder has that name.
        DecodeError: the video cannot be read, or has a single frame, which shows no action; the reason says which.
    """
    if decoder not in DECODERS:
        raise _unknown(decoder)
    if outside(uri, roots):
        raise DecodeError(uri, "it is a link that leads outside the roots")
    video: Video = FrameFolder(uri, roots, cache) if is_frame_folder(uri) else DECODERS[decoder](uri, cache)
    if video.info.num_frames < MIN_FRAMES:
        video.close()
        raise DecodeError(uri, f"only {video.info.num_frames} frame: nothing can move in it")
    return video


def require_decoder(decoder: str) -> None:
    """Raises: InputError if no decoder has that name, or its library is not installed."""
    if decoder not in DECODERS:
        raise _unknown(decoder)
    if decoder == "torchcodec":
        load_torchcodec()


def _unknown(decoder: str) -> InputError:
    return InputError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}")

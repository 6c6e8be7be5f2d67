"""Which decoders read a video, and how is one opened? A new decoder is one file here and one entry in DECODERS.

`FrameFolder` reads a folder of images, whatever decoder is asked for. The decoders in DECODERS read files.
"""

from collections.abc import Callable, Sequence

from w3ray._registry import Registry
from w3ray.data.decoders._common import DecodeError, Video, VideoInfo
from w3ray.data.decoders._proven import ProvenVideo
from w3ray.data.decoders.decord import DecordVideo
from w3ray.data.decoders.frames import FrameFolder, is_frame_folder
from w3ray.data.decoders.pyav import PyavVideo
from w3ray.data.decoders.torchcodec import TorchcodecVideo
from w3ray.data.decoders.torchcodec_cuda import TorchcodecCudaVideo
from w3ray.data.roots import outside
from w3ray.data.video_cache import VideoCache
from w3ray.errors import InputError

__all__ = ["DECODERS", "DEFAULT_DECODER", "DecodeError", "Video", "VideoInfo", "open_video", "require_decoder"]

MIN_FRAMES = 2

DEFAULT_DECODER = "pyav"
"""The exact decoder. The others refuse files on which they are not proven right."""

DECODERS: Registry[Callable[[str, VideoCache | None], Video]] = Registry(
    "decoders",
    {
        "pyav": PyavVideo,
        "decord": DecordVideo,
        "torchcodec": TorchcodecVideo,
        "torchcodec_cuda": TorchcodecCudaVideo,
    },
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
        InputError: no decoder has that name, or it cannot be used here (`require_decoder`).
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


def require_decoder(decoder: str, *, in_process: bool = False) -> None:
    """Check that a decoder can be used, before the first video.

    Args:
        decoder: a name in `DECODERS`.
        in_process: this process decodes. Else processes of a Ray cluster do. These see no GPU: trainers and scorers
            take whole GPUs.

    Raises:
        InputError: no decoder has that name, its library is not installed or cannot be used here, or it decodes on a
            GPU and this process does not decode.
    """
    if decoder not in DECODERS:
        raise _unknown(decoder)
    opener = DECODERS[decoder]
    if not (isinstance(opener, type) and issubclass(opener, ProvenVideo)):
        return
    if opener.on_gpu and not in_process:
        raise InputError(
            f"decoder {decoder} is only for w3ray data show, w3ray explain and Python: the decoders of a run get no "
            "GPU, because trainers and scorers take whole GPUs; use the decoder pyav"
        )
    opener.load()


def _unknown(decoder: str) -> InputError:
    return InputError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}")

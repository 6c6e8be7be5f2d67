"""What does the container say about a video? No more than the first frame is decoded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path

from w3ray.data.decoders import open_video
from w3ray.data.decoders._common import (
    NO_VIDEO_STREAM,
    DecodeError,
    check_not_cut,
    open_source,
    promised_length,
    silence_ffmpeg,
)
from w3ray.data.decoders._container import HEAD_BYTES, check_container
from w3ray.data.decoders._orientation import orientation_in
from w3ray.data.decoders.frames import is_frame_folder
from w3ray.data.decoders.pyav import failure_reason
from w3ray.data.roots import outside
from w3ray.storage import RemotePath, storage_path

FRAME_FOLDER = "jpeg frames"
"""The codec of a folder of images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoHeader:
    """What the header says. It may be wrong by some frames; None if it says nothing.

    `height` and `width` are those of the first frame as shown (rotation applied), pixels; `fps` is the average rate.
    """

    codec: str
    height: int
    width: int
    fps: float | None
    duration_s: float | None


def probe_video(uri: str, roots: Sequence[str] | None = None) -> VideoHeader:
    """Read the header and the first frame of a video. No more than these is fetched from object storage.

    Raises:
        DecodeError: the video cannot be read, or (for a local file) was visibly cut off; the reason says why.
        StorageFailing, StorageRefused: the storage failed, which says nothing about the video.
    """
    import av

    if outside(uri, roots):
        raise DecodeError(uri, "it is a link that leads outside the roots")
    if is_frame_folder(uri):
        return _folder(uri, roots)
    where = storage_path(uri)
    silence_ffmpeg()
    try:
        with _opened(uri, where) as source, av.open(source) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise DecodeError(uri, NO_VIDEO_STREAM)
            stream.thread_type = "NONE"  # many videos are read at once
            duration_s = promised_length(container)[0]
            if duration_s is None and container.duration:
                duration_s = container.duration / 1e6  # of all streams together: nearly always the same
            frame = next(container.decode(stream), None)
            if frame is None:
                raise DecodeError(uri, "the video stream holds no frame")
            sides = (frame.height, frame.width)
            height, width = sides[::-1] if orientation_in(frame).transpose else sides
            return VideoHeader(
                codec=stream.codec_context.codec.canonical_name,
                height=height,
                width=width,
                fps=float(stream.average_rate) if stream.average_rate else None,
                duration_s=duration_s,
            )
    except (av.FFmpegError, ValueError, OSError) as error:
        raise DecodeError(uri, failure_reason(error, str(where))) from error


@contextmanager
def _opened(uri: str, where: Path | RemotePath) -> Iterator[str | BytesIO | BufferedReader]:
    """A source that FFmpeg may open: one whose content is a video container."""
    if isinstance(where, Path):
        local = open_source(uri)
        check_container(local, uri)
        check_not_cut(local, uri)
        yield local
        return
    try:
        stream = where.open()
    except FileNotFoundError as error:
        raise DecodeError(uri, "cannot be fetched: no such file") from error
    with stream:
        head = stream.read(HEAD_BYTES)
        if not head:
            raise DecodeError(uri, "the file is empty (0 bytes)")
        check_container(BytesIO(head), uri)
        stream.seek(0)
        yield stream


def _folder(uri: str, roots: Sequence[str] | None) -> VideoHeader:
    with open_video(uri, roots=roots) as video:
        video.frames([0])
        info = video.info
    assert info.height is not None, "a frame was read"
    assert info.width is not None
    return VideoHeader(
        codec=FRAME_FOLDER, height=info.height, width=info.width, fps=info.fps, duration_s=info.duration_s
    )

"""What every decoder shares: the interface, its one error, and the checks that come before and after decoding."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np

from w3ray._address import local_path
from w3ray._redact import redact
from w3ray.data.video_cache import VideoCache, read_video
from w3ray.storage import RemotePath, storage_path

# In healthy files the header's length is wrong by up to 8 frames (measured on the real data sets).
MAX_MISSING_TAIL_FRAMES = 8
# Beyond that, a stream was cut off if it ends before this share of the duration in its header.
MIN_PRESENT_SHARE = 0.9
NO_VIDEO_STREAM = "no video stream (audio only?)"


class DecodeError(Exception):
    """A video, or requested frames of it, cannot be read. Carries `uri` and a one-line `reason`; survives pickling."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri = uri
        self.reason = reason

    def __str__(self) -> str:
        return redact(f"{self.uri}: {self.reason}")


def kind_of_reason(reason: str) -> str:
    """The kind of a `DecodeError.reason`: its text before the first colon."""
    return reason.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What is known about a video without decoding all of it.

    `num_frames` counts the frames that a decode of the whole file shows. `fps` is the average rate, NaN where the file
    has none. `height` and `width` are those of the decoded frames in pixels (rotated as the file says). They are None
    until a frame is decoded: only decoding tells them for certain.
    """

    num_frames: int
    fps: float
    duration_s: float
    height: int | None
    width: int | None


class Video(Protocol):
    """One opened video. Not safe to share between threads; close it, or use it as a context manager."""

    @property
    def info(self) -> VideoInfo:
        """Length, rate and (after the first decoded frame) size."""

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The frames at `indices` (any order, may repeat; 0 <= index < num_frames) as uint8 [T, H, W, 3] in RGB.

        Raises:
            IndexError: an index lies outside the video (the caller's mistake).
            DecodeError: a frame cannot be decoded.
        """

    def frame_span(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        """The half-open range of frame indices shown in [start_s, end_s) seconds; None means the video's own end.

        Raises:
            DecodeError: no frame is shown in that span.
        """

    def times_s(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """When each of these frames is shown, seconds from the first frame: float64 [T]. Decodes nothing.

        From time stamps, or from the average rate if the file has none.
        """

    def close(self) -> None:
        """Free the decoder."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ClosingVideo:
    """The context manager part of `Video`, and the times of frames that all last equally long."""

    @property
    def info(self) -> VideoInfo:
        raise NotImplementedError

    def times_s(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.asarray(indices, dtype=np.float64) / self.info.fps

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(uri: str, cache: VideoCache | None = None) -> str | BytesIO:
    """A local path as it is. A video with another scheme (`s3://...`) is read into memory, through `cache`.

    Raises:
        DecodeError: the file is missing, empty or cannot be read.
        StorageFailing, StorageRefused: the storage failed, not the video, so the video must not be left out.
    """
    scheme, separator, _ = uri.partition("://")
    if separator and scheme != "file":
        video = storage_path(uri)
        assert isinstance(video, RemotePath)
        try:
            content = read_video(video, cache)
        except FileNotFoundError as error:
            raise DecodeError(uri, "cannot be fetched: no such file") from error
        if not content:
            raise DecodeError(uri, "the file is empty (0 bytes)")
        return BytesIO(content)
    # Absolute, because FFmpeg takes a name such as `-clip.mp4` or `a:b.mp4` for an option or a protocol.
    path = os.path.abspath(local_path(uri))
    try:
        size_bytes = os.stat(path).st_size
        with open(path, "rb"):
            pass
    except OSError as error:
        raise DecodeError(uri, f"cannot be read: {error.strerror}") from error
    if size_bytes == 0:
        raise DecodeError(uri, "the file is empty (0 bytes)")
    if "%" in path:  # FFmpeg could take `a%d.gif` for a series of files, so it gets no name
        with open(path, "rb") as stream:
            return BytesIO(stream.read())
    return path


def check_indices(indices: Sequence[int] | np.ndarray, num_frames: int) -> np.ndarray:
    """The indices as an int64 array. Raises IndexError if one lies outside the video."""
    wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
    if wanted.size == 0 or wanted.min() < 0 or wanted.max() >= num_frames:
        raise IndexError(f"frame indices {wanted.tolist()[:8]} outside 0..{num_frames - 1}")
    return wanted


def span_of(timestamps_s: np.ndarray, uri: str, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """`Video.frame_span` from the time at which each frame begins (ascending, first frame at 0)."""
    # Half a millisecond of slack: containers store times in ticks as coarse as 1 ms.
    first = 0 if start_s is None else int(np.searchsorted(timestamps_s, start_s - 5e-4))
    last = len(timestamps_s) if end_s is None else int(np.searchsorted(timestamps_s, end_s - 5e-4))
    if last <= first:
        shown_s = float(timestamps_s[-1])
        raise DecodeError(uri, f"no frame between {start_s} and {end_s} s: the last one is at {shown_s:.3f} s")
    return first, last


def check_not_cut(source: str | BytesIO, uri: str) -> None:
    """Refuse a file that is shorter than its container says. Costs microseconds.

    Works for MP4 and QuickTime, AVI, Matroska and WebM, ASF. Frame counts and durations in headers prove nothing: they
    include what is not shown (empty chunks, hidden pictures), and are wrong in healthy files.

    Raises:
        DecodeError: the file is shorter than its container says, or (MP4) its index is missing.
    """
    with BytesIO(source.getbuffer()) if isinstance(source, BytesIO) else open(source, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        head = stream.read(12)
        stream.seek(0)
        needed = 0
        if head[4:8] == b"ftyp":
            needed, kinds = _mp4_length(stream, size)
            if needed <= size and b"moov" not in kinds:
                raise DecodeError(uri, "truncated: the index at the end of the file (moov) is missing")
        elif head[:4] == b"RIFF":
            needed = _riff_length(stream, size)
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            needed = _matroska_length(stream.read(256))
        elif head[:4] == b"\x30\x26\xb2\x75":
            needed = _asf_length(stream.read(4096))
    if needed > size:
        raise DecodeError(uri, f"truncated: {size} of at least {needed} bytes are there")


def _mp4_length(stream: BinaryIO, size: int) -> tuple[int, set[bytes]]:
    """Bytes up to the end of the last box, and the kinds of boxes (ISO/IEC 14496-12, 4.2)."""
    position, kinds = 0, set()
    while position + 8 <= size:
        stream.seek(position)
        head = stream.read(16)
        box_size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if box_size == 1:  # the length did not fit into 32 bits and follows in 64
            box_size = int.from_bytes(head[8:16], "big")
        elif box_size == 0:  # the last box, up to the end of the file
            box_size = size - position
        if box_size < 8:
            return 0, {b"moov"}  # not a box: leave the verdict to the decoder
        kinds.add(kind)
        position += box_size
    return position, kinds


def _riff_length(stream: BinaryIO, size: int) -> int:
    """Bytes up to the end of the last RIFF chunk; a long AVI has several. 0 if the writer never filled it in."""
    position = 0
    while position + 8 <= size:
        stream.seek(position)
        head = stream.read(8)
        chunk_size = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or chunk_size in (0, 0xFFFFFFFF):
            break
        position += 8 + chunk_size
    return position


def _matroska_length(head: bytes) -> int:
    """Bytes up to the end of the segment; 0 if it was written live and has no length (RFC 8794, 4 to 6)."""
    place = 4
    place += _vint_bytes(head, place) + _vint(head, place)
    if head[place : place + 4] != b"\x18\x53\x80\x67":
        return 0
    place += 4
    count, length = _vint_bytes(head, place), _vint(head, place)
    return 0 if length == (1 << 7 * count) - 1 else place + count + length


def _vint_bytes(head: bytes, place: int) -> int:
    return 9 - (head[place] if place < len(head) else 1).bit_length()


def _vint(head: bytes, place: int) -> int:
    count = _vint_bytes(head, place)
    return int.from_bytes(head[place : place + count], "big") & ((1 << 7 * count) - 1)


def _asf_length(head: bytes) -> int:
    """The file's size by its File Properties Object; 0 if it was broadcast (ASF specification, 3.2)."""
    place = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if place < 0 or len(head) < place + 92 or head[place + 88] & 1:
        return 0
    return int.from_bytes(head[place + 40 : place + 48], "little")


def check_promised(container: Any, uri: str, *, found_s: float) -> None:
    """Refuse an FLV file that was cut off. It plays without an error up to the cut, so only its duration tells.

    `found_s` is the time from the first packet to the last.

    Raises:
        DecodeError: the stream ends well before the duration in its own header.
    """
    if container.format.name != "flv" or len(container.streams) != 1 or not container.duration:
        return
    promised_s = float(container.duration) / 1e6
    rate = container.streams[0].average_rate
    slack_s = MAX_MISSING_TAIL_FRAMES / float(rate) if rate else 1.0
    if found_s < MIN_PRESENT_SHARE * promised_s - slack_s:
        raise DecodeError(uri, f"truncated: the header promises {promised_s:.2f} s, the file holds {found_s:.2f} s")


def video_codec(source: str | BytesIO) -> str | None:
    """The name of the video stream's codec; None if FFmpeg finds no video."""
    import av

    try:
        with av.open(BytesIO(source.getvalue()) if isinstance(source, BytesIO) else source) as container:
            stream = container.streams.best("video")
            return None if stream is None else str(stream.codec_context.codec.canonical_name)
    except av.FFmpegError:
        return None


def promised_length(container: Any) -> tuple[float | None, int]:
    """The video stream's seconds (None if only a duration of all streams together is known) and frames (0: unknown)."""
    stream = container.streams.best("video")
    if stream is None:
        return None, 0
    promised_s: float | None = None
    tag = stream.metadata.get("DURATION") or stream.metadata.get("DURATION-eng")  # Matroska, one for each stream
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", tag) if tag else None
    if stream.duration and stream.time_base:
        promised_s = float(stream.duration * stream.time_base)
    elif match:
        promised_s = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
    elif container.duration and len(container.streams) == 1:
        promised_s = float(container.duration) / 1e6
    return promised_s, int(stream.frames)


@lru_cache(maxsize=1)
def silence_ffmpeg() -> None:
    """Keep FFmpeg's per-frame complaints off standard error; what matters comes back as DecodeError."""
    import av.logging

    av.logging.set_level(av.logging.PANIC)


def one_line(error: BaseException, path: object = None, limit: int = 160) -> str:
    """An error's text on one line, without the file's path and the C++ file names and stack traces of decord."""
    text = str(error).split("Stack trace", 1)[0]
    if isinstance(path, str):
        text = text.replace(f"file{path}", "the file").replace(path, "the file")
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: ", "", text)
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"

"""Decoding with PyAV: exact frame by frame, and the newer FFmpeg (AV1, odd sizes) where decord gives up."""

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from w3ray.data.decoders._common import (
    MAX_MISSING_TAIL_FRAMES,
    NO_VIDEO_STREAM,
    ClosingVideo,
    DecodeError,
    VideoInfo,
    check_complete,
    check_indices,
    check_not_cut,
    one_line,
    open_source,
    silence_ffmpeg,
    span_of,
)
from w3ray.data.decoders._container import check_container


class _UnreliableTimestamps(Exception):
    """The frames' time stamps do not match the packets': only counting from the start finds a frame."""


class PyavVideo(ClosingVideo):
    """A video opened by PyAV; of several video streams the one FFmpeg calls best, which is decord's choice too.

    Frame i is the i-th in display order. Where time stamps allow, decoding starts at the key frame before the wanted
    one; otherwise frames are counted from the start.

    Raises:
        DecodeError: the file can not be opened, holds no video or no packet of it, or was cut off.
    """

    def __init__(self, uri: str) -> None:
        import av

        self._av = av
        silence_ffmpeg()
        self.uri = uri
        self._source = open_source(uri)
        check_container(self._source, uri)
        check_not_cut(self._source, uri)
        self._container: Any = None
        try:
            self._open()
            self._index_packets()
        except DecodeError:
            self.close()
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            self.close()
            raise DecodeError(uri, failure_reason(error, self._source)) from error
        self._height: int | None = None
        self._width: int | None = None

    def _open(self) -> None:
        if isinstance(self._source, BytesIO):
            self._source.seek(0)
        self.close()
        self._container = self._av.open(self._source)
        stream = self._container.streams.best("video")
        if stream is None:
            raise DecodeError(self.uri, NO_VIDEO_STREAM)
        stream.thread_type = "NONE"  # the pool of decoders already uses every core
        self._stream: Any = stream

    def _index_packets(self) -> None:
        """Walk the packets without decoding: header frame counts can not be trusted."""
        stamps: list[int | None] = []
        keys: list[int | None] = []
        for packet in self._container.demux(self._stream):
            if packet.size == 0 or packet.is_discard:
                continue
            stamps.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        if not stamps:
            raise DecodeError(self.uri, "the video stream holds no frame")
        known = [stamp for stamp in stamps if stamp is not None]
        # AVI stores no presentation times; those FFmpeg makes up are out of order behind B-frames.
        self._seekable = (
            len(set(known)) == len(stamps) and known[0] in keys and "avi" not in self._container.format.name
        )
        self._num_frames = len(stamps)
        rate = self._stream.average_rate
        base = self._stream.time_base
        self._fps = float(rate) if rate else float("nan")
        if len(set(known)) == len(stamps) and base:
            self._stamps = np.sort(np.asarray(known, dtype=np.int64))
            self._starts_s = (self._stamps - self._stamps[0]) * float(base)
            if not rate and self._num_frames > 1:
                self._fps = (self._num_frames - 1) / float(self._starts_s[-1])
        else:
            self._stamps = np.arange(self._num_frames)
            self._starts_s = self._stamps / self._fps
        self._keys = np.sort(np.asarray([key for key in keys if key is not None], dtype=np.int64))
        self._duration_s = float(self._starts_s[-1]) + 1 / self._fps  # NaN where the file has no rate
        check_complete(self._source, self.uri, found_s=self._duration_s, num_frames=self._num_frames)

    @property
    def info(self) -> VideoInfo:
        return VideoInfo(
            num_frames=self._num_frames,
            fps=self._fps,
            duration_s=self._duration_s,
            height=self._height,
            width=self._width,
        )

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = check_indices(indices, self._num_frames)
        ascending, position = np.unique(wanted, return_inverse=True)
        decoded = self._decode(ascending)
        sizes = {frame.shape for frame in decoded}
        if len(sizes) != 1:
            raise DecodeError(self.uri, f"the frame size changes within the video: {sorted(sizes)}")
        self._height, self._width = decoded[0].shape[:2]
        return np.stack([decoded[place] for place in position])

    def _decode(self, ascending: np.ndarray) -> list[np.ndarray]:
        try:
            if self._seekable:
                try:
                    return self._decode_by_stamp(ascending)
                except _UnreliableTimestamps:
                    self._seekable = False
            self._open()
            return self._decode_by_count(ascending)
        except self._av.FFmpegError as error:
            raise DecodeError(self.uri, failure_reason(error, self._source)) from error

    def _decode_by_stamp(self, ascending: np.ndarray) -> list[np.ndarray]:
        """Decode forward, jumping to a key frame wherever one lies between here and the next wanted frame."""
        decoded: list[np.ndarray] = []
        stream: Iterator[Any] | None = None
        current = None
        for index in ascending:
            target = int(self._stamps[index])
            key = int(self._keys[max(0, int(np.searchsorted(self._keys, target, side="right")) - 1)])
            if stream is None or current is None or key > current.pts:
                self._container.seek(key, stream=self._stream, backward=True, any_frame=False)
                stream, current = self._container.decode(self._stream), None
            while current is None or current.pts < target:
                previous, current = current, next(stream, None)
                if current is None:
                    decoded += self._tail(previous, ascending[len(decoded) :])
                    return decoded
                if current.pts is None or (previous is not None and current.pts <= previous.pts):
                    raise _UnreliableTimestamps
                if previous is None and current.pts > target:
                    raise _UnreliableTimestamps  # the seek landed behind the wanted frame
            if current.pts != target:
                raise _UnreliableTimestamps  # that packet holds no frame of its own
            decoded.append(self._to_rgb(current))
        return decoded

    def _decode_by_count(self, ascending: np.ndarray) -> list[np.ndarray]:
        decoded: list[np.ndarray] = []
        last, count = None, 0
        for last in self._container.decode(self._stream):
            if count == ascending[len(decoded)]:
                decoded.append(self._to_rgb(last))
                if len(decoded) == len(ascending):
                    return decoded
            count += 1
        return decoded + self._tail(last, ascending[len(decoded) :], num_decoded=count)

    def _tail(self, last: Any, missing: np.ndarray, num_decoded: int | None = None) -> list[np.ndarray]:
        """The last frame for the few promised ones behind it that do not exist; more than a few is damage."""
        if last is None:
            raise DecodeError(self.uri, "no frame could be decoded")
        if num_decoded is None:
            num_decoded = int(np.searchsorted(self._stamps, last.pts)) + 1
        if missing[-1] - num_decoded >= MAX_MISSING_TAIL_FRAMES:
            raise DecodeError(self.uri, f"truncated: only {num_decoded} of {self._num_frames} frames decode")
        return [self._to_rgb(last)] * len(missing)

    def _to_rgb(self, frame: Any) -> np.ndarray:
        image: np.ndarray = frame.to_ndarray(format="rgb24")
        if frame.rotation:  # counter-clockwise degrees, as decord applies them
            image = np.rot90(image, (round(frame.rotation) // 90) % 4)
        return image

    def frame_span(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        if start_s is None and end_s is None:
            return 0, self._num_frames
        if np.isnan(self._starts_s).any():
            raise DecodeError(self.uri, "has neither time stamps nor a frame rate, so it can not be cut by time")
        return span_of(self._starts_s, self.uri, start_s, end_s)

    def times_s(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        times_s: np.ndarray = self._starts_s[np.asarray(indices, dtype=np.int64)]
        return times_s

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None


def failure_reason(error: Exception, source: object) -> str:
    """Why FFmpeg could not read a video, as `DecodeError.reason`; `source` is what it was opened from."""
    import av

    text = one_line(error, source).split("; last error log:")[0]
    if "avcodec_send_packet" in text:
        return "a frame is damaged: FFmpeg refuses its packet"
    if isinstance(error, av.EOFError):
        return "the file ends before its first frame"
    return "pyav can not decode it: " + re.sub(r"^\[Errno \d+\] ", "", text)

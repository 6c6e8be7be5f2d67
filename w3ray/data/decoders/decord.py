"""Decoding with decord: opens once, seeks to the frames asked for and decodes nothing else. The default."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from w3ray.data.decoders._common import (
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
    video_codec,
)
from w3ray.data.decoders._container import check_container


@lru_cache(maxsize=1)
def _decord() -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    silence_ffmpeg()
    return decord


class DecordVideo(ClosingVideo):
    """A video opened by decord (rotation tags applied; AV1 and files of 1x1 pixel are beyond it).

    Frames come back the same for the same set of indices, whatever their order. In files with broken time stamps
    (some MPEG-4 in AVI) decord may be off by the two or three packets that hold no frame; PyAV is exact there.

    Raises:
        DecodeError: the file can not be opened, holds no video that decord knows, or was cut off.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        source = open_source(uri)
        self._source = source
        check_container(source, uri)
        check_not_cut(source, uri)
        decord = _decord()
        try:
            # One thread: the pool of decoders already uses every core, and more threads only make a clip wait.
            self._reader: Any = decord.VideoReader(source, num_threads=1)
            self._num_frames = len(self._reader)
            fps = float(self._reader.get_avg_fps())
            self._fps = fps if fps > 0 else float("nan")
            last_s = float(self._starts_s([0, self._num_frames - 1])[1])
        # decord raises DECORDError, RuntimeError, or AssertionError for a count of zero frames: no common base.
        except Exception as error:
            raise DecodeError(uri, self._reason(error)) from error
        self._duration_s = last_s + (1 / fps if fps > 0 else 0.0)
        check_complete(source, uri, found_s=self._duration_s, num_frames=self._num_frames)
        self._height: int | None = None
        self._width: int | None = None

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
        # Ascending and unique: decord then walks forward once, and what it returns does not depend on the order.
        ascending, position = np.unique(wanted, return_inverse=True)
        try:
            batch: np.ndarray = self._reader.get_batch(ascending.tolist()).asnumpy()
        except Exception as error:  # DECORDError and RuntimeError have no common base
            raise DecodeError(self.uri, self._reason(error)) from error
        if batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape:
            raise DecodeError(self.uri, f"decoded to frames of shape {batch.shape[1:]}, not [height, width, 3]")
        self._height, self._width = batch.shape[1:3]
        if np.array_equal(position, np.arange(len(batch))):
            return batch
        return batch[position]

    def frame_span(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        if start_s is None and end_s is None:
            return 0, self._num_frames
        return span_of(self._starts_s(range(self._num_frames)), self.uri, start_s, end_s)

    def times_s(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        # From the first frame on and ascending, as `_starts_s` has it.
        ascending, position = np.unique([0, *indices], return_inverse=True)
        times_s: np.ndarray = self._starts_s(ascending.tolist())[position[1:]]
        return times_s

    def close(self) -> None:
        self._reader = None

    def _starts_s(self, indices: Sequence[int]) -> np.ndarray:
        """When each of these frames begins, in seconds from the first of them; counted where time stamps are absent."""
        stamps_s = np.asarray(self._reader.get_frame_timestamp(list(indices)), dtype=np.float64)[:, 0]
        starts_s = stamps_s - stamps_s[0]
        counted_s = (np.asarray(indices) - indices[0]) / self._fps
        # AVI has none, and decord then returns numbers around 1e17.
        sane = bool(np.all(np.diff(starts_s) >= 0)) and abs(stamps_s[0]) < 1e9 and starts_s[-1] < 1e9
        return starts_s if sane else counted_s

    def _reason(self, error: Exception) -> str:
        text = one_line(error, self._source)
        if "st_nb >= 0" in text:
            codec = video_codec(self._source)
            if codec is None:
                return NO_VIDEO_STREAM
            return f"decord does not know its codec: {codec} (try the decoder pyav)"
        if "from_size" in text:
            return "decord can not handle frames this small (try the decoder pyav)"
        if "avcodec_send_packet" in text:
            return "a frame is damaged: FFmpeg refuses its packet"
        if "measure duration" in text:
            return "its header gives no duration, which decord needs (try the decoder pyav)"
        if "Cannot create buffer source" in text:
            return "decord finds no frame whose size and colours are known (does the video hold any?)"
        if text.startswith("Error reading"):
            return "not a video, or damaged at its start (decord can not open it)"
        return f"decord can not decode it: {text}"

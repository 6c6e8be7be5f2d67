"""Decoding with decord, for the files on which it is proven right. It has packages for some platforms only."""

from functools import lru_cache
from typing import Any

import numpy as np

from w3ray.data.decoders._common import (
    NO_VIDEO_STREAM,
    DecodeError,
    one_line,
    open_source,
    silence_ffmpeg,
    video_codec,
)
from w3ray.data.decoders._proven import ProvenVideo
from w3ray.errors import InputError


@lru_cache(maxsize=1)
def load_decord() -> Any:
    """The module `decord`.

    Raises:
        InputError: it is not installed, or cannot be loaded.
    """
    try:
        import decord
    except ImportError as error:
        raise InputError(
            "decoder decord is not installed (it has packages for Linux and Windows on x86-64 only); use the decoder "
            "pyav, which reads all files and gives the same frames"
        ) from error
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"decoder decord cannot be loaded, use the decoder pyav: {one_line(error, limit=80)}"
        ) from error
    decord.logging.set_level(decord.logging.QUIET)
    silence_ffmpeg()
    return decord


class DecordVideo(ProvenVideo):
    """A video opened by decord, which cannot read AV1, files without a duration and files of 1x1 pixel.

    Raises:
        DecodeError: the file cannot be opened, holds no video that decord knows, was cut off, or decord is not proven
            right for it.
        InputError: decord is not installed.
    """

    library = "decord"

    @classmethod
    def load(cls) -> Any:
        return load_decord()

    def _open(self) -> np.ndarray | None:
        self._source = open_source(self.uri, self._cache)
        try:
            # One thread: the pool of decoders already uses every core, and more threads only make a clip wait.
            self._reader: Any = self._library.VideoReader(self._source, num_threads=1)
            if len(self._reader) != self._exact.info.num_frames:
                return None
            times_s = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))), dtype=np.float64)
        # decord raises DECORDError, RuntimeError, or AssertionError for a count of zero frames: no common base.
        except Exception as error:
            raise DecodeError(self.uri, self._reason(error)) from error
        return times_s[:, 0]

    def _num_frames(self) -> int:
        return len(self._reader)

    def _read(self, ascending: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
        try:
            return self._reader.get_batch(ascending).asnumpy(), None
        except Exception as error:  # DECORDError and RuntimeError have no common base
            raise DecodeError(self.uri, self._reason(error)) from error

    def close(self) -> None:
        self._reader = None
        super().close()

    def _reason(self, error: Exception) -> str:
        text = one_line(error, self._source)
        if "st_nb >= 0" in text:
            codec = video_codec(self._source)
            if codec is None:
                return NO_VIDEO_STREAM
            return f"decord does not know its codec: {codec} (try the decoder pyav)"
        if "from_size" in text:
            return "decord cannot handle frames this small (try the decoder pyav)"
        if "avcodec_send_packet" in text:
            return "a frame is damaged: FFmpeg refuses its packet"
        if "measure duration" in text:
            return "its header gives no duration, which decord needs (try the decoder pyav)"
        if "Cannot create buffer source" in text:
            return "decord finds no frame whose size and colours are known (does the video hold any?)"
        if text.startswith("Error reading"):
            return "not a video, or damaged at its start (decord cannot open it)"
        return f"decord cannot decode it: {text}"

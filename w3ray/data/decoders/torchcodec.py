"""Decoding with torchcodec, for the files on which it is proven right. An option: `pip install 'w3ray[torchcodec]'`."""

from io import BytesIO
from typing import Any

import numpy as np

from w3ray.data.decoders._common import DecodeError, one_line, open_source
from w3ray.data.decoders._proven import ProvenVideo
from w3ray.errors import InputError


def load_torchcodec() -> Any:
    """The module `torchcodec.decoders`.

    Raises:
        InputError: torchcodec is not installed, or finds no FFmpeg. Unlike PyAV and decord it does not include one.
    """
    try:
        import torchcodec.decoders
    except ImportError as error:
        raise InputError("decoder torchcodec is not installed: pip install 'w3ray[torchcodec]'") from error
    except (OSError, RuntimeError) as error:
        why = one_line(error, limit=80)
        raise InputError(f"decoder torchcodec cannot be loaded; it needs FFmpeg's libraries (4 to 9): {why}") from error
    # From 0.17 on the import works without FFmpeg, and only opening a video fails.
    if getattr(torchcodec, "ffmpeg_major_version", "unknown") is None:
        raise InputError("decoder torchcodec cannot be loaded; it needs FFmpeg's libraries (4 to 9) and finds none")
    return torchcodec.decoders


class TorchcodecVideo(ProvenVideo):
    """A video opened by torchcodec in its exact mode; the time stamp of each frame it returns is checked.

    Raises:
        DecodeError: the file cannot be opened, was cut off, or torchcodec is not proven right for it.
        InputError: torchcodec is not installed.
    """

    library = "torchcodec"
    device = "cpu"

    @classmethod
    def load(cls) -> Any:
        return load_torchcodec()

    def _open(self) -> np.ndarray | None:
        source = open_source(self.uri, self._cache)
        content = source.getvalue() if isinstance(source, BytesIO) else source
        try:
            # One thread: the pool of decoders already uses every core.
            self._reader: Any = self._library.VideoDecoder(
                content, seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC", device=self.device
            )
            self._begin_s = float(self._reader.metadata.begin_stream_seconds)
        except (RuntimeError, ValueError, TypeError) as error:  # TypeError: its begin is None
            raise DecodeError(self.uri, f"{self.library} cannot decode it: {one_line(error, source)}") from error
        return None

    def _num_frames(self) -> int:
        return len(self._reader)

    def _first_s(self) -> float:
        return self._begin_s

    def _read(self, ascending: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
        try:
            batch = self._reader.get_frames_at(indices=ascending)
        except (RuntimeError, IndexError, ValueError) as error:
            raise DecodeError(self.uri, f"{self.library} cannot decode it: {one_line(error)}") from error
        return batch.data.cpu().numpy(), batch.pts_seconds.cpu().numpy()

    def close(self) -> None:
        self._reader = None
        super().close()

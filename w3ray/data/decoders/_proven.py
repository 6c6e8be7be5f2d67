"""What decord and torchcodec share: they are used only for files in which they cannot return a wrong frame.

Both count packets as frames, and seek by the time stamps and key frames of the container. With open groups of pictures,
MPEG streams, AVI with B pictures and edit lists they silently return other frames than the requested ones. So each file
is first compared with the exact index (`PyavVideo`), which costs a walk over its packets.

They are proven right for MP4, QuickTime, Matroska and WebM files in which each packet is a frame that is shown and
decoding can start at each key frame, if the library and the exact index agree on the number of frames and their times.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from w3ray.data.decoders._common import ClosingVideo, DecodeError, VideoInfo, check_indices
from w3ray.data.decoders._orientation import UPRIGHT, Orientation
from w3ray.data.decoders.pyav import PyavVideo
from w3ray.data.video_cache import VideoCache

SLACK_S = 1e-3  # Matroska stores times in steps of 1 ms
MAX_MEAN_DIFFERENCE = 4.0  # levels: FFmpeg versions differ in how they make 8 bits of 10-bit video


class ProvenVideo(ClosingVideo):
    """A video read by another library. A subclass opens it in `_open` and reads frames in `_read`.

    Raises:
        DecodeError: PyAV or the other library cannot open it, or it is not proven that the frames would be right.
        InputError: the other library cannot be used here.
    """

    library = ""
    on_gpu = False
    """Whether it decodes on a GPU."""

    @classmethod
    def load(cls) -> Any:
        """The library. Raises: InputError if it is not installed, or cannot be used on this machine."""
        raise NotImplementedError

    def __init__(self, uri: str, cache: VideoCache | None = None) -> None:
        self._library = self.load()  # first: else each video would count as unreadable
        self.uri, self._cache = uri, cache
        self._exact = PyavVideo(uri, cache)
        self._height: int | None = None
        self._width: int | None = None
        self._orientation, self._turns = UPRIGHT, cast(int | None, None)
        try:
            if (doubt := self._exact.doubt()) is not None:
                raise self._unproven(doubt)
            self._prove(self._open())
        except BaseException:
            self.close()
            raise

    def _open(self) -> np.ndarray | None:
        """Open the file. Returns when this library shows each frame, seconds; None if only decoded frames tell."""
        raise NotImplementedError

    def _num_frames(self) -> int:
        """How many frames this library counts."""
        raise NotImplementedError

    def _read(self, ascending: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """The frames (uint8 [T, H, W, 3], rotated by the angle of the display matrix) and when they are shown."""
        raise NotImplementedError

    def _prove(self, times_s: np.ndarray | None) -> None:
        exact = self._exact.info.num_frames
        if self._num_frames() != exact:
            raise self._unproven(f"it counts {self._num_frames()} frames, there are {exact}")
        if times_s is not None:
            self._check_times(np.arange(exact), times_s)

    def _check_times(self, indices: np.ndarray, times_s: np.ndarray) -> None:
        difference_s = times_s - self._exact.times_s(indices)
        # A file may begin later than at 0. Then all its frames are equally late.
        if np.ptp(difference_s) > 2 * SLACK_S:
            raise self._unproven("its frames are shown at other times than the container says")

    def _unproven(self, why: str) -> DecodeError:
        return DecodeError(self.uri, f"{self.library} is not proven right for this file, use the decoder pyav: {why}")

    @property
    def info(self) -> VideoInfo:
        exact = self._exact.info
        return VideoInfo(
            num_frames=exact.num_frames,
            fps=exact.fps,
            duration_s=exact.duration_s,
            height=self._height,
            width=self._width,
        )

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = check_indices(indices, self._exact.info.num_frames)
        # Ascending and unique: the library walks forward once, and the result does not depend on the order.
        ascending, position = np.unique(wanted, return_inverse=True)
        frames_THWC, times_s = self._read(ascending.tolist())
        if frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or 0 in frames_THWC.shape:
            raise DecodeError(self.uri, f"decoded to frames of shape {frames_THWC.shape[1:]}, not [height, width, 3]")
        if times_s is not None:
            self._check_times(np.append(0, ascending), np.append(self._first_s(), times_s))
        frames_THWC = self._upright(frames_THWC)
        self._height, self._width = frames_THWC.shape[1:3]
        return frames_THWC if np.array_equal(position, np.arange(len(position))) else frames_THWC[position]

    def _first_s(self) -> float:
        """When this library shows the first frame, seconds."""
        return 0.0

    def _upright(self, frames_THWC: np.ndarray) -> np.ndarray:
        """Apply the whole display matrix. The library itself applies only its angle, or nothing."""
        if self._turns is None:
            self._orientation, self._turns = self._found_turns()
        if self._orientation == UPRIGHT and self._turns == 0:
            return frames_THWC
        return np.stack([self._orientation.apply(np.rot90(image, -self._turns)) for image in frames_THWC])

    def _found_turns(self) -> tuple[Orientation, int]:
        """How frames must be shown, and by how many quarter turns this library has rotated them. The first frame tells.

        Raises:
            DecodeError: the first frame is another picture, or looks the same in both rotations.
        """
        right_HWC, orientation, angle = self._exact.first_frame()
        ours_HWC = self._read([0])[0][0]
        fitting = [turns for turns in {angle, 0} if _is_same(orientation.apply(np.rot90(ours_HWC, -turns)), right_HWC)]
        if len(fitting) != 1:
            raise self._unproven("its first frame is another one" if not fitting else "its rotation cannot be told")
        return orientation, fitting[0]

    def frame_span(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        return self._exact.frame_span(start_s, end_s)

    def times_s(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return self._exact.times_s(indices)

    def close(self) -> None:
        self._exact.close()


def _is_same(one_HWC: np.ndarray, other_HWC: np.ndarray) -> bool:
    if one_HWC.shape != other_HWC.shape:
        return False
    return float(np.abs(one_HWC.astype(np.int16) - other_HWC).mean()) < MAX_MEAN_DIFFERENCE

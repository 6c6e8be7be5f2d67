"""Which windows slide over a long video, and how does each frame of it become part of all its windows?

A window is the span [start, start + length) of seconds. Its clip has the frames that evaluation takes of a clip with
this start and end. Windows overlap, so they share frames: a frame is decoded once, cut out once, and kept until the
last window that needs it.

Letters: W windows, C clips of a window (`Protocol.clips`), T frames of a clip, V views, S side.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from w3ray.data.augmentation import Frames
from w3ray.data.clip import ClipSpec, samples_in
from w3ray.data.decoders import DecodeError, Video
from w3ray.data.decoders.in_order import Pixels, decoded_in_order
from w3ray.data.views import Protocol, clip_indices, cut_crops
from w3ray.errors import InputError
from w3ray.scoring.ahead import ahead

_SLACK_S = 5e-4  # as in `w3ray.data.decoders._common.span_of`: containers store times in ticks as coarse as 1 ms
_FRAMES_AHEAD = 32
_DECODED_AHEAD = 4  # fewer: these are as large as the video


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlan:
    """The windows over one video."""

    window_s: float
    starts_s_W: np.ndarray
    """When each window begins, seconds: float64 [W]."""
    has_frames_W: np.ndarray
    """bool [W]. A frame that is shown for longer than a window leaves windows in which none begins."""
    frames_RCT: np.ndarray
    """The frames of each of the R windows that have any: int64 [R, C, T]."""

    @property
    def wanted(self) -> np.ndarray:
        """All frames that some window needs, ascending."""
        return np.unique(self.frames_RCT)


def window_starts(duration_s: float, window_s: float, stride_s: float) -> np.ndarray:
    """When each window begins: every `stride_s` from 0, as long as the window fits. float64 [W].

    If the last one ends before the video, one more window ends with the video. So the whole video is seen, and all
    windows have the same length.

    Raises: InputError if the window is longer than the video.
    """
    spare_s = duration_s - window_s
    if spare_s < -_SLACK_S:
        raise InputError(
            f"--window {window_s:g}: longer than the video, which has {duration_s:.2f} s; choose a shorter window, or "
            "leave out --window to classify the whole video"
        )
    starts_s = np.arange(math.floor((spare_s + _SLACK_S) / stride_s) + 1) * stride_s
    return np.append(starts_s, spare_s) if spare_s - starts_s[-1] > _SLACK_S else starts_s


def plan_windows(video: Video, spec: ClipSpec, protocol: Protocol, *, window_s: float, stride_s: float) -> WindowPlan:
    """The windows over a video, and their frames.

    Raises:
        InputError: the window is longer than the video or shorter than two frames, or the stride is shorter than one.
        DecodeError: the video does not say when its frames are shown.
    """
    info = video.info
    if not (math.isfinite(info.duration_s) and info.fps > 0):
        uri = str(getattr(video, "uri", "the video"))
        raise DecodeError(uri, "has neither time stamps nor a frame rate, so it cannot be cut by time")
    frame_s = 1 / info.fps
    for option, value_s, count in (("--window", window_s, 2), ("--stride", stride_s, 1)):
        if value_s < count * frame_s - _SLACK_S:
            what = "two frames" if count == 2 else "one frame"
            raise InputError(f"{option} {value_s:g}: shorter than {what} of the video ({count * frame_s:.3g} s)")
    starts_s_W = window_starts(info.duration_s, window_s, stride_s)
    has_frames_W = np.ones(len(starts_s_W), dtype=bool)
    frames: list[np.ndarray] = []
    places: dict[int, np.ndarray] = {}
    for number, start_s in enumerate(starts_s_W.tolist()):
        try:
            first, stop = video.frame_span(start_s, start_s + window_s)
        except DecodeError:
            has_frames_W[number] = False
            continue
        count = samples_in(stop - first, spec)
        if count not in places:
            places[count] = clip_indices(count, spec, protocol.clips)
        frames.append(first + places[count])
    return WindowPlan(
        window_s=window_s, starts_s_W=starts_s_W, has_frames_W=has_frames_W, frames_RCT=np.stack(frames)
    )  # fmt: skip


def window_clips(
    video: Video, plan: WindowPlan, spec: ClipSpec, protocol: Protocol, *, together: int
) -> Generator[Frames, None, None]:
    """The clips of the windows that have frames, in order, `together` in a batch: uint8 [M, V, T, S, S, 3].

    The video is read in one pass. One thread decodes, a second one makes the pixels and cuts them, each a few frames
    ahead. Close the generator before the video.

    Raises: DecodeError.
    """
    latest_R = plan.frames_RCT.max(axis=(1, 2))
    last_use = {frame: row for row, frames_CT in enumerate(plan.frames_RCT.tolist()) for frame in _all(frames_CT)}
    kept: dict[int, list[Frames]] = {}
    batch: list[Frames] = []
    row = 0
    wanted = plan.wanted
    with (
        ahead(decoded_in_order(video, wanted), _DECODED_AHEAD) as decoded,
        ahead(_cut(wanted, decoded, spec, protocol), _FRAMES_AHEAD) as cut,
    ):
        for frame, crops in cut:
            kept[frame] = crops
            while row < len(latest_R) and latest_R[row] <= frame:
                frames_CT = plan.frames_RCT[row].tolist()
                batch.append(_views(kept, frames_CT))
                for used in _all(frames_CT):
                    if last_use[used] == row:
                        del kept[used]
                row += 1
                if len(batch) == together:
                    yield np.stack(batch)
                    batch = []
    if batch:
        yield np.stack(batch)


def _cut(
    wanted: np.ndarray, decoded: Iterator[Pixels], spec: ClipSpec, protocol: Protocol
) -> Iterator[tuple[int, list[Frames]]]:
    """Each frame and its crops, [S, S, 3]."""
    for frame, pixels in zip(wanted.tolist(), decoded, strict=True):
        yield frame, [crop[0] for crop in cut_crops(pixels()[None], spec, protocol)]


def _all(frames_CT: list[list[int]]) -> set[int]:
    return {frame for frames_T in frames_CT for frame in frames_T}


def _views(kept: dict[int, list[Frames]], frames_CT: list[list[int]]) -> Frames:
    """[V, T, S, S, 3], in the order of `Protocol.num_views`."""
    crops = range(len(kept[frames_CT[0][0]]))
    return np.stack([np.stack([kept[frame][crop] for frame in frames_T]) for frames_T in frames_CT for crop in crops])

"""What happens when in a long video? A model scores windows that slide over it; their scores become segments."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from w3ray.data.clip import ClipSpec, open_clip
from w3ray.data.decoders import DecodeError
from w3ray.data.views import Protocol, parse_protocol
from w3ray.errors import InputError
from w3ray.heads import Heads
from w3ray.models.bundle import ModelDescription, model_folder
from w3ray.scoring.question import check_average, require_views
from w3ray.scoring.segments import Segment, find_segments, smooth_scores, window_edges
from w3ray.scoring.videos import videos_of
from w3ray.scoring.windows import plan_windows, window_clips

if TYPE_CHECKING:
    from w3ray.evaluation.scorer import Scorer

OnWindows = Callable[[str, int, int], None]
"""Called with a video, the number of its windows that have scores, and the number of all its windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineSettings:
    """How scores over time are made; `timeline_settings` checks the values."""

    window_s: float
    stride_s: float
    smooth_s: float
    threshold: float
    min_segment_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoTimeline:
    """What a model sees in a video over time. W windows, S scores of all heads."""

    video: str
    heads: Heads
    settings: TimelineSettings
    duration_s: float
    fps: float
    num_frames: int
    starts_s_W: np.ndarray
    """When each window begins, seconds from the first frame: float64 [W]."""
    scores_WS: np.ndarray
    """The scores of each window, float32 [W, S]; nan for a window in which no frame begins."""
    smoothed_WS: np.ndarray
    """After the moving average: float64 [W, S]."""
    segments: tuple[Segment, ...]

    @property
    def edges_s(self) -> np.ndarray:
        """`window_edges` of its windows."""
        return window_edges(self.starts_s_W, self.settings.window_s, self.duration_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTimeline:
    """A video without a timeline, and why."""

    video: str
    reason: str
    wrong_setting: bool = False
    """The settings do not fit the video, which can be read."""

    def document(self) -> dict[str, Any]:
        return {"video": self.video, "reason": self.reason}


def timeline_settings(
    window_s: float,
    stride_s: float | None = None,
    smooth_s: float | None = None,
    threshold: float = 0.5,
    min_segment_s: float = 0.0,
) -> TimelineSettings:
    """The settings, checked. The defaults: a stride of half a window, and a moving average as long as a window.

    Raises: InputError if a value is out of its range.
    """
    if not (math.isfinite(window_s) and window_s > 0):
        raise InputError(f"--window {window_s:g}: must be a number of seconds above 0")
    stride_s = window_s / 2 if stride_s is None else stride_s
    if not 0 < stride_s <= window_s:
        raise InputError(
            f"--stride {stride_s:g}: must be above 0 and at most --window ({window_s:g} s), so that no moment is left "
            "out"
        )
    smooth_s = window_s if smooth_s is None else smooth_s
    for option, value_s in (("--smooth", smooth_s), ("--min-segment", min_segment_s)):
        if not (math.isfinite(value_s) and value_s >= 0):
            raise InputError(f"{option} {value_s:g}: must be a number of seconds, 0 or more")
    if not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold:g}: must be between 0 and 1")
    return TimelineSettings(
        window_s=window_s, stride_s=stride_s, smooth_s=smooth_s, threshold=threshold, min_segment_s=min_segment_s
    )


def each_video(names: Sequence[str]) -> list[str]:
    """The videos that these files, folders and patterns name, each once, in order. Raises: InputError, as `predict`."""
    return sorted({video for name in names for video in videos_of(name)})


def predict_windows(
    model: str,
    videos: Sequence[str],
    *,
    window_s: float,
    stride_s: float | None = None,
    smooth_s: float | None = None,
    threshold: float = 0.5,
    min_segment_s: float = 0.0,
    protocol: str = "1clip-center",
    average: str = "scores",
    roots: Sequence[str] | None = None,
    on_windows: OnWindows = lambda video, done, total: None,
) -> Generator[VideoTimeline | NoTimeline, None, None]:
    """Score windows that slide over videos, one video after the other in the order of their names, in this process.

    The scores of a window are those that `w3ray.scoring.predict.predict` gives a manifest's clip with the same start
    and end. Windows begin every `stride_s` from 0. If the last one ends before the video, one more ends with it. Each
    frame is decoded once. Memory holds the frames of a window and the scores of a video.

    Close the generator if you do not read it to its end.

    Args:
        model: folder of a model, or of its stage. It needs no boxes and no bank, and reads frames, not optical flow.
        videos: files, folders, patterns or `s3://...`, as in `predict`.
        window_s: length of a window, seconds.
        stride_s: seconds from one window to the next, at most `window_s`. None: half of it.
        smooth_s: length of the moving average over the scores, seconds. None: `window_s`; 0: no average.
        threshold: lowest score of a segment, 0 to 1.
        min_segment_s: shorter segments are left out.
        protocol, average, roots: as in `predict`; the views are those of each window.
        on_windows: is told of the progress.

    Raises:
        InputError: no model, a model of another kind, no video that matches, or a value out of its range.
    """
    from w3ray.scoring.model_files import description_of, model_files, scorer_of

    settings = timeline_settings(window_s, stride_s, smooth_s, threshold, min_segment_s)
    looks, averaged = parse_protocol(protocol), check_average(average)
    files = model_files(model_folder(model))
    description = description_of(files)
    _require_plain(model, description)
    require_views(model, description, looks)
    found = each_video(videos)
    scorer = scorer_of(files, looks, averaged, {})
    for video in found:
        try:
            yield _timeline(video, scorer, looks, settings, roots, on_windows)
        except DecodeError as error:
            yield NoTimeline(video=video, reason=error.reason)
        except InputError as error:
            yield NoTimeline(video=video, reason=str(error), wrong_setting=True)


def _require_plain(model: str, description: ModelDescription) -> None:
    """Raises: InputError if the model needs more than the frames of a video."""
    for field, what in (
        ("flow_fields", "reads optical flow"),
        ("boxes_per_frame", "needs boxes of each clip"),
        ("bank_window", "reads a bank"),
    ):
        if description.clip.get(field) is not None:
            raise InputError(
                f"--window: {model} {what}, but windows have only the frames of the video; give its clips in a "
                "manifest (--manifest) with their start_s and end_s"
            )


def _timeline(
    video: str,
    scorer: "Scorer",
    protocol: Protocol,
    settings: TimelineSettings,
    roots: Sequence[str] | None,
    on_windows: OnWindows,
) -> VideoTimeline:
    from w3ray.evaluation.scorer import VIEWS_AT_ONCE

    spec, heads = ClipSpec(**scorer.description.clip), scorer.description.heads
    independent = heads.multi_label
    if independent:  # a segment is of a class, not of a set of classes
        heads = replace(heads, label_sets=None)
    with open_clip(video, spec, roots, None) as opened:
        info = opened.info
        plan = plan_windows(opened, spec, protocol, window_s=settings.window_s, stride_s=settings.stride_s)
        scores_RS = np.empty((len(plan.frames_RCT), heads.num_scores), np.float32)
        done = 0
        together = max(1, VIEWS_AT_ONCE // protocol.num_views)
        # Whatever happens here, the thread that reads ends before the video is closed.
        with closing(window_clips(opened, plan, spec, protocol, together=together)) as batches:
            for clips_MVTSSC in batches:
                scores_RS[done : done + len(clips_MVTSSC)] = scorer(clips_MVTSSC)
                done += len(clips_MVTSSC)
                on_windows(video, done, len(scores_RS))
    scores_WS = np.full((len(plan.starts_s_W), heads.num_scores), np.nan, np.float32)
    scores_WS[plan.has_frames_W] = scores_RS
    smoothed_WS = smooth_scores(plan.starts_s_W, scores_WS, settings.smooth_s)
    edges_s = window_edges(plan.starts_s_W, settings.window_s, info.duration_s)
    segments = find_segments(
        smoothed_WS,
        edges_s,
        heads,
        threshold=settings.threshold,
        min_segment_s=settings.min_segment_s,
        independent=independent,
    )
    return VideoTimeline(
        video=video, heads=heads, settings=settings, duration_s=info.duration_s, fps=info.fps,
        num_frames=info.num_frames, starts_s_W=plan.starts_s_W, scores_WS=scores_WS, smoothed_WS=smoothed_WS,
        segments=tuple(segments),
    )  # fmt: skip

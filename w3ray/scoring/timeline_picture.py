"""How is a video's timeline drawn? A lane of segments for each class, above its scores over time."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from w3ray._format import clock
from w3ray._redact import redact
from w3ray._text import one_line
from w3ray.heads import UNLABELLED
from w3ray.scoring.segments import best_over_time
from w3ray.scoring.timeline import VideoTimeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LANES = 10
"""Classes with a lane and a curve of their own: those whose segments last longest."""

_DPI, _WIDTH, _LANE, _CURVES = 120, 12.0, 0.28, 2.2  # inches
_INK, _GREY, _FAINT = "#1a1a1a", "#6b6b6b", "#e4e7eb"
_COLOURS = (
    "#3b6fb6", "#e08214", "#35978f", "#c2185b", "#7b5ea7",
    "#1b7837", "#8c510a", "#4d4d4d", "#b2182b", "#80a4d6",
)  # fmt: skip
_LONGEST_NAME = 34
_STEPS_S = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


def timeline_figure(timeline: VideoTimeline) -> "Figure":
    """The segments and the smoothed scores over time of a video, of up to `MAX_LANES` classes."""
    from matplotlib.figure import Figure

    labels = shown_labels(timeline)
    head, foot, gap = 0.75, 0.45, 0.12
    lanes = _LANE * max(1, len(labels))
    height = head + lanes + gap + _CURVES + foot
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    left, width = 2.6 / _WIDTH, (_WIDTH - 2.6 - 0.3) / _WIDTH
    above = figure.add_axes((left, (foot + _CURVES + gap) / height, width, lanes / height))
    below = figure.add_axes((left, foot / height, width, _CURVES / height), sharex=above)
    _write_head(figure, timeline, left, height, len(labels))
    _draw_lanes(above, timeline, labels)
    _draw_scores(below, timeline, labels)
    return figure


def shown_labels(timeline: VideoTimeline) -> list[int]:
    """The labels of segments, those that last longest first. Without segments: of what is best anywhere."""
    seconds: dict[int, float] = defaultdict(float)
    for segment in timeline.segments:
        seconds[segment.label] += segment.end_s - segment.start_s
    if not seconds:
        label_W, _ = best_over_time(timeline.smoothed_WS, timeline.heads)
        for label, length_s in zip(label_W.tolist(), np.diff(timeline.edges_s).tolist(), strict=True):
            seconds[label] += length_s
        seconds.pop(UNLABELLED, None)
    return sorted(seconds, key=lambda label: (-seconds[label], label))[:MAX_LANES]


def _write_head(figure: "Figure", timeline: VideoTimeline, left: float, height: float, shown: int) -> None:
    settings = timeline.settings
    title = redact(one_line(timeline.video.rstrip("/").rsplit("/", 1)[-1]))
    total = len({segment.label for segment in timeline.segments})
    count = len(timeline.segments)
    what = f"{count} segment{'' if count == 1 else 's'} of {total} class{'' if total == 1 else 'es'}"
    if total > shown:
        what += f", the {shown} that last longest are shown"
    if not count:
        what = f"no segment: no score stays at {settings.threshold:g} or above for long enough"
    line = (
        f"{clock(timeline.duration_s)}   ·   window {settings.window_s:g} s, stride {settings.stride_s:g} s, "
        f"smoothed over {settings.smooth_s:g} s   ·   {what}"
    )
    text: dict[str, Any] = {"va": "top", "parse_math": False}
    figure.text(left, 1 - 0.14 / height, _short(title, 90), fontsize=12, weight="bold", color=_INK, **text)
    figure.text(left, 1 - 0.42 / height, line, fontsize=8.5, color=_GREY, **text)


def _draw_lanes(axes: "Axes", timeline: VideoTimeline, labels: list[int]) -> None:
    for lane, label in enumerate(labels):
        bars = [(one.start_s, one.end_s - one.start_s) for one in timeline.segments if one.label == label]
        axes.broken_barh(bars, (lane - 0.36, 0.72), facecolors=_COLOURS[lane], linewidth=0)
        name = _short(redact(one_line(timeline.heads.class_name(label))), _LONGEST_NAME)
        axes.text(
            -0.008, lane, name, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=8.5,
            color=_COLOURS[lane], parse_math=False,
        )  # fmt: skip
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.set_yticks([])
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    _plain_frame(axes, ())


def _draw_scores(axes: "Axes", timeline: VideoTimeline, labels: list[int]) -> None:
    middles_s_W = timeline.starts_s_W + timeline.settings.window_s / 2
    for lane, label in enumerate(labels):
        axes.plot(middles_s_W, _scores_of(timeline, label), color=_COLOURS[lane], linewidth=1.1)
    axes.axhline(timeline.settings.threshold, color=_GREY, linewidth=0.8, linestyle="--")
    axes.text(
        1.003, timeline.settings.threshold, "threshold", transform=axes.get_yaxis_transform(), fontsize=6.5,
        color=_GREY, va="center", rotation=90,
    )  # fmt: skip
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7.5, color=_GREY)
    axes.set_ylabel("score", fontsize=8.5, color=_GREY)
    axes.set_xlim(0, timeline.duration_s)
    step_s = next((step for step in _STEPS_S if timeline.duration_s / step <= 12), _STEPS_S[-1])
    ticks_s = np.arange(0, timeline.duration_s + 1e-9, step_s)
    digits = 0 if step_s >= 1 else 1
    axes.set_xticks(ticks_s, [clock(tick, digits) for tick in ticks_s], fontsize=7.5, color=_GREY)
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    _plain_frame(axes, ("left", "bottom"))


def _scores_of(timeline: VideoTimeline, label: int) -> np.ndarray:
    """The smoothed scores of a class, or of a combination (their product): [W]."""
    of_heads = [timeline.smoothed_WS[:, head.start + head.label(label)] for head in timeline.heads.each()]
    product_W: np.ndarray = np.prod(of_heads, axis=0)
    return product_W


def _plain_frame(axes: "Axes", kept: tuple[str, ...]) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in kept)
        spine.set_color("#bbbbbb")
    axes.tick_params(length=2, color="#bbbbbb")


def _short(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"

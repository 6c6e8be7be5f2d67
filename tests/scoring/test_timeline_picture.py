"""The picture of a timeline: bars where the segments are, curves of the smoothed scores."""

import numpy as np
import pytest

from w3ray.heads import Heads
from w3ray.scoring.segments import find_segments, window_edges
from w3ray.scoring.timeline import VideoTimeline, timeline_settings
from w3ray.scoring.timeline_picture import MAX_LANES, timeline_figure


def timeline(labels: list[int], heads: Heads, *, score: float = 0.9) -> VideoTimeline:
    """Windows of 2 s every second, each with one best class. `score` is that of each head's best class."""
    scores_WS = np.full((len(labels), heads.num_scores), 0.01)
    for number, label in enumerate(labels):
        for head in heads.each():
            scores_WS[number, head.start + head.label(label)] = score
    starts_s_W, duration_s = np.arange(len(labels), dtype=float), len(labels) + 1.0
    edges_s = window_edges(starts_s_W, 2.0, duration_s)
    return VideoTimeline(
        video="/videos/$hour.mp4", heads=heads, settings=timeline_settings(2.0, 1.0), duration_s=duration_s, fps=25.0,
        num_frames=round(25 * duration_s), starts_s_W=starts_s_W, scores_WS=scores_WS, smoothed_WS=scores_WS,
        segments=tuple(find_segments(scores_WS, edges_s, heads, threshold=0.5, min_segment_s=0.0)),
    )  # fmt: skip


def texts(figure) -> str:
    return "\n".join(text.get_text() for part in (figure, *figure.axes) for text in part.texts)


@pytest.mark.parametrize(
    ("labels", "heads", "names"),
    [
        ([0, 0, 2, 2, 2, 2, 0], Heads(("opens", "shuts", "turns")), ["opens", "turns"]),
        ([1, 1, 2, 2, 2, 2], Heads(("take", "put", "cup", "pan"), (("verb", 2), ("noun", 2))), ["put cup", "take pan"]),
    ],
)
def test_bars_are_the_segments_and_curves_the_scores(labels, heads, names):
    drawn = timeline(labels, heads)
    figure = timeline_figure(drawn)
    lanes, curves = figure.axes
    named = {text.get_position()[1]: text.get_text() for text in lanes.texts}
    boxes = [path.get_extents() for collection in lanes.collections for path in collection.get_paths()]
    bars = sorted((box.x0, box.x1, named[round((box.y0 + box.y1) / 2)]) for box in boxes)
    assert bars == [(one.start_s, one.end_s, one.name) for one in drawn.segments]
    assert [named[lane] for lane in range(2)] == names  # longest first
    middles_s, best = drawn.starts_s_W + 1.0, 0.9 ** len(list(heads.each()))
    *lines, threshold = curves.lines
    assert len(lines) == len(set(labels))
    assert all(np.array_equal(line.get_xdata(), middles_s) for line in lines)
    assert np.max([line.get_ydata() for line in lines], axis=0) == pytest.approx(np.full(len(labels), best))
    assert set(threshold.get_ydata()) == {0.5}
    assert "$hour.mp4" in texts(figure)


def test_of_many_classes_those_that_last_longest_are_shown():
    heads = Heads(tuple(f"class{number}" for number in range(14)))
    figure = timeline_figure(timeline([label for label in range(14) for _ in range(label + 1)], heads))
    shown = texts(figure)
    assert "14 segments of 14 classes, the 10 that last longest are shown" in shown
    assert len(figure.axes[0].collections) == MAX_LANES
    assert "class13" in shown
    assert "class3\n" not in shown


def test_without_a_segment_the_best_classes_are_shown(tmp_path):
    figure = timeline_figure(timeline([1, 1, 0], Heads(("opens", "shuts")), score=0.4))
    assert "no segment: no score stays at 0.5 or above" in texts(figure)
    assert len(figure.axes[1].lines) == 3
    figure.savefig(tmp_path / "empty.png")

"""Scores over time: the moving average, the borders between windows, and the segments."""

import numpy as np
import pytest

from w3ray.heads import UNLABELLED, Heads
from w3ray.scoring.segments import best_over_time, find_segments, smooth_scores, window_edges

ABC = Heads(("a", "b", "c"))
TWO = Heads(("take", "put", "cup", "pan"), (("verb", 2), ("noun", 2)))


def of(text: str, score: float = 0.8) -> np.ndarray:
    """Scores [W, 3]: of each letter's class `score`, of the others the same rest."""
    rest = (1 - score) / 2
    return np.array([[score if letter == name else rest for name in "abc"] for letter in text], np.float32)


def segments(scores_WS: np.ndarray, *, threshold: float = 0.5, min_segment_s: float = 0.0, heads: Heads = ABC):
    """Windows of 2 s every second, over a video that ends with the last one."""
    starts_s_W = np.arange(len(scores_WS), dtype=float)
    edges_s = window_edges(starts_s_W, 2.0, len(scores_WS) + 1.0)
    return find_segments(scores_WS, edges_s, heads, threshold=threshold, min_segment_s=min_segment_s)


def times(found) -> list[tuple[str, float, float]]:
    return [(one.name, one.start_s, one.end_s) for one in found]


def test_borders_are_half_way_between_the_middles():
    assert window_edges(np.array([0.0, 1.0, 1.5]), 2.0, 3.5).tolist() == [0.0, 1.5, 2.25, 3.5]
    assert window_edges(np.array([0.0]), 2.0, 2.0).tolist() == [0.0, 2.0]


class TestSegments:
    def test_they_cover_the_video(self):
        assert times(segments(of("aabbb"))) == [("a", 0.0, 2.5), ("b", 2.5, 6.0)]

    def test_the_threshold(self):
        scores_WS = np.concatenate([of("a", 0.5), of("a", 0.49), of("a", 0.51)])
        assert times(segments(scores_WS)) == [("a", 0.0, 1.5), ("a", 2.5, 4.0)]
        assert times(segments(scores_WS, threshold=0.0)) == [("a", 0.0, 4.0)]
        assert segments(scores_WS, threshold=1.0) == []

    def test_short_ones_are_left_out(self):
        assert times(segments(of("aabaa"), min_segment_s=1.0)) == times(segments(of("aabaa")))
        assert [one.name for one in segments(of("aabaa"), min_segment_s=1.01)] == ["a", "a"]

    def test_independent_classes_overlap(self):
        scores_WS = np.array([[0.9, 0.1, 0.6], [0.9, 0.7, 0.2], [0.2, 0.8, 0.1], [0.1, np.nan, 0.1]])
        edges_s = window_edges(np.arange(4.0), 2.0, 5.0)
        found = find_segments(scores_WS, edges_s, ABC, threshold=0.5, min_segment_s=0.0, independent=True)
        assert times(found) == [("c", 0.0, 1.5), ("a", 0.0, 2.5), ("b", 1.5, 3.5)]
        assert found[1].score == pytest.approx(0.9)

    def test_windows_without_scores_part_them(self):
        scores_WS = of("aaaa")
        scores_WS[1] = np.nan
        assert times(segments(scores_WS)) == [("a", 0.0, 1.5), ("a", 2.5, 5.0)]
        assert segments(np.full((3, 3), np.nan), threshold=0.0) == []

    def test_their_scores_are_weighted_by_time(self):
        (one,) = segments(np.concatenate([of("a", 0.9), of("a", 0.6), of("a", 0.6)]))
        assert one.score == pytest.approx((1.5 * 0.9 + 1.0 * 0.6 + 1.5 * 0.6) / 4)
        assert one.peak == pytest.approx(0.9)
        assert one.document() == {"start_s": 0.0, "end_s": 4.0, "class": "a", "score": one.score, "peak": one.peak}

    def test_of_several_heads_they_are_of_the_best_combination(self):
        scores_WS = np.array([[0.9, 0.1, 0.2, 0.8], [0.9, 0.1, 0.3, 0.7], [0.1, 0.9, 0.3, 0.7]])
        first, second = segments(scores_WS, heads=TWO)
        assert times([first, second]) == [("take pan", 0.0, 2.5), ("put pan", 2.5, 4.0)]
        assert first.score == pytest.approx((1.5 * 0.72 + 1.0 * 0.63) / 2.5)
        assert first.heads["verb"] == ("take", pytest.approx(0.9))
        assert first.heads["noun"] == ("pan", pytest.approx((1.5 * 0.8 + 0.7) / 2.5))
        assert first.document()["noun"] == {"class": "pan", "score": first.heads["noun"][1]}
        assert segments(scores_WS, heads=TWO, threshold=0.7)[0].end_s == 1.5  # 0.63 is the product


class TestSmooth:
    def test_it_is_the_mean_of_the_windows_around(self):
        starts_s_W = np.array([0.0, 0.5, 1.0, 1.5, 1.7])
        scores_WS = np.random.default_rng(0).random((5, 3)).astype(np.float32)
        found = smooth_scores(starts_s_W, scores_WS, 1.0)
        for number, rows in enumerate([(0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4)]):
            assert found[number] == pytest.approx(scores_WS[list(rows)].mean(axis=0)), number

    def test_0_changes_nothing(self):
        scores_WS = of("abc")
        assert np.array_equal(smooth_scores(np.arange(3.0), scores_WS, 0.0), scores_WS)

    def test_windows_without_scores_do_not_count(self):
        scores_WS = of("aab")
        scores_WS[1] = np.nan
        found = smooth_scores(np.arange(3.0), scores_WS, 2.0)
        assert found[0] == pytest.approx(scores_WS[0])
        assert found[1] == pytest.approx((scores_WS[0] + scores_WS[2]) / 2)
        assert np.isnan(smooth_scores(np.arange(3.0), np.full((3, 3), np.nan), 2.0)).all()


def test_the_best_class_of_equal_ones_is_the_first():
    label_W, score_W = best_over_time(np.array([[0.4, 0.4, 0.2], [np.nan] * 3]), ABC)
    assert label_W.tolist() == [0, UNLABELLED]
    assert score_W.tolist() == [0.4, pytest.approx(np.nan, nan_ok=True)]

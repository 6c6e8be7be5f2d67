"""The reliability diagram shows exactly the numbers of the calibration."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.container import BarContainer

from w3ray.evaluation.reliability import calibration_figure, write_calibration
from w3ray.evaluation.uncertainty import Calibration, calibration


def boasting() -> Calibration:
    """Ten clips at 0.9, six of them right; four at 0.55, three of them right."""
    scores = np.array([[0.9, 0.1]] * 10 + [[0.55, 0.45]] * 4)
    return calibration(scores, np.array([0] * 6 + [1] * 4 + [0] * 3 + [1]), bins=10)


def bars_of(axes) -> list[tuple[float, float, float]]:
    """(left edge, width, height) of each bar."""
    (bars,) = [container for container in axes.containers if isinstance(container, BarContainer)]
    return [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in bars]


def test_bars_are_the_numbers() -> None:
    found = boasting()
    shares, counts = calibration_figure(found).axes
    assert np.array(bars_of(shares)) == pytest.approx(np.array([(0.5, 0.1, 0.75), (0.8, 0.1, 0.6)]))
    assert np.array(bars_of(counts)) == pytest.approx(np.array([(0.5, 0.1, 4), (0.8, 0.1, 10)]))
    assert [text.get_text() for text in counts.texts] == ["4", "10"]
    (confidence,) = shares.collections
    lines = [segment.tolist() for segment in confidence.get_segments()]
    assert np.array(lines) == pytest.approx(np.array([[[0.5, 0.55], [0.6, 0.55]], [[0.8, 0.9], [0.9, 0.9]]]))
    (diagonal,) = shares.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert found.expected_error == pytest.approx((10 * 0.3 + 4 * 0.2) / 14)
    assert shares.get_title() == "calibration error 0.271 of 14 clips"


def test_every_bar_is_seen() -> None:
    """Scores of 0 and 1 are in the first and last bin. Their bars are inside the picture."""
    found = calibration(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([0, 0]))
    shares, counts = calibration_figure(found).axes
    for axes in (shares, counts):
        (low, high), top = axes.get_xlim(), axes.get_ylim()[1]
        assert all(low <= left and left + width <= high and height <= top for left, width, height in bars_of(axes))
        assert len(bars_of(axes)) == 2


def test_a_bin_without_clips_has_no_bar() -> None:
    found = calibration(np.array([[0.9, 0.1]]), np.array([0]))
    shares, counts = calibration_figure(found).axes
    assert len(bars_of(shares)) == len(bars_of(counts)) == 1


def test_file(tmp_path: Path) -> None:
    path = write_calibration(tmp_path, boasting())
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.png"]
    picture = matplotlib.image.imread(path)
    assert picture.shape[:2] == (704, 616)
    assert picture[..., :3].std() > 0.05, "something is drawn"

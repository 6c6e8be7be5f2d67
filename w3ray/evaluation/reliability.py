"""Is a model as accurate as its scores say? A picture: the reliability diagram (Niculescu-Mizil & Caruana, ICML 2005).

The upper part shows how often the best class is right, for each bin of the best score. On the diagonal the scores are
calibrated. The lower part shows the number of clips in each bin, because a bar of three clips says little.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from w3ray._file_names import file_stem
from w3ray.evaluation.uncertainty import Calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CALIBRATION_PNG = "calibration.png"


def calibration_figure(found: Calibration) -> "Figure":
    """Bars of accuracy and bars of counts for each bin, with a line across each bar at the bin's mean confidence.

    The mean gap between bars and lines, weighted by the counts, is the calibration error in the title.
    """
    from matplotlib.figure import Figure  # imported late: it is slow. No pyplot: its global state is not thread-safe

    figure = Figure(figsize=(5.6, 6.4), layout="constrained")
    shares, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [place for place, count in enumerate(found.count) if count]
    left = [found.edges[place] for place in filled]
    right = [found.edges[place + 1] for place in filled]
    width = [end - start for start, end in zip(left, right, strict=True)]
    about = {"width": width, "align": "edge", "color": "#6baed6", "edgecolor": "white"}
    shares.bar(left, [found.accuracy[place] for place in filled], label="accuracy", **about)
    confidence = [found.confidence[place] for place in filled]
    shares.hlines(confidence, left, right, colors="#08306b", linewidth=2, label="mean confidence")
    shares.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="calibrated scores")
    shares.set_title(f"calibration error {found.expected_error:.3f} of {sum(found.count)} clips")
    shares.set_ylabel("share of right clips")
    shares.set_ylim(0, 1)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)  # inside it could cover a bar
    bars = counts.bar(left, [found.count[place] for place in filled], **about)
    counts.bar_label(bars, fontsize=8)
    counts.margins(y=0.25)  # room for the numbers over the bars
    counts.set_ylabel("clips")
    counts.set_xlabel("confidence: score of the best class")
    counts.set_xlim(0, 1)
    return figure


def write_calibration(directory: str | Path, found: Calibration, prefix: str = "") -> Path:
    """Write `calibration.png` and return its path. With several heads, the file name begins with the head's name."""
    target = Path(directory) / f"{prefix and file_stem(prefix)}{CALIBRATION_PNG}"
    partial = target.with_name(f".partial-{target.name}")
    calibration_figure(found).savefig(partial, dpi=110)
    partial.replace(target)
    return target

"""Rules: are clips read and cropped as for the published result?"""

from collections.abc import Iterator

from w3ray.lint._common import Comparison, Finding, Rule, plain

_TABLE_1 = "W3 Table 1 (Something-Something V1)"


def flip(comparison: Comparison) -> Iterator[Finding]:
    """Clips are mirrored, but not for the published result. Another rule checks the labels of mirrored clips."""
    if comparison.recipe.data.flip and not comparison.published.data.flip:
        yield Finding(
            severity="note",
            field="data.flip",
            value=True,
            published=False,
            source=comparison.source("data.flip"),
            cost="a gain: with the label map, 47.10 instead of 45.58 (TSM, Something-Something V1, 8 frames); W3 gains "
            "3.4 there, so a comparison with the row is no longer fair",
            cost_source="model zoo of mmaction2 0.x (tsm_r50_flip_1x1x8_50e_sthv1_rgb)",
        )


def short_side(comparison: Comparison) -> Iterator[Finding]:
    """The centre crop of the evaluation covers another share of the picture: size / short side."""
    ours, theirs = comparison.recipe.data.clip_spec(), comparison.published.data.clip_spec()
    share = (ours.size / ours.resolved_short_side, theirs.size / theirs.resolved_short_side)
    # A difference from rounding to whole pixels does not count.
    if abs(share[0] - share[1]) > 1 / ours.resolved_short_side:
        yield Finding(
            severity="note",
            field="data.short_side",
            value=f"{ours.resolved_short_side} for a crop of {ours.size}",
            published=f"{theirs.resolved_short_side} for a crop of {theirs.size}",
            source=comparison.source("data.short_side"),
        )


RULES: dict[str, Rule] = {
    "frames": plain(
        "data.num_frames",
        severity="warning",
        cost="with 8 instead of 16 frames, TSM+W3 has 49.0 instead of 52.6 and TSM 45.6 instead of 47.2; no figure for "
        "other numbers",
        cost_source=_TABLE_1,
    ),
    "sampling": plain(
        "data.sampling",
        severity="warning",
        cost="no figure on Something-Something; on Kinetics-400, dense has 73.39 and segment 72.95 (TSM, 8 frames)",
        cost_source="model zoo of mmaction2 1.x, 8 clips x 10 crops, 50 epochs",
    ),
    "size": plain("data.size", severity="warning"),
    "short_side": short_side,
    "scales": plain("data.scales"),
    "flip": flip,
    "rows_together": plain("train.rows_together", source="TSM main.py: clips are shuffled one by one"),
}
"""Name -> rule."""

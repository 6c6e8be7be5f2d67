"""Rules: are clips made as for the published result?"""

from collections.abc import Iterator

from w3ray.lint._common import Comparison, Finding, Rule, plain

_TABLE_1 = "W3 Table 1 (Something-Something V1)"


def flip(comparison: Comparison) -> Iterator[Finding]:
    """Mirrored clips, where the published result is without; what they do to labels is a rule of its own."""
    if comparison.recipe.data.flip and not comparison.published.data.flip:
        yield Finding(
            severity="note",
            field="data.flip",
            value=True,
            published=False,
            source=comparison.source("data.flip"),
            cost="none: with the label map 45.58 became 47.10 (TSM, Something-Something V1, 8 frames), 1.5 points "
            "beside the 3.4 that W3 gains there: the row is no longer compared like for like",
            cost_source="model zoo of mmaction2 0.x (tsm_r50_flip_1x1x8_50e_sthv1_rgb)",
        )


def short_side(comparison: Comparison) -> Iterator[Finding]:
    """The evaluation's centre crop takes another share of the picture: size / short side."""
    ours, theirs = comparison.recipe.data.clip_spec(), comparison.published.data.clip_spec()
    share = (ours.size / ours.resolved_short_side, theirs.size / theirs.resolved_short_side)
    # What is rounded to whole pixels is no other share.
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
        cost="from 16 to 8 frames TSM+W3 goes from 52.6 to 49.0, TSM from 47.2 to 45.6; no figure of other numbers",
        cost_source=_TABLE_1,
    ),
    "sampling": plain(
        "data.sampling",
        severity="warning",
        cost="no figure on Something-Something; on Kinetics-400 dense has 73.39, segments 72.95 (TSM, 8 frames)",
        cost_source="model zoo of mmaction2 1.x, 8 clips x 10 crops, 50 epochs",
    ),
    "size": plain("data.size", severity="warning"),
    "short_side": short_side,
    "scales": plain("data.scales"),
    "flip": flip,
    "rows_together": plain("train.rows_together", source="TSM main.py: clips are shuffled one by one"),
}
"""Name -> rule."""

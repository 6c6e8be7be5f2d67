"""Rules: is it the published network, and does it start in the same way?"""

from collections.abc import Iterator
from typing import Any

from w3ray.lint._common import NO_FIGURE, Comparison, Finding, Rule, finding, plain, w3_config, w3_option
from w3ray.recipe import Decides, ResolvedStage, fields_that_decide

_TABLE_5 = "W3 Table 5 (Something-Something V1, 16 frames)"
_PROFILE = "w3ray profile --frames 16, with and without --dense"


def attention(comparison: Comparison) -> Iterator[Finding]:
    """The attention is not W3. A recipe without attention is compared with a row without attention."""

    def kind(stage: ResolvedStage) -> str | None:
        return None if stage.model.attention is None else stage.model.attention.kind

    for field, value, published in comparison.differing("model.attention.kind", kind, lambda a, b: a == b):
        yield finding(
            field,
            value,
            published,
            comparison.source("model.attention.kind" if published else "model.attention"),
            severity="warning",
            cost={"cbam": "49.1 instead of 52.6, 50.5 with MFR", "nonlocal": "49.8 instead of 52.6"},
            cost_source="W3 Tables 6 and 7 (Something-Something V1, 16 frames)",
        )


def refinement(comparison: Comparison) -> Iterator[Finding]:
    """There is no AFR, although the attention has the masks for it."""

    def read(stage: ResolvedStage) -> bool | None:
        config = w3_config(stage.model)
        return stage.model.refinement if config is not None and config.has_spatial_mask else None

    def agree(value: Any, published: Any) -> bool:
        return value is None or published is None or value == published

    for field, value, published in comparison.differing("model.refinement", read, agree):
        yield finding(
            field,
            value,
            published,
            comparison.source("model.refinement"),
            severity="warning",
            cost="50.1 instead of 52.6",
            cost_source=_TABLE_5,
        )


def initial_weights(comparison: Comparison) -> Iterator[Finding]:
    """Random weights, or weights of another training. The content of a file is not checked."""

    def agree(value: Any, published: Any) -> bool:
        return value == published or (value is not None and "_Weights." not in value)

    def read(stage: ResolvedStage) -> str | None:
        return stage.model.weights

    for field, value, published in comparison.differing("model.weights", read, agree):
        yield Finding(
            severity="warning" if value is None else "note",
            field=field,
            value=value,
            published=published,
            source=comparison.source("model.weights"),
            cost=NO_FIGURE
            if value is not None
            else f"{NO_FIGURE}; TSM's author advises ten times the learning rate for training from scratch",
            cost_source=None if value is not None else "mit-han-lab/temporal-shift-module, issue 22",
        )


def teacher_alike(comparison: Comparison) -> Iterator[Finding]:
    """A student has another network than its teacher, or is trained differently."""
    stages = {stage.name: stage for stage in comparison.recipe.resolved_stages()}
    for stage in stages.values():
        if stage.teacher is None:
            continue
        teacher = stages[stage.teacher]
        for section in ("model", "train"):
            ours, theirs = getattr(stage, section), getattr(teacher, section)
            for name in fields_that_decide(type(ours), *Decides):
                if getattr(ours, name) != getattr(theirs, name):
                    yield Finding(
                        severity="note",
                        field=f"stages.{stage.name}.{section}.{name}",
                        value=_plain(getattr(ours, name)),
                        published=f"like the teacher's: {_plain(getattr(theirs, name))}",
                        source="W3 3.4: identical architecture; it names no different training for the student",
                    )


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


RULES: dict[str, Rule] = {
    "model": plain(
        "model.name",
        severity="warning",
        cost={"tsn": "19.7 instead of 45.6 without attention (Something-Something V1, 8 frames)"},
        cost_source="W3 Table 1",
    ),
    "backbone": plain(
        "model.backbone",
        severity="warning",
        cost={"resnet101": "a gain: 46.9 instead of 45.6 (TSM, Something-Something V1, 8 frames)"},
        cost_source="TSM's README",
    ),
    "attention": attention,
    "reduction": w3_option("reduction"),
    "channel_kernel": w3_option("channel_kernel"),
    "spatial_kernel": w3_option("spatial_kernel"),
    "temporal_kernel": w3_option("temporal_kernel"),
    "depthwise": w3_option(
        "depthwise",
        cost={False: "no figure for accuracy; 67.5 instead of 65.5 GMAC, and 123 M instead of 2.7 M added parameters"},
        cost_source=_PROFILE,
    ),
    "hidden": w3_option("hidden"),
    "placement": w3_option("placement"),
    "start": w3_option("start"),
    "channel_part": w3_option("channel", source="W3 3.1", severity="warning"),
    "spatial_part": w3_option(
        "spatial", source="W3 3.2", severity="warning", cost="49.8 instead of 52.6", cost_source=_TABLE_5
    ),
    "temporal_part": w3_option(
        "temporal", source="W3 Eq. 4 and 6", severity="warning", cost="47.2 instead of 52.6", cost_source=_TABLE_5
    ),
    "refinement": refinement,
    "dropout": plain("model.dropout"),
    "shift_div": plain("model.options.shift_div"),
    "shift_mode": plain(
        "model.options.shift_mode",
        severity="warning",
        cost="TSM's paper (arXiv:1811.08383) compares the two; see its figures there",
        cost_source="arXiv:1811.08383",
    ),
    "initial_weights": initial_weights,
    "teacher_alike": teacher_alike,
}
"""Name -> rule."""

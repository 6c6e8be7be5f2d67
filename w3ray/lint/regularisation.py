"""Rules: does a recipe augment and regularise otherwise than anyone has published?

The W3 paper's trainings, and TSM's, have none of these. So a value is compared with the settings that other papers and
training codes have published.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from w3ray.lint._common import Comparison, Finding, Rule
from w3ray.recipe import ResolvedStage

_MVIT = "PySlowFast, configs of MViT"
_DEIT = "DeiT, its training code"

AUGMENTATIONS: Mapping[str, tuple[tuple[Mapping[str, Any], str], ...]] = {
    "rand_augment": (({"num_ops": 2, "magnitude": 9}, "RandAugment, arXiv:1909.13719, ResNet-50 on ImageNet"),),
    "color_jitter": (
        (
            {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "probability": 0.8},
            "MoCo v2, arXiv:2003.04297, its code",
        ),
    ),
    "random_erasing": (
        ({"probability": 0.5, "least_area": 0.02, "most_area": 0.4}, "Random Erasing, arXiv:1708.04896"),
        ({"probability": 0.25, "least_area": 0.02, "most_area": 1 / 3}, _MVIT),
    ),
}
"""Augmentation -> the published settings of all its options, with their sources."""

MIXES: tuple[tuple[Mapping[str, float], str], ...] = (
    ({"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "probability": 1.0, "cutmix_share": 0.5}, f"{_MVIT}; {_DEIT}"),
    ({"mixup_alpha": 0.2, "cutmix_alpha": 0.0, "probability": 1.0}, "mixup, arXiv:1710.09412, ImageNet"),
    ({"mixup_alpha": 0.0, "cutmix_alpha": 1.0, "probability": 1.0}, "CutMix, arXiv:1905.04899, ImageNet"),
)
"""Published settings of `train.mix`. What a setting does not name has no effect."""

_DEEPEST = 0.75
"""The largest published share of the last block that we know: MViTv2-L, a transformer of 48 blocks."""


def augmentations(comparison: Comparison) -> Iterator[Finding]:
    """Options of an augmentation that were not published together."""
    for choice in comparison.recipe.data.augmentations:
        known = AUGMENTATIONS.get(choice.name, ())
        if known and not any(_agree(dict(choice.options), options) for options, _ in known):
            yield _unpublished(f"data.augmentations: {choice.name}", _said(dict(choice.options)), known)


def mix(comparison: Comparison) -> Iterator[Finding]:
    """Settings of mixup and CutMix that were not published together."""
    for field, stage in _stages(comparison, "train.mix", lambda stage: stage.train.mix):
        if stage.train.mix is not None:
            values = stage.train.mix.model_dump()
            if not any(_agree(values, options) for options, _ in MIXES):
                yield _unpublished(field, _said(values), MIXES)


def stochastic_depth(comparison: Comparison) -> Iterator[Finding]:
    """More blocks are skipped than in any published network."""
    for field, stage in _stages(comparison, "train.stochastic_depth", lambda stage: stage.train.stochastic_depth):
        if stage.train.stochastic_depth > _DEEPEST:
            yield Finding(
                severity="note",
                field=field,
                value=stage.train.stochastic_depth,
                published=_DEEPEST,
                source=f"{_MVIT}: 0.75 in MViTv2-L, 0.3 in MViTv2-B, 0.2 in MViT-B",
            )


def repeated_augmentation(comparison: Comparison) -> Iterator[Finding]:
    """A clip is there more often than in any published training."""
    for field, stage in _stages(
        comparison, "train.repeated_augmentation", lambda stage: stage.train.repeated_augmentation
    ):
        repeats = stage.train.repeated_augmentation
        if repeats > 3:
            yield Finding(
                severity="note", field=field, value=repeats, published="2 or 3", source=f"2: {_MVIT}; 3: {_DEIT}"
            )


def _stages(
    comparison: Comparison, path: str, read: Callable[[ResolvedStage], Any]
) -> Iterator[tuple[str, ResolvedStage]]:
    """(field, stage): the first stage alone if all stages have the same value."""
    stages = comparison.recipe.resolved_stages()
    if all(read(stage) == read(stages[0]) for stage in stages):
        yield path, stages[0]
        return
    for stage in stages:
        yield f"stages.{stage.name}.{path}", stage


def _agree(values: Mapping[str, Any], published: Mapping[str, Any]) -> bool:
    return all(abs(values[name] - value) < 1e-3 for name, value in published.items())


def _said(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in options.items())


def _unpublished(field: str, value: str, known: tuple[tuple[Mapping[str, Any], str], ...]) -> Finding:
    return Finding(
        severity="note",
        field=field,
        value=value,
        published=" or ".join(f"({_said(options)})" for options, _ in known),
        source="; ".join(source for _, source in known),
    )


RULES: dict[str, Rule] = {
    "augmentations": augmentations,
    "mix": mix,
    "stochastic_depth": stochastic_depth,
    "repeated_augmentation": repeated_augmentation,
}
"""Name -> rule."""

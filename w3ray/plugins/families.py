"""The families of parts, and where their tables are."""

from typing import Any

from w3ray._registry import Registry, attribute

FAMILIES: dict[str, str] = {
    "attentions": "w3ray.attention:ATTENTION",
    "models": "w3ray.models:MODELS",
    "backbones": "w3ray.models:BACKBONES",
    "losses": "w3ray.training.losses:LOSSES",
    "callbacks": "w3ray.training.callbacks:CALLBACKS",
    "decoders": "w3ray.data.decoders:DECODERS",
    "samplers": "w3ray.data.clip_sampling:SAMPLERS",
    "augmentations": "w3ray.data.augmentation:AUGMENTATIONS",
    "importers": "w3ray.data.importers:IMPORTERS",
    "searchers": "w3ray.sweep.searchers:SEARCHERS",
    "schedulers": "w3ray.sweep.schedulers:SCHEDULERS",
}
"""Family -> its table, as "module:attribute"."""

CLIP_FAMILIES = ("samplers", "decoders", "augmentations")
"""Families whose parts decide the pixels of a clip."""

MODEL_FAMILIES = ("models", "backbones", "attentions", "samplers", "decoders")
"""Families whose parts a trained model needs."""

Part = tuple[str, str]
"""Family and name of a part, written as `family/name`."""


def part_of(text: str) -> Part:
    """Parse `family/name`."""
    family, _, name = text.partition("/")
    return family, name


def table(family: str) -> Registry[Any]:
    """The table of a family in `FAMILIES`."""
    found: Registry[Any] = attribute(FAMILIES[family])
    return found

"""Which further changes can training make to a clip, after crop and mirror?

A new augmentation is one file here and one row in AUGMENTATIONS. The table does not import torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from w3ray._nearest import did_you_mean
from w3ray._registry import Registry
from w3ray.data.augmentation._common import Augmentation, AugmentationOptions
from w3ray.data.crop import Frames

AUGMENTATIONS: Registry[Augmentation | type[AugmentationOptions]] = Registry(
    "augmentations",
    {
        "color_jitter": "w3ray.data.augmentation.color_jitter:ColorJitter",
        "rand_augment": "w3ray.data.augmentation.rand_augment:RandAugment",
        "random_erasing": "w3ray.data.augmentation.random_erasing:RandomErasing",
        "trivial_augment": "w3ray.data.augmentation.trivial_augment:TrivialAugment",
    },
    contract="w3ray.testing:check_augmentation",
)
"""Name -> a function `augmentation(frames_TSSC, rng)`, or a subclass of `AugmentationOptions`, if it has options.

Frames are uint8 [T, S, S, C]. What it draws comes from `rng` alone, so that a clip is the same in any process.
"""

__all__ = ["AUGMENTATIONS", "Augmentation", "AugmentationChoice", "AugmentationOptions", "Frames"]


@dataclass(frozen=True, slots=True)
class AugmentationChoice:
    """An augmentation by its name, with all its options: a plain value, which needs no plugin to be unpickled."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, value: "str | Mapping[str, Any] | AugmentationChoice") -> Self:
        """What a recipe or a file names: a name, or an object of `name` and options. Options that are absent are added.

        Raises:
            ValueError: the name is unknown, or an option is unknown or out of range.
        """
        if isinstance(value, AugmentationChoice):
            value = value.written()
        given = {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}
        name = given.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f"{value!r} must be a name, or a section with a name and its options")
        if name not in AUGMENTATIONS:
            hint = did_you_mean(name, AUGMENTATIONS)
            raise ValueError(f"unknown augmentation {name!r}; {hint}known: {', '.join(AUGMENTATIONS)}")
        AUGMENTATIONS.row(name)
        if (options := _options_of(name)) is not None:
            return cls(name, tuple(options.from_options(given).values().items()))
        if given:
            raise ValueError(f"{name}: unknown option {', '.join(sorted(given))}; it has no options")
        return cls(name)

    def written(self) -> str | dict[str, Any]:
        """The name alone, or with the options: a JSON value that `of` reads."""
        return {"name": self.name, **dict(self.options)} if self.options else self.name

    def check_channels(self, channels: int) -> None:
        """Raise ValueError if the augmentation is for colours only and the clip has none."""
        options = _options_of(self.name)
        if options is not None and options.needs_rgb and channels != 3:
            raise ValueError(f"{self.name} changes colours, and a clip of optical flow has none; remove it")

    def __call__(self, frames_TSSC: Frames, rng: Any) -> Frames:
        """The changed clip, uint8 [T, S, S, C]."""
        options = _options_of(self.name)
        augmentation = AUGMENTATIONS[self.name] if options is None else options.from_options(dict(self.options))
        changed: Frames = augmentation(frames_TSSC, rng)  # type: ignore[call-arg, assignment]
        return changed


def _options_of(name: str) -> type[AugmentationOptions] | None:
    member = AUGMENTATIONS[name]
    return member if isinstance(member, type) and issubclass(member, AugmentationOptions) else None

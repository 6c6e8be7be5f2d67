"""What do all options have in common of the parts that a recipe chooses by name, such as an attention or a model?

Options are a frozen dataclass that checks itself. Recipes, models on disk and modules hold all of its fields, so a
default that is written out means the same as one that is left out. A field names its old value (`AS_BEFORE`) if its
default was changed, or if networks did something else before the field existed. So finished stages keep their
identities.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self, get_args

from w3ray._nearest import did_you_mean, nearest

AS_BEFORE = "as_before"
"""Metadata of a field: the value that its absence means in files of older versions; without it, the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Base of all options. Subclasses raise ValueError for a value out of range; the message names the field."""

    label: ClassVar[str]
    """Name of the part that has these options, for messages."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """The options that a recipe gives. Raises ValueError for unknown ones; the message names them."""
        # The part's own options come before the ones that all parts of its kind have.
        known = sorted((field.name for field in fields(cls)), key=lambda name: name not in cls.__annotations__)
        if unknown := sorted(set(options) - set(known)):
            hint = did_you_mean(str(unknown[0]), known)
            raise ValueError(
                f"{cls.label}: unknown option {', '.join(unknown)}; {hint}known: {', '.join(known) or 'none'}"
            )
        return cls(**options)

    @classmethod
    def from_before(cls, options: Mapping[str, Any]) -> Self:
        """The options that an older version wrote. An absent option has the value that it had then.

        Raises:
            ValueError: an option is unknown or out of range.
        """
        return cls.from_options({**cls.before(), **options})

    @classmethod
    def before(cls) -> dict[str, Any]:
        """Option -> the value that its absence meant in the first recipes, as JSON."""
        return {field.name: _plain(field.metadata.get(AS_BEFORE, field.default)) for field in fields(cls)}

    def values(self) -> dict[str, Any]:
        """All options, as JSON values."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def shortest(self) -> dict[str, Any]:
        """The options that differ from what their absence means, as JSON values. Identities are hashes of them."""
        before = self.before()
        return {name: value for name, value in self.values().items() if value != before[name]}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_whole(label: str, name: str, value: Any, *, least: int = 1) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{label}: {name}={value!r}: must be a whole number >= {least}")


def check_one_of(label: str, name: str, value: Any, choices: Any) -> None:
    """Raise ValueError unless `value` is one of the values of a Literal type."""
    known = get_args(choices)
    if value not in known:
        meant = nearest(str(value), [str(one) for one in known])
        hint = f"; did you mean {meant!r}?" if meant else ""
        raise ValueError(f"{label}: {name}={value!r}: must be one of {', '.join(map(str, known))}{hint}")


def check_flag(label: str, name: str, value: Any) -> None:
    """Raise ValueError unless `value` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{label}: {name}={value!r}: must be true or false")

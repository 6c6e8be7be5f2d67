"""Which marks does a field of a recipe have besides its type? How much depends on it, and what its absence means."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


@dataclass(frozen=True, slots=True)
class AsBefore:
    """Mark of a field that was added later: what its absence means in recipes and stages of older versions."""

    value: Any


class Decides(Enum):
    """Mark of a field that does not decide the whole result of a stage."""

    NOTHING = "no result: only where things are stored and what is logged"
    CHECKPOINTS = "only which checkpoints exist to choose from, not how the network is trained"


def fields_that_decide(section: "type[BaseModel]", *less: Decides) -> list[str]:
    """The names of a section's fields, without the fields that have a mark in `less` (default: `Decides.NOTHING`)."""
    return [
        name
        for name, field in section.model_fields.items()
        if not any(mark in field.metadata for mark in less or (Decides.NOTHING,))
    ]


def as_before(section: "type[BaseModel]") -> dict[str, Any]:
    """For each field that was added later: name -> the value that its absence means."""
    marks = {name: field.metadata for name, field in section.model_fields.items()}
    return {name: mark.value for name, found in marks.items() for mark in found if isinstance(mark, AsBefore)}


class Section(BaseModel):
    """A part of a recipe: frozen, no unknown keys, no guessed types ("3" is not a number); lists become tuples."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_to_tuples(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def without_as_before(section: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of a section in the form of versions without the later fields.

    A later field is left out if its value is the one that its absence means.
    """
    absent = object()
    before = {name: _jsonable(value) for name, value in as_before(section).items()}
    return {name: value for name, value in values.items() if before.get(name, absent) != value}


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

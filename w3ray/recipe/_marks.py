"""What is said of a field of a recipe beside its type: what decides less than a stage's result, and what came later."""

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
    """Mark of a field on which less depends than the whole result of a stage."""

    NOTHING = "where things are kept and what is written down"
    CHECKPOINTS = "which checkpoints there are to choose from; not how the network is trained"


def fields_that_decide(section: "type[BaseModel]", *less: Decides) -> list[str]:
    """The names of a section's fields without those that are marked as deciding no more than `less`."""
    return [
        name
        for name, field in section.model_fields.items()
        if not any(mark in field.metadata for mark in less or (Decides.NOTHING,))
    ]


def as_before(section: "type[BaseModel]") -> dict[str, Any]:
    """Field -> what its absence means, of the fields that were added later."""
    marks = {name: field.metadata for name, field in section.model_fields.items()}
    return {name: mark.value for name, found in marks.items() for mark in found if isinstance(mark, AsBefore)}


class Section(BaseModel):
    """A part of a recipe: frozen, no unknown keys, no guessed types ("3" is no number), lists become tuples."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_to_tuples(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def without_as_before(section: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of a section without what their absence would mean: as versions without these fields wrote them."""
    absent = object()
    before = {name: _jsonable(value) for name, value in as_before(section).items()}
    return {name: value for name, value in values.items() if before.get(name, absent) != value}


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

"""What is a whole search, and which points does it have?"""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from w3ray.errors import InputError
from w3ray.recipe import NAME_PATTERN, Recipe, Section
from w3ray.sweep.space.fields import get_field, holds, put_field
from w3ray.sweep.space.parameter import Parameter
from w3ray.sweep.space.settings import Budget, Objective, Scheduling, Search

Point = dict[str, Any]
"""Dotted name of a recipe's field -> value, for the parameters whose conditions hold."""

CASE = "case"
"""The name under which a point holds its case of the space."""


class Space(Section):
    """A whole search."""

    name: str = Field(
        pattern=NAME_PATTERN,
        description="name of the sweep, its folder and its MLflow run; a file without it has the file's name",
    )
    description: str = Field(default="", description="what the sweep should find out")
    parameters: dict[str, Parameter] = Field(default={}, description="dotted field of the recipe -> its values")
    cases: dict[Annotated[str, Field(pattern=NAME_PATTERN)], dict[str, Any]] = Field(
        default={}, description="named groups of settings; each group is tried (a grid of one dimension)"
    )
    fixed: dict[str, Any] = Field(default={}, description="dotted field -> value, for all trials")
    objective: Objective | tuple[Objective, ...] = Field(
        default=Objective(), description="how trials are compared; several objectives: a Pareto front"
    )
    search: Search = Search()
    scheduling: Scheduling = Scheduling()
    budget: Budget = Budget()
    concurrency: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="trials at once; auto: as many as fit the cluster"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.parameters and not self.cases:
            raise ValueError("parameters: nothing to search; name at least one field of the recipe")
        seen: list[str] = []
        for name, parameter in self.parameters.items():
            for other in parameter.when:
                if other in self.parameters and other not in seen:
                    raise ValueError(f"parameters.{name}.when: {other} must stand before it")
            seen.append(name)
        if isinstance(self.objective, tuple) and not self.objective:
            raise ValueError("objective: name at least one")
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self.objective if isinstance(self.objective, tuple) else (self.objective,)

    def to_dict(self) -> dict[str, Any]:
        """Plain values as JSON knows them; `Space.model_validate` takes them back."""
        document: dict[str, Any] = json.loads(self.model_dump_json(exclude_defaults=True))
        return {"name": self.name, **document}

    def renamed(self, name: str) -> Self:
        """The same space under another name. Raises: InputError if the name is not valid."""
        if re.fullmatch(NAME_PATTERN, name) is None:
            raise InputError(
                f"name: must start with a letter or digit and hold only letters, digits and . _ -, got {name!r}"
            )
        return self.model_copy(update={"name": name})

    def grid_dimensions(self) -> dict[str, tuple[Any, ...]]:
        """The dimensions that every searcher tries value by value: the cases and the `grid` parameters."""
        cases = {CASE: tuple(self.cases)} if self.cases else {}
        return cases | {name: one.grid for name, one in self.parameters.items() if one.grid is not None}

    def resolve(self, base: Recipe, value_of: Callable[[str], Any]) -> Point:
        """The point with the values `value_of(name)`, without the parameters whose conditions do not hold.

        Args:
            base: has the values of fields that are not parameters.
            value_of: called with `CASE` first if there are cases, then with the parameters in the space's order.
        """
        point: Point = {}
        values = base.to_dict()
        for name, value in self.fixed.items():
            put_field(values, name, value)
        if self.cases:
            point[CASE] = value_of(CASE)
            for name, value in self.cases[point[CASE]].items():
                put_field(values, name, value)
        for name, parameter in self.parameters.items():
            if all(holds(get_field(values, field), wanted) for field, wanted in parameter.when.items()):
                point[name] = value_of(name)
                put_field(values, name, point[name])
        return point

    def grid_points(self, base: Recipe) -> Iterator[Point]:
        """Each combination once, in order; a parameter whose conditions do not hold makes no new combination.

        Raises:
            InputError: a parameter has no list of values.
        """
        dimensions: dict[str, tuple[Any, ...]] = {CASE: tuple(self.cases)} if self.cases else {}
        for name, parameter in self.parameters.items():
            if (values := parameter.values) is None:
                raise InputError(
                    f"parameters.{name}: a grid needs a list of values, but {parameter.kind} has none; give it a step, "
                    "or use choice, or set search.searcher to random"
                )
            dimensions[name] = values
        seen = set()
        for combination in itertools.product(*dimensions.values()):
            point = self.resolve(base, dict(zip(dimensions, combination, strict=True)).__getitem__)
            if (key := point_key(point)) not in seen:
                seen.add(key)
                yield point


def point_key(point: Mapping[str, Any]) -> str:
    """A text that is the same for equal points."""
    return json.dumps(point, sort_keys=True)

"""Does a space fit the recipe that it searches?"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from w3ray._nearest import did_you_mean
from w3ray.errors import InputError
from w3ray.recipe import Recipe
from w3ray.recipe.faults import fault_lines
from w3ray.sweep.space.fields import put_field, stage_names_of
from w3ray.sweep.space.settings import COST_METRICS, VALIDATION_METRICS
from w3ray.sweep.space.space import Space

_OWN_FIELDS = ("name", "storage", "tracking")


def check_space(space: Space, base: Recipe) -> None:
    """Check a space against the recipe that it searches.

    Raises:
        InputError: a field that no recipe has, a value of the wrong type, an objective that no stage reports. One line
            for each fault, all at once.
    """
    faults = [*_field_faults(space), *_value_faults(space, base), *_objective_faults(space, base)]
    if faults:
        raise InputError(*(f"{space.name}: {fault}" for fault in dict.fromkeys(faults)))


def _settings(space: Space) -> Iterator[tuple[str, str, tuple[Any, ...], Mapping[str, Any]]]:
    """(where, field, values, conditions) of everything that the space sets."""
    for name, value in space.fixed.items():
        yield "fixed", name, (value,), {}
    for case, settings in space.cases.items():
        for name, value in settings.items():
            yield f"cases.{case}", name, (value,), {}
    for name, parameter in space.parameters.items():
        yield "parameters", name, parameter.extremes(), parameter.when


def _field_faults(space: Space) -> Iterator[str]:
    for where, name, _, _ in _settings(space):
        if name.partition(".")[0] in _OWN_FIELDS:
            yield f"{where}.{name}: trials cannot differ in this field; set it in the recipe"
    for name in space.parameters:
        if name in space.fixed:
            yield f"fixed.{name}: is also a parameter; remove one of the two"


def _value_faults(space: Space, base: Recipe) -> Iterator[str]:
    """Faults of single values; combinations are checked when they are proposed."""
    for where, name, values, when in _settings(space):
        if name.partition(".")[0] in _OWN_FIELDS:
            continue
        said: set[str] = set()
        for value in values:
            plain = base.to_dict()
            try:
                for other, wanted in _before(space, where, name):
                    put_field(plain, other, wanted)
                for field, wanted in when.items():
                    put_field(plain, field, wanted[0] if isinstance(wanted, list | tuple) else wanted)
                put_field(plain, name, value)
                Recipe.model_validate(plain)
            except InputError as error:
                yield f"{where}.{name}: {error}"
            except ValidationError as error:
                lines = fault_lines(error, Recipe, (), stage_names=stage_names_of(plain))
                # Other faults of this recipe come from another setting or from the combination.
                own = [line for line in lines if _about(line.partition(": ")[0], name)]
                for message in (line.partition(": ")[2] for line in own):
                    if message not in said:
                        said.add(message)
                        given = "" if message.startswith("unknown key") else f"{json.dumps(value)}: "
                        yield f"{where}.{name}: {given}{message}"


def _before(space: Space, where: str, name: str) -> Iterator[tuple[str, Any]]:
    """The settings that are applied before this one: the fixed ones, then the earlier ones of its case."""
    case = space.cases.get(where.removeprefix("cases."), {}) if where.startswith("cases.") else {}
    for kind, settings in (("fixed", space.fixed), (where, case)):
        for other, value in settings.items():
            if (kind, other) == (where, name):
                return
            yield other, value


def _known_stages(space: Space, base: Recipe) -> list[str]:
    """The stages that a point's recipe can have: `stages` may be fixed, and may differ between cases."""
    brought = [values for _, name, values, _ in _settings(space) if name == "stages"]
    names = [name for values in brought for stages in values for name in stage_names_of({"stages": stages})]
    own = [] if "stages" in space.fixed else [stage.name for stage in base.stages]
    return list(dict.fromkeys([*own, *names]))


def _about(place: str, name: str) -> bool:
    return place == name or place.startswith(f"{name}.") or name.startswith(f"{place}.")


def _objective_faults(space: Space, base: Recipe) -> Iterator[str]:
    stages = _known_stages(space, base)
    known = (*VALIDATION_METRICS, *COST_METRICS)
    for objective in space.objectives:
        if objective.metric not in known:
            yield (
                f"objective.metric: no stage reports {objective.metric!r}; {did_you_mean(objective.metric, known)}"
                f"known: {', '.join(known)}"
            )
        if objective.stage is not None and objective.stage not in stages:
            yield (
                f"objective.stage: no stage {objective.stage!r}; {did_you_mean(objective.stage, stages)}"
                f"known: {', '.join(stages)}"
            )
    first = space.objectives[0]
    if first.metric in COST_METRICS:
        yield f"objective.metric: {first.metric} alone does not measure learning; put a validation metric first"

"""Which recipe does a point describe, and which of its stages reports the objective?"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from w3ray.errors import InputError
from w3ray.recipe import Recipe, ResolvedStage
from w3ray.recipe.faults import fault_lines
from w3ray.sweep.space.fields import put_field, stage_names_of
from w3ray.sweep.space.space import CASE, Space


def recipe_at(space: Space, base: Recipe, point: Mapping[str, Any], *, seed_offset: int = 0) -> Recipe:
    """The recipe of a point.

    Args:
        seed_offset: added to the recipe's seed, for repeats.

    Raises:
        InputError: the combination is not a valid recipe; one line for each fault.
    """
    values = deepcopy(base.to_dict())
    for name, value in space.fixed.items():
        put_field(values, name, value)
    for name, value in space.cases.get(point.get(CASE, ""), {}).items():
        put_field(values, name, value)
    for name, value in point.items():
        if name != CASE:
            put_field(values, name, value)
    values["seed"] += seed_offset
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(*fault_lines(error, Recipe, (), stage_names=stage_names_of(values))) from None


def objective_stage(space: Space, recipe: Recipe) -> ResolvedStage:
    """The stage of a point's recipe that reports the first objective.

    Raises:
        InputError: the recipe has no such stage.
    """
    stages, name = recipe.resolved_stages(), space.objectives[0].stage
    if name is None:
        return stages[-1]
    for stage in stages:
        if stage.name == name:
            return stage
    raise InputError(f"objective.stage: no stage {name!r}; known: {', '.join(stage.name for stage in stages)}")


def usual_recipe(space: Space, base: Recipe) -> Recipe:
    """The recipe with the fixed settings alone, else in the first case whose stages report the first objective.

    Raises:
        InputError: no such recipe has a stage that reports it.
    """
    faults = []
    for point in ({}, *({CASE: case} for case in space.cases)):
        try:
            recipe = recipe_at(space, base, point)
            objective_stage(space, recipe)
        except InputError as error:
            faults.append(error)
        else:
            return recipe
    raise faults[0]


def usual_stage(space: Space, base: Recipe) -> ResolvedStage:
    """The stage of the usual recipe that reports the first objective.

    Raises:
        InputError: as `usual_recipe`.
    """
    return objective_stage(space, usual_recipe(space, base))

"""What does a sweep search? The types for the YAML files in `tune_spaces/`.

    parameters:
      model.attention.reduction: {choice: [4, 8, 16, 32]}
      model.attention.temporal_kernel: {choice: [3, 5], when: {model.attention.temporal: true}}
      stages.student.loss_weights.mfr: {loguniform: [0.01, 1.0]}

A parameter is any field of a recipe, by its dotted name; a stage is given by its name. A point has a value for each
parameter whose conditions hold; `recipe_at` makes a recipe from it. `load_space` reads a space, `check_space` checks it
against a recipe.
"""

from w3ray.sweep.space.check import check_space
from w3ray.sweep.space.load import TUNE_SPACES, known_spaces, load_space
from w3ray.sweep.space.parameter import Parameter
from w3ray.sweep.space.recipes import objective_stage, recipe_at, usual_recipe, usual_stage
from w3ray.sweep.space.settings import COST_METRICS, VALIDATION_METRICS, Budget, Objective, Scheduling, Search
from w3ray.sweep.space.space import CASE, Point, Space, point_key

__all__ = [
    "CASE",
    "COST_METRICS",
    "TUNE_SPACES",
    "VALIDATION_METRICS",
    "Budget",
    "Objective",
    "Parameter",
    "Point",
    "Scheduling",
    "Search",
    "Space",
    "check_space",
    "known_spaces",
    "load_space",
    "objective_stage",
    "point_key",
    "recipe_at",
    "usual_recipe",
    "usual_stage",
]

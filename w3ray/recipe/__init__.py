"""What is a recipe? The types for the YAML files in `pipelines/`.

A recipe defines data, model, training and a chain of stages. Each stage may override parts of `train` and `model`.
There is no other inheritance: one file tells everything that a run does (`w3ray run RECIPE --dry-run` prints every
value). Sections are frozen, refuse unknown keys and do not guess types. `load_recipe` reads a recipe from YAML.

Names of models, decoders, losses and attentions are looked up in their tables only when a recipe uses them, so
importing this module does not import torch.
"""

from w3ray.recipe._marks import AsBefore, Decides, Section, as_before, fields_that_decide, without_as_before
from w3ray.recipe._recipe import PARTS, Recipe, stored_recipe
from w3ray.recipe.load import load_recipe
from w3ray.recipe.sections import (
    NAME_PATTERN,
    PLAIN_STAGE,
    STAGE_OVERRIDES,
    Data,
    Evaluation,
    LrSchedule,
    Model,
    Phase,
    ResolvedBank,
    ResolvedStage,
    Resources,
    Stage,
    Synthetic,
    Tracking,
    Train,
    merge,
)

__all__ = [
    "NAME_PATTERN",
    "PARTS",
    "PLAIN_STAGE",
    "STAGE_OVERRIDES",
    "AsBefore",
    "Data",
    "Decides",
    "Evaluation",
    "LrSchedule",
    "Model",
    "Phase",
    "Recipe",
    "ResolvedBank",
    "ResolvedStage",
    "Resources",
    "Section",
    "Stage",
    "Synthetic",
    "Tracking",
    "Train",
    "as_before",
    "fields_that_decide",
    "load_recipe",
    "merge",
    "stored_recipe",
    "without_as_before",
]

"""What is a recipe? The types that a page of YAML in `pipelines/` becomes.

A recipe names data, model, training and a chain of stages; each stage may override parts of `train` and `model`, and
nothing else is inherited: what a run does is on its recipe's page (`w3ray run RECIPE --dry-run` prints every value).
Sections are frozen, refuse unknown keys and do not guess types. `load_recipe` reads one from YAML.

Names of models, decoders, losses and attentions are looked up in their tables when a recipe names them, so that
importing this module needs no torch.
"""

from w3ray.recipe._marks import AsBefore, Decides, Section, as_before, fields_that_decide, without_as_before
from w3ray.recipe._recipe import Recipe, stored_recipe
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

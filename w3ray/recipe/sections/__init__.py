"""The sections of a recipe. They are frozen, refuse unknown keys and do not guess types.

Names of models, decoders, losses and attentions are looked up in their tables only when a recipe uses them, so
importing this module does not import torch.
"""

from w3ray.recipe.sections._known import NAME_PATTERN
from w3ray.recipe.sections._merge import merge
from w3ray.recipe.sections.data import Data, Synthetic
from w3ray.recipe.sections.model import Model, merge_model, options_of_before
from w3ray.recipe.sections.run import Evaluation, Resources, Tracking
from w3ray.recipe.sections.stages import (
    EVERY_S,
    PLAIN_STAGE,
    SPAN_S,
    STAGE_OVERRIDES,
    ResolvedBank,
    ResolvedStage,
    Stage,
)
from w3ray.recipe.sections.train import LrSchedule, Phase, Train

__all__ = [
    "EVERY_S",
    "NAME_PATTERN",
    "PLAIN_STAGE",
    "SPAN_S",
    "STAGE_OVERRIDES",
    "Data",
    "Evaluation",
    "LrSchedule",
    "Model",
    "Phase",
    "ResolvedBank",
    "ResolvedStage",
    "Resources",
    "Stage",
    "Synthetic",
    "Tracking",
    "Train",
    "merge",
    "merge_model",
    "options_of_before",
]

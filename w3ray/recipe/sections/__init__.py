"""The sections of a recipe. They are frozen, refuse unknown keys and do not guess types.

Names of models, decoders, losses and attentions are looked up in their tables only when a recipe uses them, so
importing this module does not import torch.
"""

from w3ray.recipe.sections._known import NAME_PATTERN
from w3ray.recipe.sections._merge import merge
from w3ray.recipe.sections.data import Data, Synthetic
from w3ray.recipe.sections.model import Model, merge_model, options_of_before
from w3ray.recipe.sections.run import Evaluation, Resources, Tracking
from w3ray.recipe.sections.stages import PLAIN_STAGE, STAGE_OVERRIDES, ResolvedStage, Stage
from w3ray.recipe.sections.train import LrSchedule, Phase, Train

__all__ = [
    "NAME_PATTERN",
    "PLAIN_STAGE",
    "STAGE_OVERRIDES",
    "Data",
    "Evaluation",
    "LrSchedule",
    "Model",
    "Phase",
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

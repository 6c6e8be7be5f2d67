"""The sections of a recipe. Frozen, refuse unknown keys and do not guess types.

Names of models, decoders, losses and attentions are looked up in their tables when a recipe names them, so that
importing this module needs no torch.
"""

from w3ray.recipe.sections._known import NAME_PATTERN
from w3ray.recipe.sections._merge import merge
from w3ray.recipe.sections.data import Data, Synthetic
from w3ray.recipe.sections.model import SHIFT_OPTIONS, Model, merge_model, options_of_before
from w3ray.recipe.sections.run import Evaluation, Resources, Tracking
from w3ray.recipe.sections.stages import PLAIN_STAGE, STAGE_OVERRIDES, ResolvedStage, Stage
from w3ray.recipe.sections.train import LrSchedule, Phase, Train

__all__ = [
    "NAME_PATTERN",
    "PLAIN_STAGE",
    "SHIFT_OPTIONS",
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

"""Which stages make the chain, as a recipe writes them and with nothing left to look up?"""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from w3ray.recipe._marks import Section
from w3ray.recipe.sections._known import NAME_PATTERN, check_loss
from w3ray.recipe.sections.model import Model
from w3ray.recipe.sections.train import Train

STAGE_OVERRIDES = ("train", "model")
"""The sections of which a stage may override parts."""


class Stage(Section):
    """One training of the chain; with a teacher it learns from that stage's best checkpoint."""

    name: str = Field(pattern=NAME_PATTERN, description="name, unique in the recipe")
    teacher: str | None = Field(default=None, description="name of an earlier stage")
    loss_weights: dict[Annotated[str, AfterValidator(check_loss)], Annotated[float, Field(ge=0)]] = Field(
        default={},
        description="weights of the losses; cross_entropy is 1 unless given; cross_entropy.verb: of head 'verb' alone",
    )
    train: dict[str, Any] = Field(default={}, description="parts of the recipe's `train` that differ in this stage")
    model: dict[str, Any] = Field(default={}, description="parts of the recipe's `model` that differ in this stage")
    seed_offset: int | None = Field(
        default=None,
        ge=0,
        description="what is added to the recipe's seed; null: the stage's place, so that a student is not its "
        "teacher's run once more. Stages to be compared take the same",
    )


PLAIN_STAGE = "plain"
"""The stage that `Recipe.with_plain` adds."""


class ResolvedStage(Section):
    """A stage with nothing left to look up."""

    index: int
    name: str
    seed: int
    teacher: str | None
    loss_weights: dict[str, float]
    train: Train
    model: Model

"""Which stages make up the chain? The types of a stage as a recipe writes it, and of a resolved stage."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from w3ray.plugins import Part
from w3ray.recipe._marks import Section
from w3ray.recipe.sections._known import NAME_PATTERN, check_loss
from w3ray.recipe.sections.model import Model
from w3ray.recipe.sections.train import Train

STAGE_OVERRIDES = ("train", "model")
"""The sections that a stage may override in parts."""


class Stage(Section):
    """One training of the chain. If it has a teacher, it learns from the best checkpoint of the teacher's stage."""

    name: str = Field(pattern=NAME_PATTERN, description="name, unique in the recipe")
    teacher: str | None = Field(default=None, description="name of an earlier stage")
    loss_weights: dict[Annotated[str, AfterValidator(check_loss)], Annotated[float, Field(ge=0)]] = Field(
        default={},
        description="weights of the losses; cross_entropy is 1 by default; cross_entropy.verb: only for head 'verb'",
    )
    train: dict[str, Any] = Field(default={}, description="parts of the recipe's `train` that differ in this stage")
    model: dict[str, Any] = Field(default={}, description="parts of the recipe's `model` that differ in this stage")
    seed_offset: int | None = Field(
        default=None,
        ge=0,
        description="number added to the recipe's seed; null: the stage's position, so that a student does not repeat "
        "its teacher's run. To compare stages, give them the same",
    )


PLAIN_STAGE = "plain"
"""The stage that `Recipe.with_plain` adds."""


class ResolvedStage(Section):
    """A stage with its complete `train` and `model`: nothing is left to look up."""

    index: int
    name: str
    seed: int
    teacher: str | None
    loss_weights: dict[str, float]
    train: Train
    model: Model

    def parts(self) -> Iterator[Part]:
        """The parts that decide the stage's result, except those of its data."""
        yield from self.model.parts()
        for name in self.loss_weights:
            yield "losses", name.partition(".")[0]

"""Which stages make up the chain? The types of a stage as a recipe writes it, and of a resolved stage."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from w3ray.plugins import Part
from w3ray.recipe._marks import AsBefore, Section, without_as_before
from w3ray.recipe.sections._known import NAME_PATTERN, check_loss
from w3ray.recipe.sections.model import Model
from w3ray.recipe.sections.train import Train

STAGE_OVERRIDES = ("train", "model")
"""The sections that a stage may override in parts."""


EVERY_S, SPAN_S = 1.0, 2.0
"""Defaults of a bank: arXiv:1812.05038 has a clip of about two seconds in each second of a video."""


class Stage(Section):
    """One training of the chain, or a bank of features.

    A training with a teacher learns from the best checkpoint of the teacher's stage. A bank holds what the network of
    an earlier training sees in the whole videos of the run.
    """

    name: str = Field(pattern=NAME_PATTERN, description="name, unique in the recipe")
    kind: Annotated[Literal["train", "bank"], AsBefore("train")] = Field(
        default="train", description="train: a training; bank: features of whole videos, for networks that read a bank"
    )
    bank: Annotated[str | None, AsBefore(None)] = Field(
        default=None, description="name of an earlier stage of kind bank, for a network that reads a bank"
    )
    of: Annotated[str | None, AsBefore(None)] = Field(
        default=None, description="kind bank: name of the earlier training whose network makes the features"
    )
    every_s: Annotated[float | None, AsBefore(None)] = Field(
        default=None, gt=0, description=f"kind bank: seconds from one feature to the next; null: {EVERY_S:g}"
    )
    span_s: Annotated[float | None, AsBefore(None)] = Field(
        default=None, gt=0, description=f"kind bank: seconds of video that a feature is made of; null: {SPAN_S:g}"
    )
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

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what says nothing, so that the chains of older versions are written as they were."""
        return without_as_before(type(self), write(self))


PLAIN_STAGE = "plain"
"""The stage that `Recipe.with_plain` adds."""


class ResolvedStage(Section):
    """A stage with its complete `train` and `model`: nothing is left to look up."""

    index: int
    name: str
    seed: int
    teacher: str | None
    bank: str | None
    """The stage of its bank, if its network reads one."""
    loss_weights: dict[str, float]
    train: Train
    model: Model

    def parts(self) -> Iterator[Part]:
        """The parts that decide the stage's result, except those of its data."""
        yield from self.model.parts()
        for name in self.loss_weights:
            yield "losses", name.partition(".")[0]

    def watchers(self) -> Iterator[Part]:
        """The parts that watch the stage and decide nothing: its callbacks."""
        for name in self.train.callbacks:
            yield "callbacks", name

    def bank_shape(self) -> tuple[int, int] | None:
        """Features of a clip and their channels, if the network reads a bank."""
        shape: tuple[int, int] | None = None if self.model.options is None else self.model.options.bank_shape
        return shape


class ResolvedBank(Section):
    """A stage of kind bank: nothing is left to look up."""

    index: int
    name: str
    of: str
    every_s: float
    span_s: float

"""A whole recipe: its sections, its resolved stages, and the parts that decide results."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, model_validator

from w3ray._registry import PluginError
from w3ray._text import one_line
from w3ray.errors import InputError
from w3ray.plugins import Part, absolute, load_plugins, sources_of
from w3ray.recipe._marks import Decides, Section, fields_that_decide, without_as_before
from w3ray.recipe.faults import recipe_faults
from w3ray.recipe.sections import (
    EVERY_S,
    NAME_PATTERN,
    PLAIN_STAGE,
    SPAN_S,
    Data,
    Evaluation,
    Model,
    ResolvedBank,
    ResolvedStage,
    Resources,
    Stage,
    Tracking,
    Train,
    merge,
    merge_model,
)

PARTS = "parts"
"""Key of `Recipe.deciding` for the sources of the parts that are not built in."""


class Recipe(Section):
    """A whole run."""

    name: str = Field(pattern=NAME_PATTERN, description="name of the recipe, its runs and its registered model")
    seed: int = Field(default=0, ge=0, description="seed of weights, order, augmentation and dropout")
    storage: Annotated[str, Decides.NOTHING] = Field(
        default="runs", min_length=1, description="folder for stages, checkpoints, tracking, synthetic data"
    )
    plugins: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Decides.NOTHING] = Field(
        default=(),
        description="modules and files (./my_part.py, from the recipe's folder) that register parts of your own",
    )
    data: Data
    model: Model = Model()
    train: Train = Train()
    stages: tuple[Stage, ...] = Field(min_length=1, description="the chain, in order")
    evaluation: Evaluation = Evaluation()
    tracking: Annotated[Tracking, Decides.NOTHING] = Tracking()
    resources: Annotated[Resources, Decides.NOTHING] = Resources()

    @model_validator(mode="before")
    @classmethod
    def _load_plugins(cls, values: Any, info: ValidationInfo) -> Any:
        """Load the plugins first: other fields may name what they register."""
        names = values.get("plugins") if isinstance(values, Mapping) else None
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
            return values
        found = [absolute(name, Path.cwd()) for name in names]
        try:
            load_plugins(found, fresh=info.context is not None and info.context["fresh_plugins"])
        except PluginError as error:
            raise PluginError(f"plugins: {error}") from error
        return {**values, "plugins": tuple(found)}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if faults := recipe_faults(self):
            raise ValueError("\n".join(map(one_line, faults)))
        return self

    def chain(self) -> tuple[ResolvedStage | ResolvedBank, ...]:
        """All stages in order, with nothing left to look up."""
        train, model = self.train.model_dump(), self.model.model_dump()
        return tuple(
            self._resolved(index, stage, train, model) if stage.kind == "train" else _resolved_bank(index, stage)
            for index, stage in enumerate(self.stages)
        )

    def _resolved(self, index: int, stage: Stage, train: dict[str, Any], model: dict[str, Any]) -> ResolvedStage:
        return ResolvedStage(
            index=index,
            name=stage.name,
            seed=self.seed + (index if stage.seed_offset is None else stage.seed_offset),
            teacher=stage.teacher,
            bank=stage.bank,
            loss_weights={"cross_entropy": 1.0, **stage.loss_weights},
            train=Train.model_validate(merge(train, stage.train)),
            model=Model.model_validate(merge_model(model, stage.model)),
        )

    def resolved_stages(self) -> tuple[ResolvedStage, ...]:
        """Each training with its whole `train` and `model`."""
        return tuple(stage for stage in self.chain() if isinstance(stage, ResolvedStage))

    def parts(self) -> set[Part]:
        """The parts that decide the recipe's results."""
        return {*self.data.parts(), *(part for stage in self.resolved_stages() for part in stage.parts())}

    def with_plain(self) -> "Recipe":
        """The recipe with an extra first stage, `plain`: a copy of the first stage without attention, all else equal.

        The other stages keep their seeds, and so their identities.

        Raises:
            InputError: the first stage has no attention, a stage is already named `plain`, or masks shall be drawn
                during training.
        """
        resolved = self.resolved_stages()
        if resolved[0].model.attention is None:
            raise InputError(f"compare: stage {resolved[0].name} has no attention, so there is nothing to compare")
        if any(stage.name == PLAIN_STAGE for stage in self.stages):
            raise InputError(f"compare: the recipe already has a stage {PLAIN_STAGE!r}; rename it")
        if self.tracking.explain_clips:
            raise InputError("compare: tracking.explain_clips draws masks, but the plain stage has none; remove it")
        kept = [
            stage if isinstance(its, ResolvedBank) else stage.model_copy(update={"seed_offset": its.seed - self.seed})
            for stage, its in zip(self.stages, self.chain(), strict=True)
        ]
        plain = kept[0].model_copy(update={"name": PLAIN_STAGE, "model": {**kept[0].model, "attention": None}})
        return Recipe.model_validate(self.to_dict() | {"stages": [stage.model_dump() for stage in (plain, *kept)]})

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON values. `Recipe.model_validate` reads them back."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """Hex SHA-256 of `deciding()`: of everything that decides results."""
        return hashlib.sha256(json.dumps(self.deciding(), sort_keys=True).encode()).hexdigest()

    def deciding(self) -> dict[str, Any]:
        """`to_dict` without the fields that decide no result, with the sources of the parts of plugins."""
        values = self.to_dict()
        values["data"] = without_as_before(Data, {name: values["data"][name] for name in fields_that_decide(Data)})
        sources = sources_of(self.parts())
        return {name: values[name] for name in fields_that_decide(Recipe)} | ({PARTS: sources} if sources else {})


def _resolved_bank(index: int, stage: Stage) -> ResolvedBank:
    return ResolvedBank(
        index=index,
        name=stage.name,
        of=stage.of or "",  # the recipe's check refuses it
        every_s=EVERY_S if stage.every_s is None else stage.every_s,
        span_s=SPAN_S if stage.span_s is None else stage.span_s,
    )


def stored_recipe(values: Mapping[str, Any]) -> Recipe:
    """Read what `Recipe.to_dict` of any version wrote, or a part of it. Absent fields get that version's defaults.

    Raises:
        ValueError: the values are damaged, or from a newer version.
    """
    from w3ray.attention import attention_from_before
    from w3ray.models.options import model_from_before

    values = {name: value for name, value in values.items() if name != PARTS}
    model = model_from_before(values["model"])
    if model["backbone"] is None:  # this network has none, but the field of a recipe cannot be null
        del model["backbone"]
    if model["attention"] is not None:
        model["attention"] = attention_from_before(model["attention"])
    return Recipe.model_validate({**values, "model": model})

"""What is a finding, and what is the input of a rule?"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from w3ray.attention import W3Config
from w3ray.data.manifest import Manifest
from w3ray.data.split_names import split_among
from w3ray.lint.published import Row
from w3ray.lint.sources import sources
from w3ray.recipe import Model, Recipe, ResolvedStage

Severity = Literal["warning", "note"]

NO_FIGURE = "no figure is published"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to know about a recipe before it runs."""

    severity: Severity
    field: str
    """Dotted name of the value. It begins with `stages.NAME` if the stages have different values."""
    value: Any
    published: Any
    """The published value. None: the finding is not about a published value."""
    source: str
    """Where `published` comes from, or why the value is wrong."""
    cost: str = NO_FIGURE
    """The known cost of the difference, in top-1 points of 100 unless it says otherwise."""
    cost_source: str | None = None
    """Where `cost` comes from. None: there is no figure."""
    rule: str = ""
    """Name of the rule in `RULES`."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A recipe and the published one, and what is known about the recipe's data without reading a video."""

    recipe: Recipe
    row: Row
    published: Recipe
    """The recipe of `row`."""
    manifest: Manifest | None
    """The manifest of the recipe's data, with its folds applied. None: it cannot be read."""

    def source(self, field: str) -> str:
        """Where the published value of a field is from. Raises: KeyError where its recipe does not say so."""
        if field == "model.backbone" and not self.row.backbone:
            return "the published network has no backbone, so it has no effect"
        return sources(self.row.recipe)[field]

    @cached_property
    def pairs(self) -> list[tuple[ResolvedStage, ResolvedStage]]:
        """Each training with its published counterpart: the last one for a student or a reader of a bank, else the
        first one. Kept, because most rules ask for them."""
        published = self.published.resolved_stages()
        return [
            (stage, published[0 if stage.teacher is None and stage.bank is None else -1])
            for stage in self.recipe.resolved_stages()
        ]

    @property
    def reported_split(self) -> str:
        """Name of the split of the run's reported result."""
        data = self.recipe.data
        return (data.test_split or "") if self.recipe.evaluation.split == "test" else data.val_split

    def choosing_stages(self) -> list[ResolvedStage]:
        """The stages that choose their checkpoint by a metric on `data.val_split`."""
        return [stage for stage in self.recipe.resolved_stages() if stage.train.best_metric != "last"]

    def split(self, name: str) -> str:
        """The split of the manifest that a name in the recipe means. If there is none, the name itself."""
        assert self.manifest is not None
        return split_among(name, self.manifest.splits(), self.manifest.location) or name

    def labels(self, split: str) -> npt.NDArray[np.int32] | None:
        """Labels of a split's labelled clips. None: the manifest is unknown or has no labelled clip of this split."""
        if self.manifest is None:
            return None
        table = self.manifest.table
        labels = table["label"].filter(pc.equal(table["split"], self.split(split))).drop_null().to_numpy()
        return labels if labels.size else None

    def differing(
        self, path: str, read: Callable[[ResolvedStage], Any], agree: Callable[[Any, Any], bool]
    ) -> Iterator[tuple[str, Any, Any]]:
        """(field, value, published value) of each stage that differs from its published one; once if all are alike."""
        found = [(stage.name, read(stage), read(published)) for stage, published in self.pairs]
        off = [(name, value, published) for name, value, published in found if not agree(value, published)]
        if len(off) == len(found) and all(said[1:] == off[0][1:] for said in off):
            yield path, *off[0][1:]
            return
        for name, value, published in off:
            yield f"stages.{name}.{path}", value, published


Rule = Callable[[Comparison], Iterable[Finding]]


def plain(
    path: str,
    *,
    source: str | None = None,
    severity: Severity = "note",
    also: tuple[Any, ...] = (),
    cost: str | Mapping[Any, str] = NO_FIGURE,
    cost_source: str | None = None,
) -> Rule:
    """The rule that a value of `data`, `train` or `model` equals the published one.

    Args:
        source: where the published value is from, of one that its recipe leaves to the default; None: its recipe says.
        also: other values that were published.
        cost: the known cost of another value; a mapping from value to cost if figures are for single values.
        cost_source: where the figure comes from.
    """
    section, _, rest = path.partition(".")

    def agree(value: Any, published: Any) -> bool:
        return value == published or value in also

    def read(part: Any) -> Any:
        for name in rest.split("."):
            part = getattr(part, name, None)  # another model may not have the option
        return part

    def rule(comparison: Comparison) -> Iterator[Finding]:
        if section == "data":
            ours, theirs = read(comparison.recipe.data), read(comparison.published.data)
            found = [] if agree(ours, theirs) else [(path, ours, theirs)]
        else:
            found = list(comparison.differing(path, lambda stage: read(getattr(stage, section)), agree))
        for field, value, published in found:
            said = source or comparison.source(path)
            yield finding(field, value, published, said, severity=severity, cost=cost, cost_source=cost_source)

    return rule


def w3_option(
    name: str,
    *,
    source: str | None = None,
    severity: Severity = "note",
    cost: str | Mapping[Any, str] = NO_FIGURE,
    cost_source: str | None = None,
) -> Rule:
    """The rule that an option of W3 equals the published one. No finding for another attention, or for none.

    The arguments are those of `plain`.
    """

    def rule(comparison: Comparison) -> Iterator[Finding]:
        def read(stage: ResolvedStage) -> Any:
            config = w3_config(stage.model)
            return None if config is None else getattr(config, name)

        def agree(value: Any, published: Any) -> bool:
            return value is None or published is None or value == published

        path = f"model.attention.{name}"
        for field, value, published in comparison.differing(path, read, agree):
            said = source or comparison.source(path)
            yield finding(field, value, published, said, severity=severity, cost=cost, cost_source=cost_source)

    return rule


def w3_config(model: Model) -> W3Config | None:
    """The options of a model's W3 attention. None: it has another attention, or none."""
    return model.attention if isinstance(model.attention, W3Config) else None


def finding(
    field: str,
    value: Any,
    published: Any,
    source: str,
    *,
    severity: Severity,
    cost: str | Mapping[Any, str] = NO_FIGURE,
    cost_source: str | None = None,
) -> Finding:
    """A finding. If there is no figure for this value, the finding says so."""
    text = cost if isinstance(cost, str) else cost.get(value, NO_FIGURE)
    return Finding(
        severity=severity,
        field=field,
        value=value,
        published=published,
        source=source,
        cost=text,
        cost_source=None if text == NO_FIGURE else cost_source,
    )

"""What is a finding, and what does a rule see?"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
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
    """One thing to know of a recipe before it is run."""

    severity: Severity
    field: str
    """Dotted name of the value; below `stages.NAME` where the stages differ in it."""
    value: Any
    published: Any
    """What the source has; None where it is no question of what was published."""
    source: str
    """Where `published` is from, or why the value is wrong."""
    cost: str = NO_FIGURE
    """What the difference is known to have cost, in top-1 points of 100 unless said."""
    cost_source: str | None = None
    """Where `cost` is from; None: there is no figure."""
    rule: str = ""
    """Name in `RULES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A recipe beside the published one, and what is known of its data without reading a video."""

    recipe: Recipe
    row: Row
    published: Recipe
    """The recipe of `row`."""
    manifest: Manifest | None
    """Of the recipe's data, with its folds dealt; None where it cannot be read."""

    def source(self, field: str) -> str:
        """Where the published value of a field is from. Raises: KeyError where its recipe does not say so."""
        return sources(self.row.recipe)[field]

    @property
    def pairs(self) -> list[tuple[ResolvedStage, ResolvedStage]]:
        """Each stage with its published counterpart: a student with the student, any other with the first stage."""
        published = self.published.resolved_stages()
        return [(stage, published[0 if stage.teacher is None else -1]) for stage in self.recipe.resolved_stages()]

    @property
    def reported_split(self) -> str:
        """Name of the split whose result the run reports."""
        data = self.recipe.data
        return (data.test_split or "") if self.recipe.evaluation.split == "test" else data.val_split

    def choosing_stages(self) -> list[ResolvedStage]:
        """Stages whose checkpoint is chosen by a metric on `data.val_split`."""
        return [stage for stage in self.recipe.resolved_stages() if stage.train.best_metric != "last"]

    def split(self, name: str) -> str:
        """The split of the manifest that a name of the recipe means; the name where there is none."""
        assert self.manifest is not None
        return split_among(name, self.manifest.splits(), self.manifest.location) or name

    def labels(self, split: str) -> npt.NDArray[np.int32] | None:
        """Labels of a split's clips that have one; None where the manifest is not known or has no such split."""
        if self.manifest is None:
            return None
        table = self.manifest.table
        labels = table["label"].filter(pc.equal(table["split"], self.split(split))).drop_null().to_numpy()
        return labels if labels.size else None

    def differing(
        self, path: str, read: Callable[[ResolvedStage], Any], agree: Callable[[Any, Any], bool]
    ) -> Iterator[tuple[str, Any, Any]]:
        """(field, value, published value) where stages do not agree with the published ones; once where all say it."""
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
    """The rule that a value of `data`, `train` or `model` is the published one.

    Args:
        source: where the published value is from, of one that its recipe leaves to the default; None: its recipe says.
        also: other values that were published.
        cost: what another value is known to cost; by value where a figure is of one value only.
        cost_source: where the figure is from.
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
    """The rule that an option of W3 is the published one; silent for any other attention, and for none.

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
    """The options of a model's W3 attention; None for another one, or none."""
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
    """A finding; without a figure for this value it says so."""
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

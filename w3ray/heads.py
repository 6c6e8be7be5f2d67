"""How can the one label of a clip say several things, such as a verb and a noun?

A HEAD is one question with its own class names. A model has one classifier; its scores are first those of the first
head, then those of the second, and so on. A clip has one whole number as its label. The number counts the combinations
in row order, as `numpy.ravel_multi_index` does: with 125 verbs and 352 nouns, verb 3 with noun 10 is 3 * 352 + 10. So
tables, streams and logs hold one number for each clip, whatever it stands for. This module holds only arithmetic, for
numbers, arrays and tensors.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

UNLABELLED = -1
"""Means "not known" in arrays of labels; a manifest has an empty cell instead."""

MOST_COMBINATIONS = 1_000_000
"""Every evaluation keeps counts for each combination, so their number is limited."""


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of a data set or a model.

    Args:
        classes: names in the order of the scores, head by head.
        sizes: (name, number of classes) of each of several heads; () for one head, which has no name.

    Raises:
        ValueError: the sizes do not add up to the classes, a name is empty or occurs twice, a single head has a name,
            or there are too many combinations.
    """

    classes: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.sizes:
            return
        names = [name for name, _ in self.sizes]
        if len(names) < 2 or not all(names) or len(set(names)) < len(names):
            raise ValueError(f"heads need two or more different names, not {names}")
        if min(size for _, size in self.sizes) < 1 or sum(size for _, size in self.sizes) != len(self.classes):
            raise ValueError(f"heads {dict(self.sizes)} do not add up to {len(self.classes)} class names")
        if self.num_labels > MOST_COMBINATIONS:
            raise ValueError(f"heads {dict(self.sizes)}: {self.num_labels} combinations, at most {MOST_COMBINATIONS}")

    @property
    def several(self) -> bool:
        return bool(self.sizes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the heads; () if there is only one."""
        return tuple(name for name, _ in self.sizes)

    @property
    def num_scores(self) -> int:
        """Scores of a model: the classes of all heads."""
        return len(self.classes)

    @property
    def num_labels(self) -> int:
        """Different labels of a clip: combinations of the heads' classes."""
        return math.prod(self._counts())

    def each(self) -> Iterator["Head"]:
        """The heads in order. A single head has an empty name."""
        start, stride = 0, self.num_labels
        for name, size in self.sizes or (("", len(self.classes)),):
            stride //= size
            yield Head(name, self.classes[start : start + size], start, stride)
            start += size

    def joined(self, parts: Sequence[Any]) -> Any:
        """The label of a combination. `parts`: the label of each head, as numbers, arrays or tensors of one shape."""
        label = parts[0]
        for part, size in zip(parts[1:], self._counts()[1:], strict=True):
            label = label * size + part
        return label

    def label_names(self) -> tuple[str, ...]:
        """The meaning of each label, in order: the class names of a single head, the combinations of several heads."""
        return tuple(" ".join(names) for names in itertools.product(*(head.classes for head in self.each())))

    def class_name(self, label: int | None) -> str:
        """The meaning of a label, such as "take plate"; "?" if the label is not known."""
        if label is None or label == UNLABELLED:
            return "?"
        return " ".join(head.classes[head.label(label)] for head in self.each())

    def _counts(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.sizes) or (len(self.classes),)


@dataclass(frozen=True, slots=True)
class Head:
    """One head. Its scores are the model's scores from `start` to `start + len(classes)`."""

    name: str
    classes: tuple[str, ...]
    start: int
    stride: int

    @property
    def scores(self) -> slice:
        """Its place among the model's scores, along their last dimension."""
        return slice(self.start, self.start + len(self.classes))

    def label(self, labels: Any) -> Any:
        """The label of this head in one or many labels of clips (numbers, arrays or tensors; all must be known)."""
        return labels // self.stride % len(self.classes)

    def metric(self, name: str) -> str:
        """The name of a metric of this head, such as `verb_top1`; for a single head just `top1`."""
        return f"{self.name}_{name}" if self.name else name

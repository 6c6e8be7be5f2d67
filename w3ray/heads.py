"""What does one label of a clip say where it says several things, such as a verb and a noun?

A HEAD is one question with its own class names. A model has one classifier whose scores are the heads', one behind the
other; a clip has one whole number as its label, which counts the combinations in row order, as
`numpy.ravel_multi_index` does: of 125 verbs and 352 nouns, verb 3 with noun 10 is 3 * 352 + 10. So a label travels
through tables, streams and logs as one number, whatever it stands for. Arithmetic alone: numbers, arrays and tensors.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

UNLABELLED = -1
"""Stands for "not known" where labels are numbers in an array; a manifest leaves the place empty."""

MOST_COMBINATIONS = 1_000_000
"""Each one has counts of its own in every evaluation."""


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of a data set or a model.

    Args:
        classes: names in the order of the scores, head by head.
        sizes: (name, number of classes) of each head where there are several; (): one head, which has no name.

    Raises:
        ValueError: the sizes do not add up to the classes, a name is empty or there twice, there is only one head
            with a name, or there are too many combinations.
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
        """Of the heads; () where there is but one."""
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
        """The heads in order; one without a name where there is but one."""
        start, stride = 0, self.num_labels
        for name, size in self.sizes or (("", len(self.classes)),):
            stride //= size
            yield Head(name, self.classes[start : start + size], start, stride)
            start += size

    def joined(self, parts: Sequence[Any]) -> Any:
        """The label of a combination: each head's own label, as numbers, arrays or tensors of one shape."""
        label = parts[0]
        for part, size in zip(parts[1:], self._counts()[1:], strict=True):
            label = label * size + part
        return label

    def label_names(self) -> tuple[str, ...]:
        """What each label means, in order: the class names of one head, the combinations of several."""
        return tuple(" ".join(names) for names in itertools.product(*(head.classes for head in self.each())))

    def class_name(self, label: int | None) -> str:
        """What a label means, as "take plate"; "?" where it is not known."""
        if label is None or label == UNLABELLED:
            return "?"
        return " ".join(head.classes[head.label(label)] for head in self.each())

    def _counts(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.sizes) or (len(self.classes),)


@dataclass(frozen=True, slots=True)
class Head:
    """One head: its scores are `start` to `start + len(classes)` of the model's."""

    name: str
    classes: tuple[str, ...]
    start: int
    stride: int

    @property
    def scores(self) -> slice:
        """Its place among the model's scores, along their last dimension."""
        return slice(self.start, self.start + len(self.classes))

    def label(self, labels: Any) -> Any:
        """Its own label, of one or many whole ones (numbers, arrays or tensors, all of them known)."""
        return labels // self.stride % len(self.classes)

    def metric(self, name: str) -> str:
        """A metric of this head: `verb_top1`; of the only one just `top1`."""
        return f"{self.name}_{name}" if self.name else name

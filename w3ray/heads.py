"""How can the one label of a clip say several things, such as a verb and a noun?

A HEAD is one question with its own class names. A model has one classifier; its scores are first those of the first
head, then those of the second, and so on. A clip has one whole number as its label. The number counts the combinations
in row order, as `numpy.ravel_multi_index` does: with 125 verbs and 352 nouns, verb 3 with noun 10 is 3 * 352 + 10. So
tables, streams and logs hold one number for each clip, whatever it stands for. This module holds only arithmetic, for
numbers, arrays and tensors.

MULTI-LABEL clips have any number of classes of one head, such as a clip in which somebody runs and jumps. Their number
stands for a set of classes: it is an index into `label_sets`, the different sets that occur.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

UNLABELLED = -1
"""Means "not known" in arrays of labels; a manifest has an empty cell instead."""

MOST_COMBINATIONS = 1_000_000
"""Every evaluation keeps counts for each combination, so their number is limited."""


NO_CLASS = "(no class)"
"""Name of the empty set of classes."""

_NO_STRIDE = 0


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of a data set or a model.

    Args:
        classes: names in the order of the scores, head by head.
        sizes: (name, number of classes) of each of several heads; () for one head, which has no name.
        label_sets: of multi-label clips: the classes (numbers, ascending) of each label. Heads of a model have no sets:
            (). None: a clip has one class of each head.

    Raises:
        ValueError: the sizes do not add up to the classes, a name is empty or occurs twice, a single head has a name,
            there are too many combinations, or the sets are not different, ascending numbers of classes.
    """

    classes: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...] = ()
    label_sets: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.label_sets is not None:
            self._check_sets(self.label_sets)
        if not self.sizes:
            return
        names = [name for name, _ in self.sizes]
        if len(names) < 2 or not all(names) or len(set(names)) < len(names):
            raise ValueError(f"heads need two or more different names, not {names}")
        if min(size for _, size in self.sizes) < 1 or sum(size for _, size in self.sizes) != len(self.classes):
            raise ValueError(f"heads {dict(self.sizes)} do not add up to {len(self.classes)} class names")
        if self.num_labels > MOST_COMBINATIONS:
            raise ValueError(f"heads {dict(self.sizes)}: {self.num_labels} combinations, at most {MOST_COMBINATIONS}")

    def _check_sets(self, label_sets: tuple[tuple[int, ...], ...]) -> None:
        if self.sizes:
            raise ValueError(f"clips have sets of classes of one head, but there are the heads {dict(self.sizes)}")
        if len(label_sets) > MOST_COMBINATIONS:
            raise ValueError(f"{len(label_sets)} different sets of classes, at most {MOST_COMBINATIONS}")
        for one in label_sets:
            if list(one) != sorted(set(one)) or (one and not 0 <= one[0] <= one[-1] < len(self.classes)):
                raise ValueError(
                    f"the set of classes {list(one)} must hold ascending numbers from 0 to {len(self.classes) - 1}"
                )
        if len(set(label_sets)) < len(label_sets):
            raise ValueError("a set of classes occurs twice")

    @property
    def several(self) -> bool:
        return bool(self.sizes)

    @property
    def multi_label(self) -> bool:
        """Whether a clip has any number of classes, and scores are independent probabilities."""
        return self.label_sets is not None

    @property
    def of_scores(self) -> "Heads":
        """What a model's scores mean, whichever sets of classes its clips had: equal for models of the same classes."""
        return replace(self, label_sets=()) if self.label_sets else self

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
        """Different labels of a clip: combinations of the heads' classes, or sets of classes."""
        return len(self.label_sets) if self.label_sets is not None else math.prod(self._counts())

    def each(self) -> Iterator["Head"]:
        """The heads in order. A single head has an empty name."""
        if self.multi_label:
            yield Head("", self.classes, 0, _NO_STRIDE)
            return
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
        """The meaning of each label, in order: the class names of a single head, the combinations of several heads, or
        sets of classes."""
        if self.label_sets is not None:
            return tuple(self.class_name(label) for label in range(self.num_labels))
        return tuple(" ".join(names) for names in itertools.product(*(head.classes for head in self.each())))

    def answers(self) -> tuple[str, ...]:
        """What a model gives a score: the names of labels, or of single classes for multi-label clips."""
        return self.classes if self.multi_label else self.label_names()

    def class_name(self, label: int | None) -> str:
        """The meaning of a label, such as "take plate", or "run, jump"; "?" if the label is not known."""
        if label is None or label == UNLABELLED:
            return "?"
        if self.label_sets is not None:
            return ", ".join(self.classes[one] for one in self.label_sets[label]) or NO_CLASS
        return " ".join(head.classes[head.label(label)] for head in self.each())

    def clips_of_classes(self, clips_of_labels: Sequence[int]) -> tuple[int, ...]:
        """Of multi-label clips: how many have each class, from how many have each label.

        Raises:
            TypeError: clips have one class of each head.
        """
        if self.label_sets is None:
            raise TypeError("the clips are not multi-label")
        counts = [0] * len(self.classes)
        for classes, clips in zip(self.label_sets, clips_of_labels, strict=True):
            for one in classes:
                counts[one] += clips
        return tuple(counts)

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
        """The label of this head in one or many labels of clips (numbers, arrays or tensors; all must be known).

        Raises:
            TypeError: the clips are multi-label, so a label is a set of classes.
        """
        if self.stride == _NO_STRIDE:
            raise TypeError("multi-label clips have no single class")
        return labels // self.stride % len(self.classes)

    def metric(self, name: str) -> str:
        """The name of a metric of this head, such as `verb_top1`; for a single head just `top1`."""
        return f"{self.name}_{name}" if self.name else name

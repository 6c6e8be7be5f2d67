"""One number encodes a verb and a noun, in numpy's order, for numbers, arrays and tensors alike."""

import numpy as np
import pytest
import torch

from w3ray.heads import Heads

KITCHEN = Heads(("take", "put", "cup", "pan", "lid"), (("verb", 2), ("noun", 3)))


def test_labels_are_counted_as_numpy_does():
    shape = (4, 3, 5)
    heads = Heads(tuple(f"c{i}" for i in range(12)), (("a", 4), ("b", 3), ("c", 5)))
    labels = np.arange(heads.num_labels)
    parts = np.unravel_index(labels, shape)
    for head, part in zip(heads.each(), parts, strict=True):
        np.testing.assert_array_equal(head.label(labels), part)
        assert head.label(torch.from_numpy(labels)).tolist() == part.tolist()
    np.testing.assert_array_equal(heads.joined(parts), np.ravel_multi_index(parts, shape))


def test_values():
    verb, noun = KITCHEN.each()
    assert (verb.name, verb.classes, verb.scores) == ("verb", ("take", "put"), slice(0, 2))
    assert (noun.name, noun.classes, noun.scores) == ("noun", ("cup", "pan", "lid"), slice(2, 5))
    assert (KITCHEN.num_scores, KITCHEN.num_labels, KITCHEN.names) == (5, 6, ("verb", "noun"))
    assert KITCHEN.class_name(4) == "put pan"
    assert KITCHEN.class_name(-1) == KITCHEN.class_name(None) == "?"
    assert noun.metric("top1") == "noun_top1"


def test_one_head_is_what_it_was_without_heads():
    heads = Heads(("left", "right"))
    (only,) = heads.each()
    assert not heads.several
    assert (heads.num_labels, heads.names, only.scores, only.metric("top1")) == (2, (), slice(0, 2), "top1")
    assert [only.label(label) for label in (0, 1)] == [0, 1]
    assert heads.joined([1]) == 1
    assert heads.class_name(1) == "right"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((("verb", 5),), "two or more"),
        ((("", 2), ("noun", 3)), "different names"),
        ((("verb", 2), ("noun", 4)), "do not add up"),
        ((("verb", 0), ("noun", 5)), "do not add up"),
    ],
)
def test_errors(sizes, message):
    with pytest.raises(ValueError, match=message):
        Heads(KITCHEN.classes, sizes)


def test_more_combinations_than_fit_are_refused():
    with pytest.raises(ValueError, match="combinations"):
        Heads(tuple(map(str, range(4000))), (("a", 1000), ("b", 1000), ("c", 1000), ("d", 1000)))

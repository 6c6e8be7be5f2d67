"""Several label columns become heads, and one label per row."""

import pyarrow as pa
import pytest

from w3ray.data.importers._label_columns import joined_labels
from w3ray.errors import InputError


def columns(**texts):
    return {name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in texts.items()}


VERBS, NOUNS = ["put", "take", "put", "", "take"], ["pan", "cup", "lid", None, "pan"]


def test_names():
    found = joined_labels(columns(verb=VERBS, noun=NOUNS), "list.csv")
    assert found.heads.classes == ("put", "take", "cup", "lid", "pan")
    assert found.heads.sizes == (("verb", 2), ("noun", 3))
    assert found.label.to_pylist() == [2, 3, 1, None, 5]
    assert [found.heads.class_name(label) for label in (2, 3)] == ["put pan", "take cup"]


def test_whole_numbers_are_labels():
    found = joined_labels(columns(verb=["1", "0", "1"], noun=["2", "02", "0"]), "list.csv", classes={"noun": "abc"})
    assert found.heads.classes == ("0", "1", "a", "b", "c")


def test_given_classes():
    given = {"verb": ["take", "put", "cut"], "noun": ["lid", "pan", "cup"]}
    found = joined_labels(columns(verb=VERBS, noun=NOUNS), "list.csv", classes=given)
    assert found.heads.classes == ("take", "put", "cut", "lid", "pan", "cup")
    assert found.label.to_pylist() == [4, 2, 3, None, 1]
    numbers = columns(verb=["1", "0"], noun=["2", "1"])
    assert joined_labels(numbers, "list.csv", classes=given).label.to_pylist() == [5, 1]


@pytest.mark.parametrize(
    ("verbs", "nouns", "classes", "message"),
    [
        (["a", "b"], ["c", ""], None, "list.csv:3: 'noun' is empty, but the labels of a row are verb and noun"),
        (["a", "b"], ["c", "d"], {"verb": ["a"]}, "list.csv:3: label 'b' in 'verb' is none of its 1 classes"),
        (["", None], ["", ""], None, "list.csv: no row has a label in 'verb'"),
        (["a", "b"], ["0", "70"], None, "list.csv: label 70 in 'noun' with 2 clips: are these labels"),
    ],
)
def test_errors(verbs, nouns, classes, message):
    with pytest.raises(InputError, match=message):
        joined_labels(columns(verb=verbs, noun=nouns), "list.csv", classes=classes)


def test_one_column_is_no_head():
    with pytest.raises(InputError, match="heads need two or more"):
        joined_labels(columns(verb=["a", "b"]), "list.csv")


def test_a_number_among_given_classes_that_is_none():
    given = {"verb": ["take", "put"], "noun": ["lid", "pan"]}
    with pytest.raises(InputError, match=r"list\.csv:3: label '2' in 'verb' is none of its 2 classes"):
        joined_labels(columns(verb=["1", "2"], noun=["0", "1"]), "list.csv", classes=given)

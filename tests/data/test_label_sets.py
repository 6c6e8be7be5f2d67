"""Multi-label clips: cells such as "run|jump" of a CSV, and manifests whose labels are sets of classes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w3ray.cli._manifests import manifest_document
from w3ray.data.importers import Columns, import_csv
from w3ray.data.manifest import Manifest, build_manifest, read_manifest, write_manifest
from w3ray.data.stats import _classes
from w3ray.errors import InputError
from w3ray.heads import NO_CLASS, Heads

CELLS = ("run|jump", "run", "jump | run", "|", "left|run", "run|run|")


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., Manifest]:
    def of(labels: Any, header: str = "path,label", **options: Any) -> Manifest:
        rows = [f"{number}.mp4,{label}" for number, label in enumerate(labels)]
        (tmp_path / "list.csv").write_text("\n".join([header, *rows, ""]))
        return import_csv(tmp_path / "list.csv", missing_ok=True, **options)

    return of


def named(manifest: Manifest) -> list[str]:
    """The names of the classes of each clip."""
    return [manifest.heads.class_name(label) for label in manifest.table["label"].to_pylist()]


def test_a_cell_names_the_classes_of_a_clip(imported):
    notes: list[str] = []
    manifest = imported(CELLS, note=notes.append)
    assert manifest.classes == ("jump", "left", "run")
    assert named(manifest) == ["jump, run", "run", "jump, run", NO_CLASS, "left, run", "run"]
    assert manifest.heads.num_labels == 4
    assert "multi-label: '|' stands between" in notes[-1]
    assert "--label-separator ''" in notes[-1]


@pytest.mark.parametrize(
    ("labels", "options", "sets"),
    [
        (["pick up|put down", "walk"], {}, None),  # no part occurs elsewhere: a name with a bar
        (["take|cup", "take|pan", "put|cup"], {}, None),  # all have two parts: names of pairs
        (["take|cup", "take|pan"], {"label_separator": "|"}, ((0, 2), (1, 2))),
        (["run|jump", "run"], {"label_separator": ""}, None),
        (["run|jump", "run"], {"classes": ["run", "run|jump"]}, None),
        (["take|cup", "take|pan"], {"classes": ["cup", "pan", "take"]}, ((0, 2), (1, 2))),
        (["a+b", "b"], {"label_separator": "+"}, ((0, 1), (1,))),
        (["a", "b"], {"label_separator": "|"}, ((0,), (1,))),
        (["0|2", "1", "01"], {}, ((0, 2), (1,))),
        (["0|2", "1", "1"], {"classes": ["x", "y", "z"]}, ((0, 2), (1,))),
        (["run", "|"], {}, ((), (0,))),
    ],
)
def test_when_a_bar_separates(imported, labels, options, sets):
    assert imported(labels, **options).label_sets == sets


def test_a_bar_that_stays_is_told(imported):
    notes: list[str] = []
    imported(["pick up|put down", "walk"], note=notes.append)
    assert "'|' is a part of class names (--label-separator '|'" in notes[-1]


def test_the_flip_map_is_of_classes_and_adds_mirrored_sets(imported):
    manifest = imported(["left|run", "run", "right", "|"], flip_map={"left": "right"})
    assert manifest.classes == ("left", "right", "run")
    assert manifest.flip_map == {0: 1, 1: 0}
    flips = {
        manifest.heads.class_name(label): manifest.heads.class_name(mirror)
        for label, mirror in manifest.label_flips.items()
    }
    assert flips == {
        "left, run": "right, run", "right, run": "left, run", "left": "right", "right": "left", "run": "run",
        NO_CLASS: NO_CLASS,
    }  # fmt: skip


def test_each_class_gets_its_share_of_a_random_split(imported):
    """Every set occurs once or twice, so shares of sets would leave val empty."""
    labels = [f"{one}|n{number % 20}|m{number}" for one in ("a", "b") for number in range(20)]
    manifest = imported(labels, label_separator="|", columns=Columns(), classes=None)
    assert manifest.splits() == {"train": 40}, "each clip has a class of its own, and a class keeps one for train"
    manifest = imported(
        [f"a|{number % 4}" for number in range(40)] + ["b|c"] * 10 + ["|"] * 10, label_separator="|", classes=None
    )
    val = [name for name, split in zip(named(manifest), manifest.table["split"].to_pylist(), strict=True)
           if split == "val"]  # fmt: skip
    assert sorted(val) == sorted([NO_CLASS] * 2 + ["b, c"] * 2 + [f"{n}, a" for n in range(4)] * 2)


def test_round_trip(imported, tmp_path):
    manifest = imported(CELLS, flip_map="identity")
    written = write_manifest(manifest, tmp_path / "m.parquet")
    read = read_manifest(tmp_path / "m.parquet")
    assert read.heads == manifest.heads
    assert read.label_flips == {label: label for label in range(4)}
    assert read.fingerprint() == written.fingerprint()
    other = replace(read, label_sets=((), (0,), (0, 2), (1, 2)))
    assert other.fingerprint() != read.fingerprint(), "the sets say what the labels mean"


def test_counts_are_of_classes(imported):
    manifest = imported(CELLS)
    assert manifest_document(manifest)["counts"] == {
        "jump": {"train": 2}, "left": {"train": 1}, "run": {"train": 5}, NO_CLASS: {"train": 1},
    }  # fmt: skip
    found = _classes(manifest.heads, manifest.table)
    assert found["clips"] == {"run": 5, "jump": 2, "left": 1}
    assert (found["labels_per_clip"], found["no_class"], found["majority"]) == (8 / 6, 1, 5 / 6)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["run", "run|jmup"], {"classes": ["run", "jump"]}, r"list\.csv:3: label 'run\|jmup': 'jmup' is not one of the "
         r"2 classes; did you mean 'jump'\? known: run, jump"),
        (["run|jump", "", "run"], {}, r"list\.csv:3: 'label' is empty; a clip with none of the classes has the label "),
        (["0|9", "1"], {}, r"label 9 with 2 clips: are these labels\? name the classes"),
        (["0|3", "1"], {"classes": ["a", "b"]}, "'3' is not one of the 2 classes"),
        (["|", "|"], {}, "no label names a class"),
        (["run|jump", "run"], {"flip_map": {"run": "hop"}}, "no class 'hop'"),
    ],
)  # fmt: skip
def test_what_is_refused(imported, labels, options, message):
    with pytest.raises(InputError, match=message) as raised:
        imported(labels, **options)
    assert "\n" not in str(raised.value)


def test_a_separator_is_for_one_label_column(imported):
    with pytest.raises(InputError, match="a label separator is for one label column, not for verb and noun"):
        imported(["take,cup"], "path,verb,noun", columns=Columns(label="verb+noun"), label_separator="|")


@pytest.mark.parametrize(
    ("sets", "flip", "message"),
    [
        ([[0, 5]], {}, r"set of classes \[0, 5\] must hold ascending numbers from 0 to 2"),
        ([[1, 0]], {}, "ascending"),
        ([[0], [0]], {}, "occurs twice"),
        ([[0], [1], ["a"]], {}, "w3ray metadata|must hold|ascending|not supported"),
        ([[0], [1]], {0: 2, 2: 0}, "flip_map: the set of classes 'c' is the mirror image of another set"),
        ([[0]], {}, "1 label.s. out of range, first 1 of clip 'y'; its sets of classes have the labels 0..0"),
    ],
)
def test_manifests_with_wrong_sets_are_refused(sets, flip, message):
    columns = {"clip_id": ["x", "y"], "uri": ["/x", "/y"], "label": [0, 1], "split": ["train"] * 2}
    with pytest.raises(InputError, match=message):
        build_manifest(columns, ["a", "b", "c"], flip, label_sets=sets)


def test_heads_of_sets():
    heads = Heads(("a", "b", "c"), label_sets=((), (0, 2)))
    assert (heads.num_scores, heads.num_labels, heads.several) == (3, 2, False)
    assert heads.label_names() == (NO_CLASS, "a, c")
    assert heads.answers() == ("a", "b", "c")
    assert heads.of_scores == Heads(("a", "b", "c"), label_sets=())
    assert heads.of_scores != Heads(("a", "b", "c"))
    assert heads.clips_of_classes([3, 4]) == (4, 0, 4)
    (head,) = heads.each()
    with pytest.raises(TypeError, match="no single class"):
        head.label(np.array([0, 1]))
    with pytest.raises(ValueError, match="sets of classes of one head"):
        Heads(("a", "b", "c"), (("x", 1), ("y", 2)), ((0,),))

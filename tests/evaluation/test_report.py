import csv
import json
from pathlib import Path

import pytest
import torch

from w3ray.evaluation.head_counts import HeadCounts
from w3ray.evaluation.metrics import Counts
from w3ray.evaluation.report import confusion_figure, per_class_rows, write_report
from w3ray.heads import Heads

CLASSES = ["open, slowly", "close", "never seen"]


def small_counts(*, broken: bool = False) -> Counts:
    return of_one_head(broken=broken).parts[0]


def of_one_head(*, broken: bool = False) -> HeadCounts:
    """Class 0: one right, two predicted as class 1. Class 1: one right (or without finite scores). Class 2: no clip."""
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]])
    if broken:
        logits[3, 0] = float("nan")
    counts = HeadCounts(Heads(tuple(CLASSES)))
    counts.update(logits, torch.tensor([0, 0, 0, 1]))
    return counts


def test_rows() -> None:
    first, second, third = per_class_rows(small_counts(), CLASSES)
    assert (first["rows"], first["top1_hits"], first["top5_hits"]) == (3, 1, 3)
    assert first["top1"] == pytest.approx(1 / 3)
    assert (first["confused_with"], first["confused_count"]) == ("close", 2)
    assert (second["top1"], second["confused_with"]) == (1.0, None)
    assert (third["rows"], third["top1"], third["top5"]) == (0, None, None)


def test_files_say_the_same(tmp_path: Path) -> None:
    paths = write_report(tmp_path / "report", of_one_head())
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(path.name for path in paths)
    table, document, picture = paths
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == CLASSES
    assert [row["top1_hits"] for row in rows] == ["1", "1", "0"]
    content = json.loads(document.read_text())
    assert content["result"]["top1"] == 0.5
    assert content["confusion"] == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    content = json.loads(write_report(tmp_path, of_one_head(broken=True))[1].read_text())
    assert content["result"]["loss"] is None
    assert content["not_finite"] == 1


def test_figure_shows_shares_and_counts() -> None:
    axes = confusion_figure(small_counts(), CLASSES).axes[0]
    shares = axes.images[0].get_array()
    assert shares is not None
    assert shares.tolist() == [
        [pytest.approx(1 / 3), pytest.approx(2 / 3), 0],
        [0, 1, 0],
        [0, 0, 0],
    ]
    assert sorted(text.get_text() for text in axes.texts) == ["1", "1", "2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == CLASSES


def test_many_classes_draw_no_names() -> None:
    counts = Counts(100)
    counts.update(torch.eye(100), torch.arange(100))
    axes = confusion_figure(counts, [f"class {label}" for label in range(100)]).axes[0]
    assert not axes.texts
    assert not any("class" in label.get_text() for label in axes.get_yticklabels())


def test_class_names_must_fit() -> None:
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        per_class_rows(small_counts(), CLASSES[:2])


def test_several_heads_have_files_each_and_a_table_of_what_occurs_together(tmp_path: Path) -> None:
    counts = HeadCounts(Heads(("take", "put", "cup", "pan", "lid"), (("verb", 2), ("noun", 3))))
    counts.update(torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]), torch.tensor([1, 3, 3]))
    names = {path.name for path in write_report(tmp_path, counts)}
    of_head = ("per_class.csv", "per_class.json", "confusion.png")
    assert names == {f"{head}_{name}" for head in ("verb", "noun") for name in of_head} | set(of_head[:2])
    assert names == {path.name for path in tmp_path.iterdir()}
    both = json.loads((tmp_path / "per_class.json").read_text())
    assert [(row["class"], row["rows"], row["top1_hits"]) for row in both["classes"]] == [
        ("take pan", 1, 1),
        ("put cup", 2, 1),
    ]
    assert both["result"]["top1"] == 2 / 3
    assert both["result"]["verb_top1"] == 2 / 3
    assert json.loads((tmp_path / "noun_per_class.json").read_text())["confusion"] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_heads_of_any_name_have_files_of_their_own(tmp_path: Path) -> None:
    """Names become columns. A slash makes no folder, and its replacement gives no other head's name."""
    counts = HeadCounts(Heads(("take", "put", "cup", "pan"), (("../a/b", 2), (".._a_b", 2))))
    counts.update(torch.tensor([[1.0, 0, 0, 1]]), torch.tensor([1]))
    paths = write_report(tmp_path / "report", counts)
    assert len(set(paths)) == len(paths) == 8
    assert {path.parent for path in paths} == {tmp_path / "report"}
    assert set(paths) == set((tmp_path / "report").iterdir())

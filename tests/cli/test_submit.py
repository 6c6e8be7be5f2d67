"""`w3ray submit`: from the folder of an evaluation to the file or archive to upload."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from w3ray.cli import main
from w3ray.published_sets import EPIC_KITCHENS_55, EPIC_KITCHENS_100
from w3ray.scoring.clip_scores import RESULT_NAME, ClipScores, write_scores


def evaluation(folder: Path, split: str, names: tuple[str, ...], sizes, reasons=None) -> Path:
    """The files that an evaluation of an unlabelled split writes, as far as `submit` reads them."""
    rng = np.random.default_rng(len(names))
    parts = [rng.dirichlet(np.ones(size), len(names)) for _, size in sizes]
    scores = np.concatenate(parts, axis=1).astype(np.float32)
    scores[[name in (reasons or {}) for name in names]] = np.nan
    labels = np.full(len(names), -1)
    write_scores(folder, ClipScores(clip_ids=names, labels=labels, scores=scores, reasons=reasons or {}))
    classes = [f"{head} {label}" for head, size in sizes for label in range(size)]
    document = {"split": split, "classes": classes}
    if len(sizes) > 1:
        document["heads"] = [list(head) for head in sizes]
    (folder / RESULT_NAME).write_text(json.dumps(document))
    return folder


@pytest.fixture
def seen(tmp_path):
    return evaluation(tmp_path / "seen", "test-s1", ("1924", "1925"), EPIC_KITCHENS_55.heads)


@pytest.fixture
def something(tmp_path):
    return evaluation(tmp_path / "ssv2", "test", ("8.webm", "9.webm"), [("", 174)])


def test_an_archive_of_both_test_splits(seen, tmp_path, capfd):
    unseen = evaluation(tmp_path / "unseen", "test-s2", ("15582",), EPIC_KITCHENS_55.heads)
    words = [
        "submit",
        str(unseen),
        str(seen),
        "--format",
        "epic-kitchens-55",
        "--out",
        str(tmp_path / "out" / "mine.zip"),
    ]
    assert main([*words, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["clips"], document["members"]) == (3, ["unseen.json", "seen.json"])
    assert document["warnings"][1] == f"{seen}: 2 clips; the challenge expects all 8047 of test-s1"
    with zipfile.ZipFile(tmp_path / "out" / "mine.zip") as archive:
        found = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    assert {name: list(content["results"]) for name, content in found.items()} == {
        "unseen.json": ["15582"],
        "seen.json": ["1924", "1925"],
    }
    assert len(found["seen.json"]["results"]["1924"]["action"]) == 100
    assert main(words) == 0
    captured = capfd.readouterr()
    assert "3 clips for epic-kitchens-55 in " in captured.out
    assert f"warning: {unseen}: 1 clips; the challenge expects all 2929 of test-s2" in captured.err


def test_epic_100(tmp_path):
    folder = evaluation(tmp_path / "e", "test", ("P01_101_0",), EPIC_KITCHENS_100.heads)
    words = ["submit", str(folder), "--format", "epic-kitchens-100", "--out"]
    assert main([*words, str(tmp_path / "a.zip"), "--sls-td", "3"]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        document = json.loads(archive.read("test.json"))
    assert (document["version"], document["sls_pt"], document["sls_td"]) == ("0.2", 2, 3)
    assert main([*words, str(tmp_path / "a.json")]) == 0
    assert list(json.loads((tmp_path / "a.json").read_text())["results"]) == ["P01_101_0"]


def test_something(something, tmp_path):
    assert main(["submit", str(something), "--format", "something-something-v2", "-o", str(tmp_path / "a.csv")]) == 0
    lines = [line.split(";") for line in (tmp_path / "a.csv").read_text().splitlines()]
    assert [line[0] for line in lines] == ["8", "9"]
    assert [len(line) for line in lines] == [6, 6]
    assert main(["submit", str(something), "--format", "jester", "-o", str(tmp_path / "b.csv")]) == 0
    best = (tmp_path / "b.csv").read_text().splitlines()[0]
    assert best == f"8; {lines[0][1]}"


def test_errors(seen, something, tmp_path, capfd):
    bad = evaluation(tmp_path / "bad", "test-s1", ("1", "2"), EPIC_KITCHENS_55.heads, {"2": "cut off"})
    labelled = evaluation(tmp_path / "val", "val", ("1",), EPIC_KITCHENS_55.heads)
    for words, message in (
        (
            [bad, "--format", "epic-kitchens-55"],
            "1 of 2 clips have no scores, but the challenge expects scores of all clips: 2: cut off",
        ),
        (
            [seen, "--format", "epic-kitchens-100"],
            "EPIC-KITCHENS-100 has the heads {'verb': 97, 'noun': 300}, not {'verb': 125",
        ),
        (
            [something, "--format", "epic-kitchens-55"],
            "has the heads {'verb': 125, 'noun': 352}, not one head of 174 classes",
        ),
        ([seen, "--format", "jester"], "jester has one head, not {'verb': 125, 'noun': 352}"),
        (
            [seen, "--format", "epic"],
            "--format epic: unknown; known: epic-kitchens-55, epic-kitchens-100, something-something",
        ),
        ([seen, seen, "--format", "epic-kitchens-55"], "several evaluations need an archive"),
        ([tmp_path / "none", "--format", "epic-kitchens-55"], "none: no finished evaluation"),
        (
            [seen, "--format", "epic-kitchens-55", "--sls-pt", 1],
            "--sls-pt, --sls-tl and --sls-td have no effect with --format",
        ),
        (
            [seen, "--format", "epic-kitchens-100", "--sls-pt", 9],
            "level of supervision: pretraining must be 0 to 5, not 9",
        ),
    ):
        assert main(["submit", *map(str, words), "--out", str(tmp_path / "out.json")]) == 2
        assert message in capfd.readouterr().err
    for words, message in (
        ([seen, seen, "--format", "epic-kitchens-55"], "a second evaluation for seen.json"),
        (
            [labelled, "--format", "epic-kitchens-55"],
            "is of the split 'val'; the challenge expects test-s1 and test-s2",
        ),
        ([something, "--format", "something-something-v2"], "expects a CSV file, not an archive"),
    ):
        assert main(["submit", *map(str, words), "--out", str(tmp_path / "out.zip")]) == 2
        assert message in capfd.readouterr().err
    assert not list(tmp_path.glob("out.*"))
    (tmp_path / "folder").mkdir()
    assert main(["submit", str(seen), "--format", "epic-kitchens-55", "--out", str(tmp_path / "folder")]) == 2
    assert "cannot be written" in capfd.readouterr().err
    assert not list(tmp_path.glob("*.part"))

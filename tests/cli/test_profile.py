"""`w3ray profile` prints the figures of the paper's models."""

import json

import pytest

from w3ray.cli import main


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tsm resnet50, 8 frames of 224 x 224, 1000 classes, per clip"
    rows = {line.split("  ")[0]: line.split() for line in lines[2:5]}
    assert "32.71" in rows["plain"]
    assert "32.77" in rows["+ w3"]
    assert any(line.strip().startswith("refinement") for line in lines)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = "profile --model tsm --backbone resnet50 --frames 16 --size 224 --attention w3 --dense --json"
    assert main(words.split()) == 0
    document = json.loads(capsys.readouterr().out)
    gmac = {row["name"]: round(row["macs"] / 1e9, 2) for row in document["rows"]}
    assert gmac["plain"] == 65.43
    assert gmac["+ w3 (dense)"] == 67.47
    assert document["rows"][1]["overhead_macs"] == pytest.approx(0.0313, abs=1e-4)
    for row in document["rows"]:
        assert sum(part["macs"] for part in row["parts"]) == row["macs"]


def test_without_attention_and_3d(capsys: pytest.CaptureFixture[str]) -> None:
    words = "profile --model r3d_18 --attention none --size 112 --frames 16 --num-classes 400 --json"
    assert main(words.split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["backbone"] is None
    # torchvision documents 40.70 GFLOPS (multiply-adds) for R3D_18 at 16 x 112 x 112.
    assert [round(row["macs"] / 1e9, 2) for row in document["rows"]] == [40.70]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--model tsx", "unknown model 'tsx'"),
        ("--backbone vgg", "unknown backbone 'vgg'"),
        ("--attention w4", "unknown kind 'w4'"),
        ("--attention none --dense", "--dense is an option of w3"),
        ("--frames 0", "--frames"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], words: str, text: str) -> None:
    assert main(["profile", *words.split()]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""

"""`w3ray data stats` as a command: its document, its text, bad input."""

import json

import pytest
from videos import write_video

from w3ray.cli import main


@pytest.fixture
def manifest(tmp_path):
    for label, count in (("left", 4), ("rechts und ünten", 1)):
        for number in range(count):
            write_video(tmp_path / "clips" / label / f"s{number}.mp4", 12)
    path = tmp_path / "m.parquet"
    words = ["--val-share", "0.5", "--out", str(path)]
    assert main(["data", "import", "folder", str(tmp_path / "clips"), *words]) == 0
    (tmp_path / "clips" / "left" / "s0.mp4").write_bytes(b"")
    return path


def test_json(manifest, capfd):
    capfd.readouterr()
    assert main(["data", "stats", str(manifest), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["clips"], document["videos"], document["sampled"]) == (5, 5, False)
    splits = document["splits"].values()
    assert sum(split["clips"] for split in splits) == 5
    assert sum(split["unreadable"] for split in splits) == 1


def test_text(manifest, capfd):
    capfd.readouterr()
    assert main(["data", "stats", str(manifest)]) == 0
    printed = capfd.readouterr().out
    assert "rechts und ünten: 1" in printed
    assert "the file is empty (0 bytes)" in printed
    assert main(["data", "stats", str(manifest), "--videos", "2"]) == 0
    assert "2 of 5 videos, drawn at random" in " ".join(capfd.readouterr().out.split())


def test_bad_input(tmp_path, capfd):
    assert main(["data", "stats", str(tmp_path / "none.parquet"), "--json"]) == 2
    assert "no such file" in json.loads(capfd.readouterr().out)["error"]["message"]

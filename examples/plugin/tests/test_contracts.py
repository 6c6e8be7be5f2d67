"""The parts keep the contracts of their families. Install the package first: entry points name its parts."""

from pathlib import Path

from w3ray.testing import check_attention, check_importer, check_loss


def test_attention() -> None:
    check_attention("squeeze")
    check_attention("squeeze", reduction=4, stages=[2])


def test_loss() -> None:
    check_loss("focal")


def test_importer(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "train.txt").write_text("a.mp4 wave\nb.mp4 clap\n")
    (tmp_path / "val.txt").write_text("c.mp4 wave\n")
    manifest = check_importer("split-lists", tmp_path, tmp_path)
    assert manifest.classes == ("clap", "wave")
    assert manifest.splits() == {"train": 2, "val": 1}

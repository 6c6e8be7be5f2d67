"""The recipe `my-clips` fits any manifest, and the README's commands for the user's own clips work."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from w3ray.cli import main
from w3ray.data.importers import import_folder
from w3ray.data.manifest import build_manifest, write_manifest
from w3ray.lint import lint
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.recipe import Recipe, load_recipe


def planned_with(folder: Path, num_classes: int, **options: Any) -> Recipe:
    """The recipe next to a manifest with this number of classes. Each has ten clips, two of them for validation."""
    rows = [(split, i, label) for label in range(num_classes) for i, split in enumerate(["train"] * 8 + ["val"] * 2)]
    manifest = build_manifest(
        {
            "clip_id": [f"{split}-{label}-{i}" for split, i, label in rows],
            "uri": [f"{label}/{split}-{i}.mp4" for split, i, label in rows],
            "label": [label for *_, label in rows],
            "split": [split for split, *_ in rows],
        },
        [f"class {i}" for i in range(options.pop("num_names", num_classes))],
        location=str(folder / "clips.parquet"),
        **options,
    )
    write_manifest(manifest, folder / "clips.parquet")
    return load_recipe("my-clips")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder. The recipe expects its manifest there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("num_classes", [2, 3, 400])
def test_any_number_of_classes(here: Path, num_classes: int) -> None:
    recipe = planned_with(here, num_classes)
    data = prepare_data(recipe)
    teacher, student = plan_stages(recipe, data)
    assert teacher.model_arguments(data)["num_classes"] == num_classes
    assert student.teacher == "teacher"
    assert teacher.schedule.steps_per_epoch == num_classes  # 8 clips per class, in batches of 8


def test_several_labels(here: Path) -> None:
    recipe = planned_with(here, 6, num_names=5, head_sizes=(("verb", 2), ("noun", 3)))
    data = prepare_data(recipe)
    assert [item.model_arguments(data)["num_classes"] for item in plan_stages(recipe, data)] == [5, 5]


def test_lint_has_nothing_to_warn_of(here: Path) -> None:
    report = lint(planned_with(here, 5))
    assert report.data_unread is None
    assert [finding for finding in report.findings if finding.severity == "warning"] == []


def class_folders(root: Path, motion: Path) -> None:
    """Clips as users have them: videos in class folders, a class of folders of images, a clip of three frames."""
    for split in ("train", "val"):
        for video in (motion.parent / split).glob("*/*.mp4"):
            target = root / video.parent.name / f"{split}-{video.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, target)
    noise = np.random.default_rng(0)
    for clip in range(5):
        folder = root / "noise" / f"clip {clip}"
        folder.mkdir(parents=True)
        for frame in range(3 if clip == 0 else 9):
            pixels = noise.integers(0, 255, (30 + clip, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame:05}.jpg")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_readmes_commands(here: Path, motion_manifest: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class_folders(here / "clips", motion_manifest)
    assert len(import_folder(here / "clips").classes) == 9
    assert main(["data", "import", "folder", "clips/", "--out", "clips.parquet"]) == 0
    small = ("data.size=32", "train.epochs=1", "train.batch_size=16")
    assert main(["run", "my-clips", *(word for change in small for word in ("--set", change)), "--json"]) == 0
    result = document(capfd)
    assert [(stage["name"], stage["state"]) for stage in result["stages"]] == [("teacher", "run"), ("student", "run")]
    assert result["model"]["name"] == "my-clips"
    protocol = ["--manifest", "clips.parquet", "--protocol", "3crop-2clip", "--json"]
    assert main(["evaluate", "models:/my-clips@current", *protocol]) == 0
    scored = document(capfd)
    assert scored["clips"] == result["stages"][-1]["metrics"]["rows"] == 9
    assert scored["unreadable"] == 0


def document(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one JSON document that a command printed."""
    out = capfd.readouterr().out
    found: dict[str, Any] = json.loads(out[out.index("{") :])
    return found

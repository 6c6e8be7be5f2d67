"""Every network trains through a run on generated clips, and an evaluation of its model gives the same accuracy."""

from pathlib import Path
from typing import Any

import pytest

from w3ray.data.synthetic import write_motion_dataset
from w3ray.models import MODELS
from w3ray.pipeline import run
from w3ray.recipe import Recipe
from w3ray.scoring.evaluate import evaluate

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WITH_MORE = ("i3d_gcn", "lfb")
"""These read boxes or a bank: `test_boxes_run.py`, `test_bank_run.py`."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("clips")
    return str(write_motion_dataset(root / "set", clips=16, val_clips=8, test_clips=8, size=32).location)


def family(name: str) -> tuple[str, dict[str, Any], int, int]:
    options = MODELS[name].options
    frames, size, _ = options.small_clips[0]
    return name, {"options": dict(options.small), "backbone": "resnet_small"}, frames, size


CASES = [
    *(family(name) for name in MODELS if name not in WITH_MORE),
    ("tsn", {"backbone": "bninception"}, 2, 32),
    ("lstm", {"backbone": "vgg16", "options": {"units": 8}}, 2, 32),
    ("tsm", {"backbone": "efficientnet_lite0"}, 2, 32),
    ("tsm", {"backbone": "resnet50", "attention": {"kind": "nonlocal"}}, 2, 32),
    ("eco", {"options": {"width": 8, "lite": True}}, 4, 32),
]


@pytest.mark.parametrize(("name", "arguments", "frames", "size"), CASES)
def test_it_trains_and_its_evaluation_agrees(
    ray_session: None, clips: str, tmp_path: Path, name: str, arguments: dict[str, Any], frames: int, size: int
) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "every",
            "storage": str(tmp_path / "runs"),
            "data": {"manifest": clips, "num_frames": frames, "size": size},
            "model": {"name": name, **arguments},
            "train": {"epochs": 1, "batch_size": 8, "microbatch_size": 8, "validate_every_epochs": 1},
            "stages": [{"name": "only"}],
            "evaluation": {"split": "val"},
        }
    )
    result = run(recipe)
    (stage,) = result.stages
    assert result.model["name"] == "every"  # registered in MLflow
    model = next((tmp_path / "runs" / "stages").glob("only-*/model"))
    answer = evaluate([str(model)], clips, split="val", storage=str(tmp_path / "runs"))
    assert answer.clips == 8
    assert answer.metrics["top1"] == pytest.approx(stage.metrics["top1"])

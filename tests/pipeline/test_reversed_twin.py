"""Order is the only cue: real clips forwards against the same clips backwards. A model with time must see it."""

import pytest

from w3ray.data.importers import import_csv, reversed_twin
from w3ray.data.manifest import write_manifest
from w3ray.pipeline import run
from w3ray.recipe import Recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.real_data,
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.timeout(1500),
]


@pytest.fixture(scope="module")
def twin(real_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("twin") / "twin.parquet"
    write_manifest(reversed_twin(import_csv(real_data / "ut-interaction" / "list.csv")), path)
    return path


def top1(twin, storage, model: str) -> float:
    recipe = Recipe.model_validate(
        {
            "name": f"twin-{model}",
            "storage": str(storage),
            "data": {"manifest": str(twin), "size": 64, "decoder": "pyav", "scales": [1.0, 0.875]},
            "model": {"name": model, "backbone": "resnet_small", "attention": None, "dropout": 0.2},
            "train": {
                "epochs": 25,
                "batch_size": 8,
                "optimizer": "adamw",
                "lr": 0.002,
                "lr_batch_size": 8,
                "weight_decay": 0.01,
                "schedule": {"kind": "cosine", "warmup_epochs": 1},
                "validate_every_epochs": 5,
                "checkpoint_every_epochs": 5,
                "best_metric": "last",
            },
            "stages": [{"name": "teacher"}],
            "tracking": {"enabled": False},
        }
    )
    metrics = run(recipe).stages[0].metrics
    assert metrics["rows"] == 74
    return metrics["top1"]


def test_tsm_tells_forwards_from_backwards(twin, tmp_path):
    assert top1(twin, tmp_path, "tsm") >= 0.95


def test_tsn_can_not(twin, tmp_path):
    # Each clip comes forwards and backwards, and without time both get the same scores: one of the two is wrong.
    assert abs(top1(twin, tmp_path, "tsn") - 0.5) <= 0.1

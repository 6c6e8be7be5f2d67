"""Initial weights from a file: independent of the file's place, and checked before anything starts."""

import pytest
import torch

from w3ray.errors import InputError
from w3ray.models import build_model
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.recipe import Recipe

MODEL = {"name": "tsn", "backbone": "resnet_small", "attention": None}


def planned(motion_manifest, storage, weights):
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "storage": str(storage),
            "data": {"manifest": str(motion_manifest), "num_frames": 4, "size": 32},
            "model": {**MODEL, "weights": str(weights)},
            "stages": [{"name": "teacher"}],
        }
    )
    data = prepare_data(recipe)
    return plan_stages(recipe, data)[0], data


def save_weights(path, seed, **changes):
    torch.manual_seed(seed)
    torch.save(build_model(**{**MODEL, "num_classes": 8, **changes}).state_dict(), path)
    return path


def test_identity_follows_the_content_not_the_path(motion_manifest, tmp_path, monkeypatch):
    first, data = planned(motion_manifest, tmp_path, save_weights(tmp_path / "a.pth", 0))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.pth").rename(tmp_path / "elsewhere" / "b.pth")
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved, _ = planned(motion_manifest, tmp_path, "b.pth")
    assert moved.identity == first.identity
    # A worker has a different current folder.
    assert moved.model_arguments(data)["weights"] == str(tmp_path / "elsewhere" / "b.pth")
    changed, _ = planned(motion_manifest, tmp_path, save_weights(tmp_path / "elsewhere" / "b.pth", 1))
    assert changed.identity != first.identity


def test_unusable_weights_are_refused_before_anything_starts(motion_manifest, tmp_path):
    storage = tmp_path / "runs"
    (tmp_path / "garbage.pth").write_bytes(b"garbage")
    other = save_weights(tmp_path / "other.pth", 0, backbone="resnet18")
    for weights, message in (
        (tmp_path / "absent.pth", "no such file"),
        (tmp_path / "garbage.pth", "not readable"),
        (other, "do not fit|shape"),
        ("ResNet999_Weights.DEFAULT", "no such enum"),
    ):
        with pytest.raises(InputError, match=message):
            planned(motion_manifest, storage, weights)
    assert not storage.exists()

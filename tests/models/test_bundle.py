"""A model folder gives back the same network, and says what is wrong where it can not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from w3ray.errors import InputError
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, load_model, read_description, write_model

DESCRIPTION = ModelDescription(
    model={
        "name": "tsm",
        "backbone": "resnet_small",
        "num_classes": 4,
        "attention": {"kind": "w3"},
        "weights": "somewhere.pth",
    },
    clip={"num_frames": 4, "size": 32, "scales": [1.0, 0.875]},
    classes=("a", "b", "c", "d"),
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    stage="student",
    metrics={"top1": 0.25},
)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model(**{**DESCRIPTION.model, "weights": None})


@pytest.fixture
def folder(tmp_path: Path, model: nn.Module) -> Path:
    write_model(tmp_path / "runs" / "model", model, DESCRIPTION)
    return tmp_path / "runs" / "model"


def test_round_trip(folder: Path, model: nn.Module) -> None:
    loaded, description = load_model(folder)
    assert not loaded.training
    # The starting weights are not part of it: they may be gone by now.
    assert "weights" not in description.model
    assert description.classes == DESCRIPTION.classes
    assert (description.mean, description.std) == (DESCRIPTION.mean, DESCRIPTION.std)
    assert (description.clip, description.stage, description.metrics) == (
        DESCRIPTION.clip,
        DESCRIPTION.stage,
        DESCRIPTION.metrics,
    )
    x_BTCHW = torch.randn(2, 4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(x_BTCHW).logits_BK, model.eval()(x_BTCHW).logits_BK)


def test_rewriting_replaces_and_leaves_nothing_else(folder: Path) -> None:
    torch.manual_seed(1)
    other = build_model(**{**DESCRIPTION.model, "weights": None})
    write_model(folder, other, DESCRIPTION)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    loaded, _ = load_model(folder)
    assert torch.equal(loaded.state_dict()["classifier.weight"], other.state_dict()["classifier.weight"])


def test_failed_write_leaves_the_old_one(folder: Path, model: nn.Module) -> None:
    broken = ModelDescription(**{**DESCRIPTION_FIELDS, "metrics": {"top1": object()}})  # no JSON
    with pytest.raises(TypeError):
        write_model(folder, model, broken)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert load_model(folder)[1].metrics == {"top1": 0.25}


DESCRIPTION_FIELDS = {name: getattr(DESCRIPTION, name) for name in DESCRIPTION.__slots__}


def test_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.json: No such file"):
        load_model(tmp_path / "nowhere")


def test_damaged_files(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors: can not be read"):
        load_model(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(InputError, match="not a description of a model"):
        read_description(folder)


def test_other_architecture(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["classifier.weight"] = torch.zeros(5, state["classifier.weight"].shape[1])
    state["extra.weight"] = torch.zeros(1)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"2 tensors are missing.*extra\.weight, classifier\.weight"):
        load_model(folder)


def test_other_format(folder: Path) -> None:
    document = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**document, "format": 2}))
    with pytest.raises(InputError, match="format 2"):
        load_model(folder)

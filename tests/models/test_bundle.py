"""A model folder gives back the same network, or an error that says what is wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from w3ray.errors import InputError
from w3ray.models import build_model, convert
from w3ray.models.bundle import ModelDescription, load_model, read_description, write_model
from w3ray.models.convert import convert_gain

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
    # The initial weights are not stored, because they may no longer exist.
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
    broken = ModelDescription(**{**DESCRIPTION_FIELDS, "metrics": {"top1": object()}})  # not JSON
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
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
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
    (folder / "model.json").write_text(json.dumps({**document, "format": 5}))
    with pytest.raises(InputError, match="format 5, but this version of w3ray reads formats 1 to 4"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "options"), [("tsm", {"shift_div": 4, "shift_mode": "online"}), ("tsn", {}), ("mc3_18", {})]
)
def test_a_model_of_format_2_has_its_options_among_the_others(tmp_path: Path, name: str, options: dict) -> None:
    arguments = {"name": name, "backbone": "resnet_small", "num_classes": 5}
    model = build_model(**arguments, options=options).eval()
    write_model(tmp_path / "model", model, replace(DESCRIPTION, model={**arguments, "options": options}))
    document = json.loads((tmp_path / "model" / "model.json").read_text())
    first = {"shift_div": 4, "shift_mode": "online", "attention": None, "refinement": False, "dropout": 0.5}
    document |= {"format": 2, "model": {**arguments, **first}}
    (tmp_path / "model" / "model.json").write_text(json.dumps(document))
    loaded, description = load_model(tmp_path / "model")
    assert description.model["options"] == options
    x_BTCHW = torch.randn(2, 4, 3, 32, 32)
    assert torch.equal(loaded(x_BTCHW).logits_BK, model(x_BTCHW).logits_BK)


@pytest.mark.parametrize(("kind", "start"), [("w3", "near_open"), ("cbam", "plain")])
def test_a_model_of_format_1_keeps_the_gates_it_was_trained_with(tmp_path: Path, kind: str, start: str) -> None:
    torch.manual_seed(0)
    arguments = {**DESCRIPTION.model, "attention": {"kind": kind, "start": start}}
    model = build_model(**{**arguments, "weights": None}).eval()
    write_model(tmp_path / "model", model, replace(DESCRIPTION, model=arguments))
    document = json.loads((tmp_path / "model" / "model.json").read_text())
    document["format"], document["model"]["attention"] = 1, {"kind": kind}  # as older versions wrote it
    (tmp_path / "model" / "model.json").write_text(json.dumps(document))
    loaded, description = load_model(tmp_path / "model")
    assert description.model["attention"]["start"] == start
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    assert torch.equal(loaded(x_BTCHW).logits_BK, model(x_BTCHW).logits_BK)
    document["format"] = 2  # then an absent start means the default, which does not fit these weights
    (tmp_path / "model" / "model.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"gates are sigmoid\(z\), the model's are 2 sigmoid\(z\)"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    "attention",
    [
        {"kind": "w3", "start": "near_open"},
        {"kind": "w3", "start": "plain", "spatial": False},
        {"kind": "w3", "start": "unit"},
        {"kind": "w3", "start": "unit", "gain": "norm", "channel": False},
        {"kind": "cbam", "start": "unit"},
        {"kind": "cbam", "start": "plain"},
    ],
    ids=str,
)
def test_a_converted_model_computes_the_same(
    tmp_path: Path, attention: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Converted back, it is the same file."""

    def command(source: str, out: str, gain: str) -> None:
        monkeypatch.setattr(sys, "argv", ["convert", str(tmp_path / source), str(tmp_path / out), "--gain", gain])
        convert.main()

    torch.manual_seed(0)
    arguments = {**DESCRIPTION.model, "attention": attention}
    model = build_model(**{**arguments, "weights": None}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    write_model(tmp_path / "model", model, replace(DESCRIPTION, model=arguments))
    first = "norm" if attention["start"] == "unit" and "gain" not in attention else "gate"
    second = {"norm": "gate", "gate": "norm"}[first]
    command("model", "there", first)
    command("there", "back", second)
    x_BTCHW = torch.randn(2, 4, 3, 32, 32)
    there, description = load_model(tmp_path / "there")
    assert description.model["attention"]["gain"] == first
    ours, theirs = there(x_BTCHW), model(x_BTCHW)
    assert torch.equal(ours.logits_BK, theirs.logits_BK)
    assert torch.equal(ours.features[0], theirs.features[0])
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in load_model(tmp_path / "back")[0].state_dict().items())
    with pytest.raises(SystemExit, match="2"):
        command("there", "back", second)
    assert "already exists; name a new folder" in capsys.readouterr().err


def test_converting_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "w3ray.models.convert", str(tmp_path), str(tmp_path), "--gain", "norm"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert (refused.returncode, "already exists; name a new folder" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("attention", "text"),
    [
        (None, "no attention with gates"),
        ({"kind": "nonlocal"}, "no attention with gates"),
        ({"kind": "w3"}, r"the gates are 2 sigmoid\(z\) already"),
        ({"kind": "w3", "placement": "after"}, "so no norm can hold their factor"),
    ],
)
def test_what_can_not_be_converted(attention: dict[str, Any] | None, text: str) -> None:
    arguments = {**DESCRIPTION.model, "attention": attention}
    model = build_model(**{**arguments, "weights": None})
    with pytest.raises(InputError, match=text):
        convert_gain(model, replace(DESCRIPTION, model=arguments), "gate")

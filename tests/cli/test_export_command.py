"""`w3ray export` as a command: its output, its document, bad input."""

import json

import pytest
import torch

from w3ray.cli import main
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage") / "model"
    arguments = {"name": "tsn", "backbone": "resnet_small", "num_classes": 2, "attention": None}
    torch.manual_seed(0)
    description = ModelDescription(
        model=arguments,
        clip={"num_frames": 2, "size": 32},
        classes=("links", "rechts"),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
    )
    write_model(folder, build_model(**arguments), description)
    return folder


def test_what_it_prints(model, tmp_path, capfd):
    out = tmp_path / "model.pt2"
    assert main(["export", str(model), "--out", str(out)]) == 0
    printed = capfd.readouterr().out
    assert f"{out} (" in printed
    assert "uint8    [batch, 2, 32, 32, 3]" in printed
    assert "classes 2: links, rechts" in printed
    assert main(["export", str(model), "--out", str(out), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["file"], document["format"], document["bytes"]) == (str(out), "torch", out.stat().st_size)
    assert document["check"]["batches"] == [1, 4]
    assert document["classes"] == ["links", "rechts"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}", "--out", "{tmp}/a.pt2"], "no model here; name the folder of a stage"),
        (["{model}", "--out", "{tmp}/none/a.pt2"], "cannot be written"),
        (["{model}", "--out", "{tmp}/a", "--format", "tflite"], "tflite"),
        (["{model}"], "Missing option '--out'"),
    ],
)
def test_bad_input(model, tmp_path, capfd, words, message):
    assert main(["export", *(word.format(model=model, tmp=tmp_path) for word in words), "--json"]) == 2
    assert message in json.loads(capfd.readouterr().out)["error"]["message"]
    assert list(tmp_path.iterdir()) == []

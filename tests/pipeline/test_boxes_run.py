"""A network that reads boxes: what a recipe must name, and a run on generated clips with a grid of boxes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from w3ray.cli import main
from w3ray.data.boxes import read_boxes, write_boxes
from w3ray.data.find_boxes import write_grid
from w3ray.data.manifest import build_manifest, read_manifest, write_manifest
from w3ray.data.synthetic import write_motion_dataset
from w3ray.pipeline.prepare import prepare_data
from w3ray.recipe import Recipe, load_recipe
from w3ray.training.optimizer import build_optimizer, parameter_groups
from w3ray.training.step import TrainingStep

SMALL = [
    "data.num_frames=8", "data.size=32", "data.short_side=null", "data.boxes_per_frame=3", "model.weights=null",
    "model.options={width: 8, blocks: [1, 1, 1, 1], node_channels: 16}", "model.attention.first=1", "train.epochs=2",
    "train.batch_size=8", "train.lr_batch_size=8", "train.microbatch_size=4", "train.validate_every_epochs=1",
    "tracking.enabled=false", "resources.workers=1",
]  # fmt: skip


@pytest.fixture
def manifest(tmp_path):
    columns = {"clip_id": ["a", "b"], "uri": ["/v/a.mp4", "/v/b.mp4"], "label": [0, 1], "split": ["train", "val"]}
    return write_manifest(build_manifest(columns, ["x", "y"]), str(tmp_path / "manifest.parquet"))


def recipe_of(manifest, boxes, **data) -> Recipe:
    values = load_recipe("ssv1-i3d-nl-gcn", [*SMALL, f"data.manifest={manifest}", f"data.boxes={boxes}"]).to_dict()
    values["data"] |= data
    return Recipe.model_validate(values)


def test_the_boxes_decide_the_identity_and_their_place_does_not(manifest, tmp_path):
    for name, cells in (("one", 2), ("same", 2), ("other", 3)):
        write_grid(manifest, str(tmp_path / f"{name}.parquet"), cells)
    found = [
        prepare_data(recipe_of(manifest.location, tmp_path / f"{name}.parquet")) for name in ("one", "same", "other")
    ]
    assert found[0].determinants == found[1].determinants
    assert found[0].determinants != found[2].determinants
    boxes = read_boxes(str(tmp_path / "other.parquet"))
    assert found[2].splits["val"].to_pylist()[0]["boxes"] == boxes.of("b")
    assert found[2].clip.boxes_per_frame == 3


def test_bad_input_of_a_recipe_is_one_line(manifest, tmp_path, capsys):
    write_grid(manifest, str(tmp_path / "grid.parquet"), 2)
    columns = {"clip_id": ["a", "z"], "uri": ["/v/a.mp4", "/v/z.mp4"], "label": [0, 1], "split": ["train", "val"]}
    other = write_manifest(build_manifest(columns, ["x", "y"]), str(tmp_path / "other.parquet"))
    for where, boxes, message in (
        (manifest.location, "null", "data.boxes: is missing; i3d_gcn needs boxes of things (see `w3ray data boxes`)"),
        (manifest.location, f"{tmp_path}/no.parquet", "no.parquet: boxes cannot be read (No such file or directory)"),
        (manifest.location, manifest.location, "boxes need the columns clip_id, time_s or frame (one of them)"),
        (other.location, f"{tmp_path}/grid.parquet", "have no boxes, such as 'z'"),
    ):
        settings = [*SMALL, f"data.manifest={where}", f"data.boxes={boxes}", f"storage={tmp_path}/runs"]
        words = [word for setting in settings for word in ("--set", setting)]
        assert main(["run", "ssv1-i3d-nl-gcn", *words]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]  # progress
        assert message in line


def test_boxes_of_the_videos_of_before_are_refused_for_packed_parts(manifest, tmp_path, capsys):
    box = {"x1": 0.0, "y1": 0.0, "x2": 0.5, "y2": 0.5, "score": 1.0}
    rows = [{"clip_id": name, "time_s": time, **box} for name in ("a", "b") for time in (8.0, 9.0)]
    write_boxes(str(tmp_path / "boxes.parquet"), rows)
    parts = write_manifest(replace(read_manifest(manifest.location), rebased=True), str(tmp_path / "parts.parquet"))
    assert read_manifest(parts.location).fingerprint() != manifest.fingerprint()
    assert prepare_data(recipe_of(manifest.location, tmp_path / "boxes.parquet"))
    settings = [*SMALL, f"data.manifest={parts.location}", f"data.boxes={tmp_path}/boxes.parquet"]
    for words in (
        ["run", "ssv1-i3d-nl-gcn", *(word for setting in settings for word in ("--set", setting))],
        ["data", "boxes", parts.location, str(tmp_path / "copy.parquet"), "--from", str(tmp_path / "boxes.parquet")],
    ):
        assert main(words) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]  # progress
        assert "boxes.parquet: its times are those of the clips before they were packed" in line
        assert "make boxes of this manifest with `w3ray data boxes`" in line
    write_grid(parts, str(tmp_path / "grid.parquet"), 2)
    assert prepare_data(recipe_of(parts.location, tmp_path / "grid.parquet"))


def test_generated_clips_need_a_manifest_for_boxes():
    values = load_recipe("quickstart").to_dict()
    values["data"]["boxes"] = "boxes.parquet"
    with pytest.raises(ValueError, match="'boxes' needs a manifest"):
        Recipe.model_validate(values)


def test_a_step_hands_the_boxes_of_valid_clips_to_the_model():
    class Sum(torch.nn.Module):
        side_inputs = ("boxes",)

        def __init__(self) -> None:
            super().__init__()
            self.classifier = torch.nn.Linear(1, 2)

        def classifier_parameters(self):
            return self.classifier.parameters()

        def forward(self, x_BTCHW, boxes):
            self.seen = boxes
            output = self.classifier(boxes.mean(dim=(1, 2, 3))[:, None])
            return type("Output", (), {"logits_BK": output, "features": ()})()

    model = Sum()
    optimizer = build_optimizer("sgd", parameter_groups(model, lr=0.1, weight_decay=0.0))
    step = TrainingStep(model, optimizer=optimizer, loss_weights={"cross_entropy": 1.0})
    clips, boxes = torch.zeros(3, 2, 8, 8, 3, dtype=torch.uint8), torch.rand(3, 2, 1, 4)
    labels, valid = torch.tensor([0, 1, 0]), torch.tensor([True, False, True])
    extras = {"boxes": boxes, "unused": boxes}
    step.accumulate(clips, labels, valid, normalizer=2, seed=0, last=True, extras=extras)
    assert torch.equal(model.seen, boxes[[0, 2]])
    step.update(0.1)
    with pytest.raises(ValueError, match="Sum: needs boxes with its clips"):
        step.accumulate(clips, labels, valid, normalizer=4, seed=0, last=True)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_an_evaluation_and_a_prediction(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    manifest = write_motion_dataset(str(tmp_path / "clips"), clips=16, val_clips=8, test_clips=8, size=32)
    grid = str(tmp_path / "grid.parquet")
    assert main(["data", "boxes", manifest.location, grid, "--grid", "2"]) == 0
    settings = [*SMALL, f"data.manifest={manifest.location}", f"data.boxes={grid}", "storage=runs"]
    capfd.readouterr()
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["run", "ssv1-i3d-nl-gcn", *words, "--json"]) == 0
    (stage,) = json.loads(capfd.readouterr().out)["stages"]
    model = next(Path("runs/stages").glob("baseline-*/model"))
    assert json.loads((model / "model.json").read_text())["clip"]["boxes_per_frame"] == 3

    asked = ["--manifest", manifest.location, "--split", "val"]
    assert main(["evaluate", str(model), *asked, "--json"]) == 2
    assert "needs boxes of the clips; name the file with --boxes" in capfd.readouterr().out
    assert main(["evaluate", str(model), *asked, "--boxes", grid, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["metrics"]["top1"] == pytest.approx(stage["metrics"]["top1"])
    assert main(["predict", str(model), *asked, "--boxes", grid, "--top", "1", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["predictions"]) == 8
    video = manifest.resolve(manifest.table["uri"][0].as_py())
    assert main(["explain", str(model), video]) == 2
    assert "needs boxes of the videos; name the file with --boxes" in capfd.readouterr().err
    assert main(["export", str(model), "--format", "torch", "--out", "model.pt2"]) == 2
    assert "cannot be exported: it reads boxes" in capfd.readouterr().err


def test_the_pictures_of_explain_use_boxes(tmp_path):
    from w3ray.explaining import explain_clip
    from w3ray.models import build_model

    torch.manual_seed(0)
    options = {"width": 8, "blocks": [1, 1, 1, 1], "node_channels": 16}
    model = build_model("i3d_gcn", num_classes=3, options=options)
    torch.nn.init.normal_(model.classifier.linear.weight)
    frames_TSSC = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    scores = []
    for end in (0.5, 1.0):
        boxes = np.broadcast_to(np.array([0, 0, end, end], np.float32), (8, 2, 4)).copy()
        scores.append(explain_clip(model, frames_TSSC, classes=["a", "b", "c"], extras={"boxes": boxes}).scores_K)
    assert not np.allclose(*scores)
    with pytest.raises(ValueError, match="I3DGCN: needs boxes with its clips"):
        explain_clip(model, frames_TSSC, classes=["a", "b", "c"])

"""For any folder name, MLflow's database, artifacts and models are in the folder and nowhere else."""

import shutil
from dataclasses import asdict
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from w3ray.data.clip import ClipSpec
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, load_model, write_model
from w3ray.tracking import Tracker, choose_uri, local_models

WORST = "My%20Runs #1? a&b+c;d=e@f:g [h] {i} 'j' \"k\" \\l ~$ä あ"


@pytest.mark.parametrize("name", [*(f"a{letter}b" for letter in "%?#&+:;=@'\"[]\\ä"), "My%20Runs"])
def test_each_letter(name, empty_database, tmp_path):
    root = tmp_path / name
    root.mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    chosen = choose_uri(None, root).value
    with Tracker.open(chosen, "one", buffer_dir=root / "tracking") as tracker:
        run = tracker.start_run({"lr": 0.1})
        run.log_text("hello", "note.txt", "notes")
    assert list(tmp_path.iterdir()) == [root], "nothing next to it"
    (file,) = root.glob("mlartifacts/one/*/artifacts/notes/note.txt")
    assert file.read_text() == "hello"
    client = MlflowClient(chosen)
    assert client.get_run(run.run_id).data.params == {"lr": "0.1"}
    (tmp_path / "back").mkdir()
    back = client.download_artifacts(run.run_id, "notes/note.txt", str(tmp_path / "back"))
    assert Path(back).read_text() == "hello"


def a_model(folder):
    arguments = {"name": "tsm", "backbone": "resnet_small", "num_classes": 2, "attention": None}
    clip = asdict(ClipSpec(num_frames=4, size=32))
    write_model(
        folder,
        build_model(**arguments),
        ModelDescription(
            model=arguments, clip=clip, classes=("a", "b"), mean=IMAGENET_MEAN, std=IMAGENET_STD, stage="student"
        ),
    )


def test_a_model_goes_there_and_comes_back(tmp_path, monkeypatch):
    """From an empty folder to the registered model. Temporary files are in such a folder, too."""
    root = tmp_path / WORST
    scratch = root / "temporary"
    scratch.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("TMPDIR", str(scratch))
    model = root / "stages" / "student-1" / "model"
    a_model(model)
    chosen = choose_uri(None, root).value
    with Tracker.open(chosen, WORST, buffer_dir=root / "tracking") as tracker:
        tracker.start_run({})
        stage = tracker.stage_run("student", "identity", {})
        data_set = ("set", "d", str(root / "m.parquet"))
        logged = stage.log_model(model, metrics={"best/top1": 0.5}, step=1, dataset=data_set)
        assert tracker.register(logged, "gestures", alias="current") == "1"
    assert list(tmp_path.iterdir()) == [root], "nothing next to it"
    assert (root / "mlflow.db").is_file()
    (weights,) = root.glob("mlartifacts/**/model.safetensors")
    assert weights.read_bytes() == (model / "model.safetensors").read_bytes()
    for location in ("models:/gestures@current", f"runs:/{stage.run_id}/student/artifacts/model"):
        with local_models([location], uri=chosen) as (one,):
            assert load_model(one.folder)[1] == load_model(model)[1]
    assert list(tmp_path.iterdir()) == [root], "nothing next to it"
    # MLflow's own loading reads a local path as an address, so the model is copied to a plain path.
    plain = tmp_path / "plain"
    plain.mkdir()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(chosen)
    try:
        loaded = mlflow.pyfunc.load_model("models:/gestures/1", dst_path=str(plain))
    finally:
        mlflow.set_tracking_uri(before)
    (row,) = loaded.predict(["absent.mp4"]).to_dict("records")
    assert "cannot be read" in row["reason"]

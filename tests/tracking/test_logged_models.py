"""A logged model is loaded with only MLflow and gives the scores of the evaluation."""

from dataclasses import asdict
from pathlib import Path

import av
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from tracking_server import Server

from w3ray.data.clip import ClipSpec, load_clip
from w3ray.evaluation.normalize import normalize_clips
from w3ray.models import build_model, bundle
from w3ray.models.bundle import ModelDescription, write_model
from w3ray.tracking import Tracker, local_models, logged_models

MODEL = {"name": "tsm", "backbone": "resnet_small", "num_classes": 3, "attention": {"kind": "w3"}}
SPEC = ClipSpec(num_frames=4, size=32)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CLASSES = ("open", "close", "pull")


def make_folder(folder: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model(**MODEL)
    # A new classifier is nearly zero. Scores that are all one third would prove nothing.
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    description = ModelDescription(
        model=MODEL, clip=asdict(SPEC), classes=CLASSES, mean=MEAN, std=STD, stage="teacher", metrics={"top1": 0.5}
    )
    write_model(folder, model, description)
    return model.eval()


def make_video(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for colour in rng.integers(0, 255, (12, 1, 1, 3), dtype=np.uint8):
            picture = np.broadcast_to(colour, (64, 64, 3)).copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def expected_scores(model: torch.nn.Module, videos: list[Path]) -> np.ndarray:
    clips = np.stack([load_clip(str(video), label=0, spec=SPEC, rng=None)[0] for video in videos])
    with torch.inference_mode():
        logits_BK = model(normalize_clips(torch.from_numpy(clips), mean=MEAN, std=STD)).logits_BK
    return logits_BK.softmax(dim=1).numpy()


def test_file_names_are_those_of_the_bundle() -> None:
    assert (logged_models.WEIGHTS_NAME, logged_models.DESCRIPTION_NAME) == (
        bundle.WEIGHTS_NAME,
        bundle.DESCRIPTION_NAME,
    )


def check_chain(uri: str, tmp_path: Path) -> None:
    """Teacher, student, registration. Then load by alias and compare the scores."""
    folder = tmp_path / "model"
    model = make_folder(folder)
    videos = [make_video(tmp_path / f"{index}.mp4", index) for index in range(3)]
    said: list[str] = []
    with Tracker.open(uri, "chain/one", buffer_dir=tmp_path / "buffer", notify=said.append) as tracker:
        tracker.start_run({})
        teacher_run = tracker.stage_run("teacher", "stage-t", {})
        data_set = ("manifest.parquet", "d" * 64, "/data/manifest.parquet")
        teacher = teacher_run.log_model(folder, metrics={"best/top1": 0.5}, step=10, dataset=data_set)
        student_run = tracker.stage_run("student", "stage-s", {})
        student = student_run.log_model(folder, metrics={"best/top1": 0.75}, step=20, teacher=teacher)
        grandchild = student_run.log_model(folder, metrics={}, step=20, teacher_identity="stage-s")
        assert tracker.register(student, "chain/one", alias="champion") == "1"
        assert tracker.register(str(student.uri), "chain/one", alias="champion") == "1"
    assert said == []

    client = MlflowClient(uri)
    logged = client.get_logged_model(str(student.model_id))
    assert logged.status.value == "READY"
    assert logged.tags["w3ray.teacher_model_id"] == teacher.model_id
    assert logged.source_run_id == student_run.run_id
    assert client.get_logged_model(str(grandchild.model_id)).tags["w3ray.teacher_model_id"] == student.model_id
    run = client.get_run(str(student_run.run_id))
    assert {link.model_id for link in run.inputs.model_inputs} == {teacher.model_id, student.model_id}
    assert {link.model_id for link in run.outputs.model_outputs} == {student.model_id, grandchild.model_id}
    (metric,) = client.get_logged_model(str(teacher.model_id)).metrics
    assert (metric.key, metric.value, metric.step) == ("best/top1", 0.5, 10)
    assert (metric.dataset_name, metric.dataset_digest) == ("manifest.parquet", "d" * 36)

    with local_models(["models:/chain_one@champion"], uri=uri) as (found,):
        assert found.name == "models:/chain_one/1"
        for name in (bundle.WEIGHTS_NAME, bundle.DESCRIPTION_NAME):
            assert (Path(found.folder) / name).read_bytes() == (folder / name).read_bytes()

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model("models:/chain_one@champion")
    finally:
        mlflow.set_tracking_uri(before)
    paths = [str(video) for video in videos]
    expected = expected_scores(model, videos)
    assert np.ptp(expected, axis=1).min() > 0.1
    for given in (paths, pd.DataFrame({"video": paths})):
        answer = loaded.predict(given)
        np.testing.assert_allclose(np.stack(answer["scores"]), expected, rtol=1e-5, atol=1e-6)
        assert answer["label"].tolist() == [CLASSES[best] for best in expected.argmax(axis=1)]
        np.testing.assert_allclose(answer["score"].astype(float), expected.max(axis=1), rtol=1e-5)
        assert answer["reason"].tolist() == [None] * 3
    assert len(loaded.predict(paths[0])) == 1
    assert [spec.name for spec in loaded.metadata.signature.outputs] == ["scores", "label", "score", "top", "reason"]
    assert loaded.input_example.shape == (1, 1)


def test_chain_in_sqlite(uri: str, tmp_path: Path) -> None:
    check_chain(uri, tmp_path)


@pytest.mark.slow
def test_chain_on_a_server(server: Server, tmp_path: Path) -> None:
    check_chain(server.uri, tmp_path)


@pytest.mark.slow
def test_model_logged_while_the_server_is_away(server: Server, tmp_path: Path) -> None:
    make_folder(tmp_path / "model")
    with Tracker.open(server.uri, "away", buffer_dir=tmp_path / "buffer") as tracker:
        tracker.wait_until_open()
        stage = tracker.stage_run("teacher", "stage-t", {})
        stage.wait_run_id()
        server.stop()
        teacher = stage.log_model(tmp_path / "model", metrics={"best/top1": 0.5}, step=1)
        assert teacher.model_id is None
        assert tracker.register(teacher, "away") is None
        server.start()
        assert tracker.flush(120)
    assert MlflowClient(server.uri).get_model_version("away", "1").status == "READY"
    assert teacher.model_id is not None


def test_folder_that_vanished_is_refused_and_training_goes_on(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_folder(folder)
    said: list[str] = []
    tracker = Tracker.open(uri, "chain", buffer_dir=tmp_path / "buffer", notify=said.append)
    stage = tracker.stage_run("teacher", "stage-t", {})
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    model = stage.log_model(folder, metrics={}, step=1)
    stage.log_metrics({"loss": 1.0}, 1)
    assert tracker.register(model, "chain") is None
    delivery = tracker.close()
    assert delivery.refused == 2
    assert "holds no model; was it removed?" in said[0]
    assert model.model_id is None

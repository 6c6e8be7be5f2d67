"""Commands accept a model by its MLflow name, and find earlier evaluations of its folder."""

import json
import shutil
import socket
import tempfile
from dataclasses import asdict
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from w3ray.cli import main
from w3ray.data.clip import ClipSpec
from w3ray.data.manifest import read_manifest
from w3ray.errors import InputError
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model
from w3ray.tracking import Tracker, local_models
from w3ray.tracking.uri import URI_VARIABLE


@pytest.fixture(scope="module")
def manifest(motion_manifest):
    return read_manifest(motion_manifest)


def a_model(folder: Path, classes: tuple[str, ...], seed: int) -> Path:
    torch.manual_seed(seed)
    attention = {"kind": "w3", "stages": [2]}  # in one stage, because an export takes long for each
    arguments = {"name": "tsm", "backbone": "resnet_small", "num_classes": len(classes), "attention": attention}
    model = build_model(**arguments)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    description = ModelDescription(
        model=arguments, clip=asdict(ClipSpec(num_frames=4, size=32)), classes=classes, mean=IMAGENET_MEAN,
        std=IMAGENET_STD, stage="student",
    )  # fmt: skip
    write_model(folder, model, description)
    return folder


class Store:
    """Two versions of one registered model in a database in its storage, as `w3ray run` creates them."""

    def __init__(self, root: Path, classes: tuple[str, ...], database: Path) -> None:
        root.mkdir()
        self.root, self.uri = root, f"sqlite:///{shutil.copy(database, root)}"
        self.folders = [a_model(root / "stages" / f"student-{seed}" / "model", classes, seed) for seed in range(2)]
        self.ids = []
        with Tracker.open(self.uri, "gestures", buffer_dir=root / "tracking") as tracker:
            tracker.start_run({})
            for number, folder in enumerate(self.folders):
                run = tracker.stage_run("student", f"stage-{number}", {})
                logged = run.log_model(folder, metrics={}, step=1)
                self.ids.append((run.run_id, logged.model_id))
                assert tracker.register(logged, "gestures", alias="champion" if number == 0 else "current")
            run.log_text("hello", "note.txt", "notes")


@pytest.fixture(scope="module")
def store(manifest, empty_database, tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("store") / "runs", manifest.classes, empty_database)


def which(store: Store, location: str) -> tuple[int, str]:
    """The version that a name means, by its weights, and the version's permanent name. Leaves no files behind."""
    with local_models([location], uri=store.uri) as (one,):
        folder = Path(one.folder)
        weights = (folder / "model.safetensors").read_bytes()
        (found,) = (
            number + 1
            for number, known in enumerate(store.folders)
            if (known / "model.safetensors").read_bytes() == weights
        )
    assert not folder.exists()
    return found, one.name


def test_each_kind_of_name_and_its_lasting_one(store):
    assert which(store, "models:/gestures@champion") == (1, "models:/gestures/1")
    assert which(store, "models:/gestures@current") == (2, "models:/gestures/2")
    assert which(store, "models:/gestures/latest") == (2, "models:/gestures/2")
    assert which(store, "models:/gestures/1") == (1, "models:/gestures/1")
    for number, (run_id, model_id) in enumerate(store.ids, start=1):
        assert which(store, f"models:/{model_id}") == (number, f"models:/{model_id}")
        assert which(store, f"runs:/{run_id}/student") == (number, f"runs:/{run_id}/student")
        inner = f"runs:/{run_id}/student/artifacts/model"
        assert which(store, inner) == (number, inner)
    before = mlflow.get_tracking_uri()
    assert before != store.uri, "the process's MLflow setting does not change"


def test_folders_are_given_back_as_they_are_and_mlflow_is_not_asked(store):
    with local_models([str(store.folders[0])], uri="http://127.0.0.1:9") as (one,):
        assert (one.folder, one.name) == (str(store.folders[0]),) * 2


def test_one_name_twice_is_fetched_once(store):
    with local_models(["models:/gestures/1", str(store.folders[1]), "models:/gestures/1"], uri=store.uri) as found:
        assert found[0].folder == found[2].folder != found[1].folder


def test_what_is_raised_speaks_of_the_name(store):
    with (
        pytest.raises(InputError, match=r"^models:/gestures/1: other classes$"),
        local_models(["models:/gestures@champion"], uri=store.uri) as (one,),
    ):
        raise InputError(f"{one.folder}: other classes")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("models:/gesture@champion", "no registered model 'gesture' in sqlite.*did you mean 'gestures'"),
        ("models:/zebra@champion", "no registered model 'zebra' in .*mlflow.db; it has gestures"),
        ("models:/gestures@champ", "'gestures' has no alias 'champ'; did you mean 'champion'.*champion .version 1."),
        ("models:/gestures@", "not a proper|no alias|which version"),
        ("models:/gestures/7", "'gestures' has no version '7'; its versions are 1, 2"),
        ("models:/gestures/Production", "'gestures' has no version 'Production'; its versions are 1, 2"),
        ("models:/gestures", "which version of 'gestures'.*its aliases are"),
        ("models:/m-0123456789abcdef0123456789abcdef", "no registered model 'm-0123456789abcdef0123456789abcdef'"),
        ("models:/", "models:/: "),
        ("runs:/", "runs:/: "),
        ("runs:/0123456789abcdef0123456789abcdef/student", "no run '0123456789abcdef0123456789abcdef' in"),
        ("runs:/{run}/studnt", "has no model 'studnt'; did you mean 'student'. its models are student"),
        ("runs:/{run}/notes", "has no model 'notes'"),
        ("runs:/{run}/student/artifacts", "no model that w3ray logged"),
        ("runs:/{run}/student/nothing", "its files cannot be fetched from"),
    ],
)
def test_names_that_are_not_there(store, location, message, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    location = location.format(run=store.ids[1][0])
    with pytest.raises(InputError, match=message), local_models([location], uri=store.uri):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_others_logged_is_refused(store, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MlflowClient(store.uri).get_logged_model(store.ids[0][1]).artifact_location[7:], folder)
    document = (folder / "MLmodel").read_text()
    assert "path: artifacts/model" in document
    a_model(tmp_path / "outside", ("a", "b"), 0)
    from w3ray.tracking.registered import _model_in

    assert _model_in(folder, "x") == folder / "artifacts" / "model"
    for changed in ("path: ../outside", f"path: {tmp_path / 'outside'}", "path: artifacts", "way: artifacts/model"):
        (folder / "MLmodel").write_text(document.replace("path: artifacts/model", changed))
        with pytest.raises(InputError, match="no model that w3ray logged"):
            _model_in(folder, "x")


def test_no_mlflow(store, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for uri, message in (
        (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}: cannot connect"),
        (f"sqlite:///{tmp_path / 'nowhere.db'}", r"no MLflow database at .*nowhere.db; name .* --tracking"),
    ):
        with pytest.raises(InputError, match=message), local_models(["models:/gestures/1"], uri=uri):
            pass
    assert list(tmp_path.iterdir()) == []


def answer(capsys, *words: str) -> dict:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_predict_finds_the_database_by_option_environment_and_beside_the_runs(
    store, manifest, tmp_path, capsys, monkeypatch
):
    video = manifest.resolved_uris()[0]
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    expected = answer(capsys, "predict", str(store.folders[0]), video)["predictions"]
    monkeypatch.chdir(tmp_path)
    asked = ["predict", "models:/gestures@champion", video]
    assert main(asked) == 2
    assert f"no MLflow database at {tmp_path / 'runs' / 'mlflow.db'}" in capsys.readouterr().err
    assert answer(capsys, *asked, "--tracking", store.uri)["predictions"] == expected
    monkeypatch.setenv(URI_VARIABLE, store.uri)
    found = answer(capsys, *asked)
    assert (found["predictions"], found["model"]) == (expected, "models:/gestures@champion")
    monkeypatch.delenv(URI_VARIABLE)
    monkeypatch.chdir(store.root.parent)
    assert answer(capsys, *asked)["predictions"] == expected


def test_explain_and_export_speak_of_the_name(store, manifest, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(URI_VARIABLE, store.uri)
    video, out = manifest.resolved_uris()[0], str(tmp_path / "out")
    found = answer(
        capsys, "explain", "models:/gestures@champion", video, "--against", "models:/gestures@current", "--out", out
    )
    assert (found["model"], found["against"]) == ("models:/gestures/1", "models:/gestures/2")
    assert Path(found["videos"][0]["strip"]).is_file()
    assert answer(capsys, "export", "models:/gestures@champion", "--out", str(tmp_path / "a.pt2"))["stage"] == "student"
    assert main(["explain", "models:/gestures@champion", video, "--out", out, "--true", "zebra"]) == 2
    assert "'zebra' is not a class of models:/gestures/1" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_evaluating_the_name_reuses_what_was_evaluated_of_the_folder(store, manifest, tmp_path, capsys, monkeypatch):
    asked = ["--manifest", manifest.location, "--storage", str(tmp_path)]
    first = answer(capsys, "evaluate", str(store.folders[0].parent), *asked)
    assert first["models"] == [str(store.folders[0])]

    def refuse(*arguments, **more):
        raise AssertionError("nothing is left to score")

    monkeypatch.setattr("w3ray.scoring.score_clips.score_clips", refuse)
    again = answer(capsys, "evaluate", "models:/gestures@champion", *asked, "--tracking", store.uri)
    assert (again["directory"], again["reused"]) == (first["directory"], first["clips"])
    assert (again["models"], again["metrics"]) == (["models:/gestures/1"], first["metrics"])
    assert json.loads((Path(again["directory"]) / "result.json").read_text())["models"] == ["models:/gestures/1"]

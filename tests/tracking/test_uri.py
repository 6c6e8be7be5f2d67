"""The choice of MLflow: the recipe's, else the environment's, else the local one; one line if it cannot work."""

import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from w3ray.cli import main
from w3ray.cli._summary import tracking_lines
from w3ray.errors import InputError
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.pipeline.tracked import _artifacts, describe_tracking, open_tracker, tracked_here
from w3ray.recipe import load_recipe
from w3ray.tracking import check_uri, choose_experiment, choose_uri
from w3ray.tracking.uri import check_artifacts

PASSWORD = "hunter2-of-the-variable"


def a_recipe(tmp_path, *changes):
    return load_recipe("quickstart", [f"storage={tmp_path / 'runs'}", *changes])


def recorded(recipe):
    """Begin and end a run like `w3ray run` and `w3ray tune`. Returns MLflow's address and its experiment."""
    said = []
    with open_tracker(recipe, run_name="x", notify=said.append) as tracker:
        run = tracker.start_run({})
        assert run.wait_run_id() is not None, said
    client = MlflowClient(tracker.uri)
    return tracker.uri, client.get_experiment(client.get_run(run.run_id).info.experiment_id).name


def test_recipe_then_variable_then_default(uri, empty_database, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    for name in ("runs/mlflow.db", "other.db"):
        (tmp_path / name).write_bytes(empty_database.read_bytes())
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert recorded(a_recipe(tmp_path)) == (f"sqlite:///{tmp_path}/runs/mlflow.db", "quickstart")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gestures")
    assert recorded(a_recipe(tmp_path)) == (uri, "gestures")
    own = ("tracking.uri=" + other, "tracking.experiment=mine")
    assert recorded(a_recipe(tmp_path, *own)) == (other, "mine")
    for empty in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(empty, "")
    assert recorded(a_recipe(tmp_path)) == (f"sqlite:///{tmp_path}/runs/mlflow.db", "quickstart")


def test_a_trial_is_recorded_where_its_driver_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/a.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gestures")
    trial = tracked_here(a_recipe(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # somebody else started its process
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of that process")
    assert (trial.tracking.uri, trial.tracking.experiment) == ("sqlite:////elsewhere/a.db", "gestures")
    assert trial.fingerprint() == a_recipe(tmp_path).fingerprint()


def test_a_stage_is_the_same_wherever_it_is_recorded(tmp_path, monkeypatch):
    def identities():
        recipe = a_recipe(tmp_path)
        return [item.identity for item in plan_stages(recipe, prepare_data(recipe))]

    before = identities()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gestures")
    assert identities() == before


def test_a_plan_says_where_and_why(tmp_path, monkeypatch):
    def lines(*changes):
        return tracking_lines(describe_tracking(a_recipe(tmp_path, *changes)))

    assert lines() == [f"tracking: sqlite:///{tmp_path}/runs/mlflow.db (default)", "experiment: quickstart (default)"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gestures")
    assert lines() == [
        "tracking: http://host:5000 (MLFLOW_TRACKING_URI)",
        "experiment: gestures (MLFLOW_EXPERIMENT_NAME)",
    ]
    assert lines("tracking.uri=sqlite:///a.db", "tracking.experiment=b") == [
        "tracking: sqlite:///a.db (tracking.uri)",
        "experiment: b (tracking.experiment)",
    ]
    assert lines("tracking.enabled=false") == ["tracking: none (tracking.enabled is false)"]


def test_names_are_chosen_in_the_same_order(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///My%20Runs/a.db")
    assert choose_uri(None, Path("/r")).value == "sqlite+pysqlite:///My%20Runs/a.db"
    assert choose_uri("http://host", Path("/r"), option="--tracking").why == "--tracking"
    assert choose_experiment("", "recipe").value == "recipe"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("file:///somewhere/mlruns", "a folder, but MLflow no longer keeps runs in plain files"),
        ("file:mlruns", "a folder, but MLflow"),
        ("./mlruns", "a folder, but MLflow"),
        ("/somewhere/mlruns", "a folder, but MLflow"),
        ("mlruns", "not a URI"),
        ("foo://host/x", "MLflow does not accept this kind of address"),
        ("sqlite://", "an in-memory database is lost"),
        ("sqlite:///:memory:", "an in-memory database is lost"),
        ("http://[::1", "cannot connect"),
        ("http://me:" + PASSWORD + "@127.0.0.1:{port}", "cannot connect; start the server"),
    ],
)
def test_an_address_that_can_not_work_is_one_line(address, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = address.format(port=closed.getsockname()[1])
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        for words in (["predict", "models:/a/1", "x.mp4"], ["export", "models:/a/1", "-o", "x.pt2"]):
            assert main(words) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("error: MLFLOW_TRACKING_URI ")
            assert message in line
            assert PASSWORD not in line
        with pytest.raises(InputError, match=r"^MLFLOW_TRACKING_URI ") as refused:
            open_tracker(a_recipe(tmp_path), run_name="x", notify=print)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_its_driver_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"mssql+nosuchdriver://me:{PASSWORD}@127.0.0.1/x")
    assert main(["predict", "models:/a/1", "x.mp4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be asked" in line
    assert PASSWORD not in line


def test_a_file_store_that_is_allowed(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_uri("file:///somewhere/mlruns")


def test_artifacts_on_object_storage(monkeypatch):
    """The query of an address belongs to its file system. What MLflow would cut off is refused."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    recipe = load_recipe("quickstart", ["storage=s3://bucket/My%20Runs?region=eu-west-1"])
    assert _artifacts(recipe) == "s3://bucket/My%20Runs/mlartifacts"
    with pytest.raises(InputError, match="MLflow cuts off an address at #"):
        check_artifacts("s3://bucket/runs #1/mlartifacts")

"""What a driver writes to a real SQLite store, in its own life and after the death of another driver."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from patience import PATIENCE_S

from w3ray.errors import InputError
from w3ray.tracking import StageRun, Tracker, check_uri

EXPERIMENT = "actions"


def open_tracker(uri: str) -> Tracker:
    folder = Path(uri.removeprefix("sqlite:///")).parent
    return Tracker.open(uri, EXPERIMENT, buffer_dir=folder / "buffer", run_name="recipe", tags={"team": "vision"})


def points(client: MlflowClient, run: StageRun, name: str) -> list[tuple[int, float]]:
    assert run.run_id is not None
    return [(point.step, point.value) for point in client.get_metric_history(run.run_id, name)]


def get(client: MlflowClient, run: StageRun) -> Run:
    assert run.run_id is not None
    return client.get_run(run.run_id)


def all_runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_parent_and_stage(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    report = tmp_path / "report.csv"
    report.write_text("class,top1\n")
    with open_tracker(uri) as tracker:
        parent = tracker.start_run({"seed": 0, "train": {"lr": 0.1}})
        stage = tracker.stage_run("teacher", "identity-1", {"epochs": 2}, tags={"colour": "red"})
        for step in range(1500):
            stage.log_metrics({"train/loss": 1 / (step + 1), "train/lr": 0.1}, step)
        stage.log_metrics({"odd/nan": math.nan, "odd/inf": math.inf}, 0)
        stage.log_artifact(report, "reports")
        report.unlink()  # MLflow has a copy
        stage.log_dict({"top1": 0.5}, "metrics.json", "reports")
        stage.log_dataset("manifest.parquet", "a" * 64, "/data/manifest.parquet", "training")
        stage.finish()
    run = get(client, stage)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert {name: run.data.tags[name] for name in ("w3ray.stage", "colour")} == {
        "w3ray.stage": "teacher",
        "colour": "red",
    }
    assert run.data.params == {"epochs": "2"}
    assert points(client, stage, "train/loss") == [(step, 1 / (step + 1)) for step in range(1500)]
    assert math.isnan(points(client, stage, "odd/nan")[0][1])
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id, "reports")) == [
        "reports/metrics.json",
        "reports/report.csv",
    ]
    assert run.inputs.dataset_inputs[0].dataset.digest == "a" * 36
    above = get(client, parent)
    assert (above.info.status, above.data.tags["team"]) == ("FINISHED", "vision")
    assert above.data.params == {"seed": "0", "train.lr": "0.1"}
    # Only the store and its files remain.
    assert [path.name for path in (tmp_path / "buffer").rglob("*") if path.is_file()] == []
    assert (tmp_path / "mlartifacts" / EXPERIMENT).is_dir()


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_end_of_the_driver_is_the_end_of_its_runs(
    uri: str, client: MlflowClient, error: type[BaseException] | None, status: str
) -> None:
    def drive() -> None:
        with open_tracker(uri) as tracker:
            tracker.start_run({})
            tracker.stage_run("teacher", "i", {}).log_metrics({"loss": 1.0}, 1)
            if error is not None:
                raise error

    if error is None:
        drive()
    else:
        with pytest.raises(error):
            drive()
    assert [run.info.status for run in all_runs(client)] == [status, status]


def test_resumed_stage_overwrites_no_point(uri: str, client: MlflowClient) -> None:
    with open_tracker(uri) as tracker:
        parent = tracker.start_run({"seed": 0}, identity="recipe-1")
        first = tracker.stage_run("teacher", "stage-1", {"lr": 0.1, "workers": 1})
        for step in range(1, 7):
            first.log_metrics({"loss": float(step)}, step)
        first.log_metrics({"top1": 0.5}, 4)
        tracker.close("KILLED")
    # The checkpoint was at step 4, so steps 5 and 6 are repeated.
    with open_tracker(uri) as tracker:
        parent_again = tracker.start_run({"seed": 0}, identity="recipe-1")
        again = tracker.stage_run("teacher", "stage-1", {"lr": 0.1, "workers": 2})
        other = tracker.stage_run("student", "stage-2", {})
        for step in range(5, 9):
            again.log_metrics({"loss": 100.0 + step}, step)
        again.log_metrics({"top1": 0.75}, 8)
    assert (again.run_id, parent_again.run_id) == (first.run_id, parent.run_id)
    assert other.run_id != first.run_id
    assert points(client, again, "loss") == [(step, float(step)) for step in range(1, 7)] + [(7, 107.0), (8, 108.0)]
    assert points(client, again, "top1") == [(4, 0.5), (8, 0.75)]
    run = get(client, again)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "workers": "1"}
    assert json.loads(run.data.tags["w3ray.changed_params"]) == {"workers": "2"}


def test_worker_restart_overwrites_no_point(uri: str, client: MlflowClient) -> None:
    with open_tracker(uri) as tracker:
        stage = tracker.stage_run("teacher", "stage-1", {})
        for step in (1, 2, 3, 2, 3, 4):
            stage.log_metrics({"loss": float(step)}, step)
            tracker.flush()
    assert points(client, stage, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


def test_finished_stage_is_not_resumed(uri: str) -> None:
    with open_tracker(uri) as tracker:
        first = tracker.stage_run("teacher", "stage-1", {})
    with open_tracker(uri) as tracker:
        second = tracker.stage_run("teacher", "stage-1", {})
        third = tracker.stage_run("teacher", "stage-1", {}, resume_run_id=first.run_id)
    assert len({first.run_id, second.run_id}) == 2
    assert third.run_id == first.run_id


KILLED_DRIVER = """
import os, sys
from pathlib import Path
from w3ray.tracking import Tracker
uri, folder, flushed = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "flushed"
tracker = Tracker.open(uri, "actions", buffer_dir=folder / "buffer", run_name="recipe")
tracker.start_run({}, identity="recipe-1")
stage = tracker.stage_run("teacher", "stage-1", {"lr": 0.1})
for step in range(5):
    stage.log_metrics({"loss": float(step)}, step)
if flushed:
    tracker.flush()
print(stage.run_id, flush=True)
os._exit(137)
"""


def kill_a_driver(uri: str, folder: Path, when: str) -> str:
    command = [sys.executable, "-c", KILLED_DRIVER, uri, str(folder), when]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 137, result.stderr
    return result.stdout.strip()


@pytest.mark.slow
def test_killed_drivers_runs_end_as_killed(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    kill_a_driver(uri, tmp_path, "flushed")
    assert [run.info.status for run in all_runs(client)] == ["RUNNING", "RUNNING"]
    with open_tracker(uri) as tracker:
        tracker.start_run({}, identity="another recipe")
        # The runs of a living driver are not changed.
        tracker.flush()
        with open_tracker(uri) as second:
            second.flush()
        statuses = sorted(run.info.status for run in all_runs(client))
    assert statuses == ["KILLED", "KILLED", "RUNNING"]


@pytest.mark.slow
def test_killed_drivers_stage_is_gone_on_with(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    run_id = kill_a_driver(uri, tmp_path, "flushed")
    with open_tracker(uri) as tracker:
        tracker.start_run({}, identity="recipe-1")
        stage = tracker.stage_run("teacher", "stage-1", {"lr": 0.1})
        stage.log_metrics({"loss": 5.0}, 5)
    assert stage.run_id == run_id
    assert points(client, stage, "loss") == [(step, float(step)) for step in range(6)]
    assert [run.info.status for run in all_runs(client)] == ["FINISHED", "FINISHED"]


def test_killed_before_delivery_loses_nothing(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    kill_a_driver(uri, tmp_path, "at once")
    with open_tracker(uri) as tracker:
        tracker.flush()
    runs = {run.info.run_name: run for run in all_runs(client)}
    assert {name: run.info.status for name, run in runs.items()} == {"recipe": "KILLED", "teacher": "KILLED"}
    history = client.get_metric_history(runs["teacher"].info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, float(step)) for step in range(5)]


def test_disabled_tracker_does_nothing(tmp_path: Path) -> None:
    with Tracker.open(None, EXPERIMENT, buffer_dir=tmp_path / "buffer") as tracker:
        tracker.start_run({"a": 1})
        stage = tracker.stage_run("teacher", "i", {})
        stage.log_metrics({"loss": 1.0}, 1)
        stage.log_dict({}, "x.json")
        assert stage.wait_run_id() is None
        tracker.wait_until_open()
        assert not tracker.enabled
    assert list(tmp_path.iterdir()) == []


def test_bad_uris(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("this is no database")
    with pytest.raises(InputError, match="is no SQLite database"):
        check_uri(f"sqlite:///{text}")
    with pytest.raises(InputError, match="cannot write"):
        check_uri(f"sqlite:///{text}/mlflow.db")
    with pytest.raises(InputError, match="not a URI"):
        check_uri("mlflow.db")
    with pytest.raises(InputError, match="cannot connect"):
        check_uri("http://127.0.0.1:9")


def test_store_that_mlflow_can_not_use(tmp_path: Path) -> None:
    with (
        Tracker.open("mssql+nonsense://host", EXPERIMENT, buffer_dir=tmp_path) as tracker,
        pytest.raises(InputError, match="nonsense"),
    ):
        tracker.wait_until_open(timeout_s=PATIENCE_S)


def test_deleted_experiment(uri: str, client: MlflowClient) -> None:
    client.delete_experiment(client.create_experiment(EXPERIMENT))
    with open_tracker(uri) as tracker, pytest.raises(InputError, match="was deleted; restore it"):
        tracker.wait_until_open(timeout_s=PATIENCE_S)


QUIET = """
import sys
from pathlib import Path
from w3ray.tracking import Tracker
with Tracker.open(sys.argv[1], "fresh", buffer_dir=Path(sys.argv[2])) as tracker:
    tracker.start_run({"a": 1})
    tracker.stage_run("teacher", "i", {}).log_metrics({"loss": 1.0}, 1)
"""


@pytest.mark.slow
def test_new_store_says_nothing_and_costs_the_driver_no_wait(tmp_path: Path) -> None:
    started = time.perf_counter()
    with Tracker.open(f"sqlite:///{tmp_path}/a.db", EXPERIMENT, buffer_dir=tmp_path / "buffer") as tracker:
        tracker.start_run({}).log_metrics({"loss": 1.0}, 1)
        assert time.perf_counter() - started < 0.5
    command = [sys.executable, "-c", QUIET, f"sqlite:///{tmp_path}/new/b.db", str(tmp_path / "b")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env={**os.environ})
    assert (result.stdout, result.stderr) == ("", "")
    shutil.rmtree(tmp_path / "new")

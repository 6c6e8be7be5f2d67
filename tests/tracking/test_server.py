"""A real MLflow server that stops: training does not wait, and nothing is lost."""

import socket
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracking_server import Server

from w3ray.errors import InputError
from w3ray.tracking import Tracker
from w3ray.tracking import outbox as outbox_module

STEPS = 400


def history(uri: str, run_id: str | None) -> list[tuple[int, float]]:
    assert run_id is not None
    return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(run_id, "loss")]


@pytest.mark.slow
def test_server_restarted_in_the_middle(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "BACKOFF_LAST_S", 1.0)
    said: list[str] = []
    slowest_s = 0.0
    with Tracker.open(server.uri, "restarted", buffer_dir=tmp_path / "buffer", notify=said.append) as tracker:
        tracker.wait_until_open()
        tracker.start_run({"seed": 0})
        stage = tracker.stage_run("teacher", "stage-1", {"lr": 0.1})
        assert stage.wait_run_id() is not None
        for step in range(STEPS):
            if step == STEPS // 4:
                server.stop()
            if step == STEPS // 2:
                # A stage that starts while the server is down.
                student = tracker.stage_run("student", "stage-2", {"lr": 0.2})
                student.log_metrics({"loss": 7.0}, 1)
                student.log_text("hello", "note.txt")
            started = time.perf_counter()
            stage.log_metrics({"loss": 1 / (step + 1)}, step)
            slowest_s = max(slowest_s, time.perf_counter() - started)
            time.sleep(0.01)
        assert student.run_id is None
        server.start()
        assert tracker.flush(120)
    assert slowest_s < 1.0
    assert history(server.uri, stage.run_id) == [(step, 1 / (step + 1)) for step in range(STEPS)]
    assert history(server.uri, student.run_id) == [(1, 7.0)]
    client = MlflowClient(server.uri)
    run = client.get_run(str(student.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == client.get_run(str(stage.run_id)).data.tags["mlflow.parentRunId"]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    assert any("does not answer" in line for line in said)
    assert any("answers again" in line for line in said)


@pytest.mark.slow
def test_server_down_for_ever(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Tracker.open(server.uri, "down", buffer_dir=tmp_path / "buffer", notify=said.append)
    tracker.start_run({}, identity="recipe-1")
    stage = tracker.stage_run("teacher", "stage-1", {})
    stage.log_metrics({"loss": 1.0}, 1)
    assert tracker.flush(120)
    server.stop()
    for step in range(2, 50):
        stage.log_metrics({"loss": float(step)}, step)
    stage.finish()
    started = time.perf_counter()
    delivery = tracker.close("FINISHED", timeout_s=10)
    assert time.perf_counter() - started < 12
    assert delivery.waiting > 0
    assert delivery.journal is not None
    assert delivery.journal.is_file()
    assert str(delivery.journal) in said[-1]
    # The next driver of the same storage delivers it when the server is up again.
    server.start()
    with Tracker.open(server.uri, "down", buffer_dir=tmp_path / "buffer") as tracker:
        assert tracker.flush(120)
    assert history(server.uri, stage.run_id) == [(step, float(step)) for step in range(1, 50)]
    assert MlflowClient(server.uri).get_run(str(stage.run_id)).info.status == "FINISHED"
    assert list((tmp_path / "buffer").glob("journal-*")) == []


def test_unreachable_at_start_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    started = time.perf_counter()
    with pytest.raises(InputError, match=rf"tracking.uri http://127.0.0.1:{port}: cannot connect; start the server"):
        Tracker.open(f"http://127.0.0.1:{port}", "actions", buffer_dir=tmp_path / "buffer")
    assert time.perf_counter() - started < 5
    assert list(tmp_path.iterdir()) == []


def test_server_that_accepts_and_says_nothing(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.perf_counter()
        with pytest.raises(InputError, match="no answer"):
            Tracker.open(f"http://127.0.0.1:{silent.getsockname()[1]}", "actions", buffer_dir=tmp_path)
        assert time.perf_counter() - started < 9

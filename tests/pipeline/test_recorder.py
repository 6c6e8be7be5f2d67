"""A picture from a worker becomes a file of the stage's run in a real MLflow store."""

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from w3ray.events import Explained, Warned
from w3ray.pipeline.recorder import Clock, StageRecorder
from w3ray.tracking import Tracker, artifact_folder
from w3ray.tracking.journal import read_journal


def explained(clip_id: str, step: int, content: bytes) -> Explained:
    return Explained(stage="teacher", step=step, clip_id=clip_id, picture=content)


def recorder(tracker: Tracker, heard: list) -> tuple[StageRecorder, object]:
    run = tracker.stage_run("teacher", "stage-1", {})
    return StageRecorder(SimpleNamespace(), run, Clock(time.time()), heard.append), run


def test_each_step_has_a_file_and_a_repeated_one_replaces_it(tmp_path: Path, empty_database: Path) -> None:
    uri, heard = f"sqlite:///{shutil.copy(empty_database, tmp_path)}", []
    with Tracker.open(uri, "pictures", buffer_dir=tmp_path / "tracking") as tracker:
        hear, run = recorder(tracker, heard)
        for step, content in ((3, b"older"), (3, b"three"), (6, b"six")):
            hear(explained("open/a.mp4", step, content))
        hear(explained("../a b", 3, b"odd"))
        run.finish()
    assert heard == [], "displays do not get it"
    client = MlflowClient(uri)
    files = client.list_artifacts(run.run_id, "explain/open/a.mp4")
    assert [file.path for file in files] == [f"explain/open/a.mp4/step-00000{step}.png" for step in (3, 6)]
    assert [Path(client.download_artifacts(run.run_id, file.path)).read_bytes() for file in files] == [b"three", b"six"]
    (odd,) = client.list_artifacts(run.run_id, f"explain/{artifact_folder('../a b')}")
    assert Path(client.download_artifacts(run.run_id, odd.path)).read_bytes() == b"odd"
    assert list((tmp_path / "tracking").rglob("*.png")) == [], "delivered pictures are not kept"


def test_while_the_store_is_away_it_is_kept_for_the_next_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "http://127.0.0.1:9"
    tracker = Tracker.open(uri, "pictures", buffer_dir=tmp_path / "tracking", notify=str, must_answer=False)
    hear, _ = recorder(tracker, [])
    hear(explained("a", 3, b"three"))
    delivery = tracker.close(timeout_s=1.0)
    assert delivery.journal is not None
    with delivery.journal.open() as lines:
        (waiting,) = [one for one in read_journal(lines).pending if one.kind == "artifact"]
    assert waiting.data["folder"] == "explain/a"
    assert Path(waiting.data["path"]).read_bytes() == b"three"


def test_a_disk_that_is_full_costs_the_picture_and_says_so(tmp_path: Path, empty_database: Path) -> None:
    heard: list = []
    with Tracker.open(
        f"sqlite:///{shutil.copy(empty_database, tmp_path)}", "p", buffer_dir=tmp_path / "tracking"
    ) as tracker:
        hear, run = recorder(tracker, heard)
        (tmp_path / "tracking" / "files").write_text("where a folder would be made")
        hear(explained("a", 3, b"three"))
        run.log_metrics({"loss": 1.0}, 3)
    (warned,) = heard
    assert isinstance(warned, Warned)
    assert warned.message.startswith("stage teacher: the picture of a at step 3 cannot be saved for MLflow (")


def test_folders_of_odd_names() -> None:
    assert artifact_folder("opens/clip-1.mp4") == "opens/clip-1.mp4"
    odd = ["../../etc", "/abs", "a b", "a_b", "a?b", "ü", "x@1-2", "x#reversed", "a//b", ".", "y" * 300]
    folders = [artifact_folder(name) for name in odd]
    assert len(set(folders)) == len(odd)
    for folder in folders:
        assert folder.isascii()
        assert all(part.strip(".") and len(part) <= 110 for part in folder.split("/")), folder

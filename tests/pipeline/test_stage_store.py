"""A stage's folder: the state that it shows, and who may work in it."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from patience import PATIENCE_S

from w3ray._digest import digest_of
from w3ray.errors import InputError
from w3ray.pipeline.stage_store import StageStore
from w3ray.training.checkpoint import save_checkpoint


def store(root: Path, **determinants):
    determinants = {"train": {"epochs": 2}, **determinants}
    return StageStore(root, "teacher", digest_of(determinants)), determinants


def test_states_run_resume_reuse(tmp_path):
    stage, determinants = store(tmp_path)
    assert (stage.status(determinants).state, stage.status(determinants).why) == ("run", "new")
    assert not stage.directory.exists(), "a query writes nothing"
    stage.create(determinants)
    save_checkpoint(
        stage.directory / "checkpoints" / "step_00000007",
        model=torch.nn.Linear(2, 2),
        meta={"step": 7, "metrics": None},
    )
    status = stage.status(determinants)
    assert (status.state, status.step) == ("resume", 7)
    stage.model.mkdir()
    checkpoint = str(stage.directory / "checkpoints" / "step_00000007")
    known = {"validation": {}, "checkpoint": checkpoint, "tracking_run": None, "logged_model": None}
    stage.finish({"metrics": {"top1": 0.5}, **known})
    assert stage.status(determinants).state == "reuse"
    assert stage.result()["metrics"] == {"top1": 0.5}


def test_a_new_stage_says_what_makes_it_new(tmp_path):
    old, determinants = store(tmp_path)
    old.create(determinants)
    new, changed = store(tmp_path, train={"epochs": 5})
    assert new.status(changed).why == f"differs from {old.directory.name}: train.epochs: 2 -> 5"


def test_a_damaged_checkpoint_does_not_count(tmp_path):
    stage, determinants = store(tmp_path)
    stage.create(determinants)
    folder = stage.directory / "checkpoints" / "step_00000007"
    save_checkpoint(folder, model=torch.nn.Linear(2, 2), meta={"step": 7, "metrics": None})
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(50)
    assert stage.status(determinants).state == "run"


def test_a_damaged_result_is_named(tmp_path):
    stage, determinants = store(tmp_path)
    stage.create(determinants)
    (stage.directory / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"result\.json: damaged"):
        stage.status(determinants)


def test_unwritable_storage_is_named(tmp_path):
    (tmp_path / "stages").write_text("a file, not a folder")
    stage, determinants = store(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        stage.create(determinants)


def _hold(root: str, ready, log: str) -> None:
    stage, determinants = store(Path(root))
    with stage.wait(lambda: None):
        ready.set()
        signal.pause()
    Path(log).write_text(json.dumps(determinants))


def test_a_second_run_waits_until_the_first_one_is_dead(tmp_path):
    stage, determinants = store(tmp_path)
    stage.create(determinants)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready, str(tmp_path / "log")))
    holder.start()
    assert ready.wait(PATIENCE_S)
    told = []

    def on_wait() -> None:
        told.append(holder.pid)
        os.kill(holder.pid, signal.SIGKILL)

    with stage.wait(on_wait):
        assert told == [holder.pid]
    holder.join()
    assert not (tmp_path / "log").exists()


def test_failures_are_added_to_the_ledger(tmp_path):
    stage, determinants = store(tmp_path)
    stage.create(determinants)
    stage.add_failures(({"clip_id": "a", "reason": "zero bytes"},))
    stage.add_failures(({"clip_id": "b", "reason": "no frames"},))
    rows = [json.loads(line) for line in stage.ledger.read_text().splitlines()]
    assert [row["clip_id"] for row in rows] == ["a", "b"]


def test_lock_is_taken_once(tmp_path):
    stage, determinants = store(tmp_path)
    stage.create(determinants)
    lock = stage.take()
    assert lock is not None
    assert stage.take() is None
    lock.close()
    again = stage.take()
    assert again is not None
    again.close()

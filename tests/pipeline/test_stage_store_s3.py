"""A stage's folder on object storage: the same states, the same ledger, and no partial checkpoint counts."""

import json

import pytest
import torch

from w3ray._digest import digest_of
from w3ray.errors import InputError
from w3ray.pipeline.stage_store import StageStore
from w3ray.runtime.checkpoint_keeper import best_first
from w3ray.storage import DEADLINE_VARIABLE, RemotePath, StorageFailing, require_writable, storage_path, upload
from w3ray.storage.lease import Lease, LeaseLost
from w3ray.training.checkpoint import load_checkpoint, save_checkpoint
from w3ray.training.checkpoint_files import INDEX_FILE, by_step, first_whole, newest_valid_checkpoint, steps_done


@pytest.fixture
def root(s3, request) -> RemotePath:
    s3.heal()
    return RemotePath(f"s3://bucket/{request.node.name.partition('[')[0]}")


def store(root: RemotePath, **determinants) -> tuple[StageStore, dict]:
    determinants = {"train": {"epochs": 2}, **determinants}
    return StageStore(root, "teacher", digest_of(determinants)), determinants


def put_checkpoint(checkpoints: RemotePath, tmp_path, step: int, top1: float | None = None) -> torch.nn.Module:
    model = torch.nn.Linear(3, 2)
    metrics = None if top1 is None else {"top1": top1}
    local = save_checkpoint(tmp_path / f"step_{step:08d}", model=model, meta={"step": step, "metrics": metrics})
    upload(local, checkpoints / local.name, last=INDEX_FILE)
    return model


def test_states_run_resume_reuse(root, tmp_path):
    stage, determinants = store(root)
    assert (stage.status(determinants).state, stage.status(determinants).why) == ("run", "new")
    assert not stage.directory.exists(), "a query writes nothing"
    stage.create(determinants)
    put_checkpoint(stage.directory / "checkpoints", tmp_path, 7)
    status = stage.status(determinants)
    assert (status.state, status.step) == ("resume", 7)
    (stage.model / "model.json").write_text("{}")
    checkpoint = str(stage.directory / "checkpoints" / "step_00000007")
    known = {"validation": {}, "checkpoint": checkpoint, "tracking_run": None, "logged_model": None}
    stage.finish({"metrics": {"top1": 0.5}, **known})
    stage.add_to_result(logged_model="m-1")
    assert stage.status(determinants).state == "reuse"
    assert (stage.result()["metrics"], stage.result()["logged_model"]) == ({"top1": 0.5}, "m-1")
    other, changed = store(root, train={"epochs": 5})
    assert other.status(changed).why == f"differs from {stage.directory.name}: train.epochs: 2 -> 5"


def test_failures_are_added_to_the_ledger(root):
    stage, determinants = store(root)
    stage.create(determinants)
    stage.add_failures(({"clip_id": "a", "reason": "zero bytes"},))
    stage.add_failures(({"clip_id": "b", "reason": "no frames"},))
    assert [json.loads(line)["clip_id"] for line in stage.ledger.read_text().splitlines()] == ["a", "b"]


def test_lock_is_taken_once_and_missed_when_it_is_gone(root):
    stage, _ = store(root)
    lock = stage.take()
    assert isinstance(lock, Lease)
    assert stage.take() is None
    lock.check()
    lock.close()
    with stage.wait(lambda: None) as again:
        again.intent.unlink()
        again._confirmed -= 1000
        with pytest.raises(LeaseLost, match=rf"{stage.directory}: .*this run stops"):
            again.check()


def test_a_damaged_result_is_named(root):
    stage, determinants = store(root)
    (stage.directory / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"s3://.*result\.json: damaged"):
        stage.status(determinants)


@pytest.mark.parametrize("damage", ["truncated", "other bytes", "no index", "no model"])
def test_the_newest_whole_checkpoint_is_loaded_and_the_damaged_one_named(root, tmp_path, damage):
    checkpoints = root / damage.replace(" ", "-")
    whole = put_checkpoint(checkpoints, tmp_path, 3)
    put_checkpoint(checkpoints, tmp_path, 6)
    newest = checkpoints / "step_00000006"
    content = (newest / "model.safetensors").read_bytes()
    match damage:
        case "truncated":
            (newest / "model.safetensors").write_bytes(content[:-8])
        case "other bytes":
            (newest / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "no index":
            (newest / INDEX_FILE).unlink()
        case "no model":
            (newest / "model.safetensors").unlink()
    assert newest_valid_checkpoint(checkpoints) == checkpoints / "step_00000003"
    assert steps_done(checkpoints) == 3
    said = []
    model = torch.nn.Linear(3, 2)
    with first_whole(by_step(checkpoints), lambda path, reason: said.append((path, reason))) as found:
        assert found is not None
        load_checkpoint(found[1], model=model)
    assert torch.equal(model.weight, whole.weight)
    assert [path for path, _ in said] == [newest]
    assert str(newest) in said[0][1]
    assert "/tmp" not in said[0][1]


def test_a_failing_store_is_no_damage(root, tmp_path, s3, monkeypatch):
    put_checkpoint(root, tmp_path, 3)
    put_checkpoint(root, tmp_path, 6)
    monkeypatch.setenv(DEADLINE_VARIABLE, "1")
    s3.fail("step_00000006", method="GET|HEAD")
    with pytest.raises(StorageFailing):
        steps_done(root)
    with pytest.raises(StorageFailing), first_whole(by_step(root)):
        pass


def test_the_best_comes_first(root, tmp_path):
    for step, top1 in ((3, 0.5), (6, 0.7), (9, 0.7), (12, 0.1), (15, None)):
        put_checkpoint(root, tmp_path, step, top1)
    assert [path.name[-2:] for path in best_first(root, "top1")] == ["09", "06", "03", "12"]
    assert best_first(root, "last")[0].name == "step_00000015"


def test_storage_that_can_not_be_written_is_named(root, s3):
    require_writable(root)
    with pytest.raises(InputError, match="storage s3://absent/runs: cannot be written"):
        require_writable(storage_path("s3://absent/runs"))

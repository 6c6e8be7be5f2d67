"""Checkpoints are saved and loaded bit for bit. Damaged and unsuitable ones are reported, never used."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_parts import batch, run_microbatches, small_model, training_step

from w3ray.errors import InputError
from w3ray.models import build_model
from w3ray.training.checkpoint import (
    load_checkpoint,
    save_checkpoint,
    take_snapshot,
    unwrap_model,
    write_snapshot,
)
from w3ray.training.checkpoint_files import CheckpointError, newest_valid_checkpoint, read_index, verify_checkpoint
from w3ray.training.step import TrainingStep

META = {"step": 3, "epoch": 1, "metrics": {"top1": 0.1 + 0.2}, "run_id": "abc"}


def train(step: TrainingStep, numbers: range) -> None:
    clips, labels = batch(3)
    for number in numbers:
        run_microbatches(step, clips, labels, [[0, None], [1, 2]], normalizer=3, seed=100 * number)
        step.update(0.01)


def small_step(kind: str = "sgd", precision: str = "fp32", seed: int = 1) -> TrainingStep:
    return training_step(small_model(seed, dtype=torch.float32, dropout=0.5), kind=kind, precision=precision)


def save(step: TrainingStep, directory: Path) -> Path:
    return save_checkpoint(directory, model=step.model, optimizer=step.optimizer, step_state=step, meta=META)


@pytest.mark.parametrize(
    ("kind", "precision"), [("sgd", "fp32"), ("adamw", "fp32"), ("sgd", "bf16"), ("adamw", "fp16")]
)
def test_resumed_training_is_bit_identical(tmp_path: Path, kind: str, precision: str) -> None:
    straight = small_step(kind, precision)
    train(straight, range(4))

    broken_off = small_step(kind, precision)
    train(broken_off, range(2))
    save(broken_off, tmp_path / "step_2")
    resumed = small_step(kind, precision, seed=9)
    assert (
        load_checkpoint(tmp_path / "step_2", model=resumed.model, optimizer=resumed.optimizer, step_state=resumed)
        == META
    )
    train(resumed, range(2, 4))

    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert straight.state_dict() == resumed.state_dict()
    states = [step.optimizer.state_dict()["state"] for step in (straight, resumed)]
    assert states[0].keys() == states[1].keys()
    for index, state in states[0].items():
        for key, value in state.items():
            assert torch.equal(value, states[1][index][key]), (index, key)


def test_checkpoint_before_the_first_update(tmp_path: Path) -> None:
    step = small_step()
    save(step, tmp_path / "step_0")
    other = small_step(seed=2)
    load_checkpoint(tmp_path / "step_0", model=other.model, optimizer=other.optimizer, step_state=other)
    assert not other.optimizer.state
    assert torch.equal(other.model.classifier.weight, step.model.classifier.weight)


def test_teacher_needs_the_model_alone(tmp_path: Path) -> None:
    step = small_step()
    save(step, tmp_path / "best")
    teacher = small_model(5, dtype=torch.float32)
    load_checkpoint(tmp_path / "best", model=teacher)
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in step.model.state_dict().items())


def test_snapshot_does_not_follow_the_model(tmp_path: Path) -> None:
    step = small_step()
    train(step, range(1))
    expected = copy.deepcopy(step.model.state_dict())
    snapshot = take_snapshot(step.model, optimizer=step.optimizer, step_state=step, meta=META)
    train(step, range(1, 3))
    other = small_model(5, dtype=torch.float32)
    load_checkpoint(write_snapshot(snapshot, tmp_path / "step_1"), model=other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in expected.items())


def test_wrappers_leave_no_trace_in_names(tmp_path: Path) -> None:
    model = small_model(0, dtype=torch.float32)
    compiled = torch.compile(model, backend="eager")
    assert unwrap_model(compiled) is model
    load_checkpoint(save_checkpoint(tmp_path / "c", model=compiled, meta={}), model=model)


def test_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    step = small_step()
    save(step, tmp_path / "step_1")
    save_checkpoint(tmp_path / "step_1", model=step.model, meta={"second": True})
    assert read_index(tmp_path / "step_1")["meta"] == {"second": True}
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_failure_while_writing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = small_step()
    save(step, tmp_path / "step_1")

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("w3ray.storage.writing._to_disk", no_space)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path / "step_1", model=step.model, meta={"second": True})
    assert verify_checkpoint(tmp_path / "step_1")["meta"] == META
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_meta_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "step_1", model=small_model(0), meta={"path": tmp_path})
    assert not list(tmp_path.iterdir())


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        step = small_step()
        train(step, range(1))
        return save(step, tmp_path / "step_00000007")

    @pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "checkpoint.json"])
    @pytest.mark.parametrize("harm", ["flip", "cut", "empty", "delete"])
    def test_is_found_and_the_model_not_touched(self, folder: Path, name: str, harm: str) -> None:
        path = folder / name
        content = bytearray(path.read_bytes())
        if harm == "flip":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        elif harm == "delete":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2 if harm == "cut" else 0])
        model = small_model(3, dtype=torch.float32)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(CheckpointError, match=name) as caught:
            load_checkpoint(folder, model=model)
        assert isinstance(caught.value, InputError)
        assert "\n" not in str(caught.value)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_newer_format_is_explained(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("w3ray.training.checkpoint_files.FORMAT_VERSION", 2)
        with pytest.raises(CheckpointError, match="format 1, but this version of w3ray reads 2"):
            verify_checkpoint(folder)

    def test_newest_whole_one_is_chosen_and_the_damaged_said(self, folder: Path) -> None:
        parent, model = folder.parent, small_model(0)
        for number in (10, 9, 100):
            save_checkpoint(parent / f"step_{number:08d}", model=model, meta={"step": number})
        (parent / ".step_00000200.partial-1").mkdir()
        (parent / "step_x").mkdir()
        (parent / "step_00000100" / "model.safetensors").write_bytes(b"")
        (parent / "step_00000010" / "checkpoint.json").unlink()
        said: list[tuple[str, str]] = []
        found = newest_valid_checkpoint(parent, lambda path, reason: said.append((path.name, reason)))
        assert found == parent / "step_00000009"
        assert [name for name, _ in said] == ["step_00000100", "step_00000010"]
        assert "damaged" in said[0][1]
        assert newest_valid_checkpoint(parent, among=[folder, parent / "step_00000100"]) == folder

    def test_nothing_there(self, tmp_path: Path) -> None:
        assert newest_valid_checkpoint(tmp_path) is None
        assert newest_valid_checkpoint(tmp_path / "absent") is None


class TestMisfit:
    def test_other_architecture_is_explained_in_one_line(self, tmp_path: Path) -> None:
        save_checkpoint(tmp_path / "w3", model=small_model(0, dtype=torch.float32), meta={})
        plain = build_model("tsm", backbone="resnet_small", num_classes=4)
        with pytest.raises(
            CheckpointError, match=r"another architecture: unexpected .*attention.* and \d+ more"
        ) as caught:
            load_checkpoint(tmp_path / "w3", model=plain)
        assert "\n" not in str(caught.value)

    def test_other_number_of_classes_gives_both_shapes(self, tmp_path: Path) -> None:
        save_checkpoint(tmp_path / "c", model=nn.Linear(3, 4), meta={})
        with pytest.raises(CheckpointError, match=r"weight is \(4, 3\) instead of \(5, 3\)"):
            load_checkpoint(tmp_path / "c", model=nn.Linear(3, 5))

    def test_other_optimizer(self, tmp_path: Path) -> None:
        sgd, adamw = small_step("sgd"), small_step("adamw")
        save(sgd, tmp_path / "c")
        with pytest.raises(CheckpointError, match="its optimizer is SGD, but this one is AdamW"):
            load_checkpoint(tmp_path / "c", model=adamw.model, optimizer=adamw.optimizer)

    def test_other_groups(self, tmp_path: Path) -> None:
        step = small_step()
        save(step, tmp_path / "c")
        one_group = torch.optim.SGD(step.model.parameters(), lr=0.1)
        with pytest.raises(CheckpointError, match="the parameter groups of its optimizer have"):
            load_checkpoint(tmp_path / "c", model=step.model, optimizer=one_group)

    def test_other_precision(self, tmp_path: Path) -> None:
        save(small_step(), tmp_path / "c")
        other = small_step(precision="bf16", seed=2)
        before = copy.deepcopy(other.model.state_dict())
        with pytest.raises(CheckpointError, match="precision 'fp32'"):
            load_checkpoint(tmp_path / "c", model=other.model, optimizer=other.optimizer, step_state=other)
        assert all(torch.equal(value, before[key]) for key, value in other.model.state_dict().items())


def test_holds_no_pickle(tmp_path: Path) -> None:
    save(small_step(), tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "optimizer.safetensors",
    ]
    text, seal = (tmp_path / "c" / "checkpoint.json").read_text().rstrip("\n").rsplit("\n", 1)
    assert json.loads(text)["meta"] == META
    assert len(seal) == 64

"""Modes on real networks. test_step_ddp.py tests that several ranks agree."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from training_parts import buffers, small_model

from w3ray.training.batch_norm import (
    BATCH_NORMS,
    SyncedBatchNorm,
    apply_batch_norm_mode,
    average_buffers,
    rows_hidden_from_batch_norm,
)


def train_forward(model: nn.Module) -> list[str]:
    """Run one training forward. Returns the names of the batch norms whose running mean changed."""
    before = buffers(model)
    model.train()
    model(torch.randn(2, 2, 3, 16, 16, dtype=torch.float64))
    return [name for name, value in buffers(model).items() if "mean" in name and not torch.equal(value, before[name])]


def norm_names(model: nn.Module) -> list[str]:
    return [f"{name}.running_mean" for name, module in model.named_modules() if isinstance(module, BATCH_NORMS)]


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "learning"), [("train", slice(None)), ("partial", slice(1)), ("frozen", slice(0))]
    )
    def test_which_ones_learn_survives_train_and_copies(self, mode: Any, learning: slice) -> None:
        model = apply_batch_norm_mode(small_model(0), mode)
        expected = norm_names(model)[learning]
        assert train_forward(model) == expected
        assert train_forward(copy.deepcopy(model).eval().train()) == expected
        trained = {
            name
            for name, module in model.named_modules()
            if isinstance(module, BATCH_NORMS) and module.weight.requires_grad
        }
        assert trained == {name.removesuffix(".running_mean") for name in expected}

    @pytest.mark.parametrize("mode", ["partial", "frozen", "sync"])
    def test_state_names_and_evaluation_are_those_of_the_plain_model(self, mode: Any) -> None:
        plain, changed = small_model(0).eval(), apply_batch_norm_mode(small_model(0), mode).eval()
        assert list(plain.state_dict()) == list(changed.state_dict())
        x_BTCHW = torch.randn(2, 2, 3, 16, 16, dtype=torch.float64)
        assert torch.equal(plain(x_BTCHW).logits_BK, changed(x_BTCHW).logits_BK)

    @pytest.mark.parametrize("norm", [nn.BatchNorm1d(3), nn.BatchNorm3d(3)])
    @pytest.mark.parametrize("mode", ["frozen", "sync"])
    def test_other_dimensions(self, norm: nn.Module, mode: Any) -> None:
        norm = copy.deepcopy(norm)
        x = torch.randn(4, 3, *[2] * (0 if isinstance(norm, nn.BatchNorm1d) else 3))
        expected = copy.deepcopy(norm).train(mode == "sync")(x)
        torch.testing.assert_close(apply_batch_norm_mode(nn.Sequential(norm), mode).train()(x), expected)

    def test_faults_are_named(self) -> None:
        with pytest.raises(ValueError, match="known are train, partial, frozen, sync"):
            apply_batch_norm_mode(small_model(0), "half")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no effect"):
            apply_batch_norm_mode(nn.Linear(2, 2), "frozen")
        with pytest.raises(ValueError, match="FrozenBatchNorm2d"):
            apply_batch_norm_mode(apply_batch_norm_mode(small_model(0), "partial"), "sync")


@pytest.mark.parametrize("mode", ["train", "partial", "frozen", "sync"])
def test_hidden_rows_leave_no_trace(mode: Any) -> None:
    model = apply_batch_norm_mode(small_model(0), mode).train()
    before = buffers(model)
    with rows_hidden_from_batch_norm(model):
        model(torch.randn(1, 2, 3, 16, 16, dtype=torch.float64))
    assert all(torch.equal(value, before[name]) for name, value in buffers(model).items())
    moved = train_forward(model)
    assert (
        len(moved) == {"train": len(norm_names(model)), "partial": 1, "frozen": 0, "sync": len(norm_names(model))}[mode]
    )


def test_modes_are_restored_when_the_forward_fails() -> None:
    model = apply_batch_norm_mode(small_model(0), "sync").train()
    with pytest.raises(RuntimeError, match="boom"), rows_hidden_from_batch_norm(model):
        raise RuntimeError("boom")
    assert not any(module.ignore_rows for module in model.modules() if isinstance(module, SyncedBatchNorm))


def test_average_buffers_alone_changes_nothing() -> None:
    model = small_model(0)
    before = buffers(model)
    average_buffers(model)
    assert all(torch.equal(value, before[name]) for name, value in buffers(model).items())

"""The average follows its formula, and a checkpoint holds it beside the weights of the last step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_parts import batch, run_microbatches, small_model, training_step

from w3ray.training.checkpoint import load_checkpoint, save_checkpoint
from w3ray.training.checkpoint_files import CheckpointError
from w3ray.training.moving_average import MovingAverage


def trained(model: Any, average: MovingAverage, steps: int) -> None:
    step = training_step(model)
    for number in range(steps):
        run_microbatches(step, *batch(4, seed=number), [[0, 1, 2, 3]], normalizer=4)
        step.update(0.05)
        average.update(model)


def test_it_follows_its_formula() -> None:
    model: Any = small_model(1)
    average = MovingAverage(model, 0.5)
    step, expected = training_step(model), {name: value.clone() for name, value in model.state_dict().items()}
    for number in range(1, 13):
        run_microbatches(step, *batch(4, seed=number), [[0, 1, 2, 3]], normalizer=4)
        step.update(0.05)
        average.update(model)
        decay = min(0.5, number / (9 + number))  # 0.1, 0.18, ..., 0.5 from the ninth step on
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value.clone()
    torch.testing.assert_close(dict(average.model.state_dict()), expected)
    assert expected["backbone.bn1.num_batches_tracked"] == 12
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert not average.model.training


def test_a_checkpoint_holds_both(tmp_path: Path) -> None:
    model: Any = small_model(1)
    average = MovingAverage(model, 0.9)
    trained(model, average, 3)
    folder = save_checkpoint(tmp_path / "step_3", model=model, average=average, meta={"step": 3})
    torch.testing.assert_close(load_file(folder / "model.safetensors"), dict(average.model.state_dict()))
    torch.testing.assert_close(load_file(folder / "raw.safetensors"), dict(model.state_dict()))

    again: Any = small_model(2)
    other = MovingAverage(again, 0.9)
    assert load_checkpoint(folder, model=again, average=other) == {"step": 3}
    assert other.steps == 3
    trained(model, average, 2)
    trained(again, other, 2)
    for mine, theirs in ((model, again), (average.model, other.model)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name

    alone: Any = small_model(2)
    load_checkpoint(folder, model=alone)
    torch.testing.assert_close(dict(alone.state_dict()), load_file(folder / "model.safetensors"))


def test_faults(tmp_path: Path) -> None:
    model: Any = small_model(1)
    average = MovingAverage(model, 0.9)
    plain = save_checkpoint(tmp_path / "plain", model=model, meta={})
    with pytest.raises(CheckpointError, match="plain: holds no moving average"):
        load_checkpoint(plain, model=model, average=average)
    both = save_checkpoint(tmp_path / "both", model=model, average=average, meta={})
    (both / "raw.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"raw.safetensors: missing"):
        load_checkpoint(both, model=model)

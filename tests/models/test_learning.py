"""Every temporal network learns what only the order of the frames tells; a network of single frames cannot."""

import pytest
import torch
from torch import Tensor

from w3ray.models import MODELS, build_model
from w3ray.models.side_inputs import example
from w3ray.training.optimizer import build_optimizer, parameter_groups
from w3ray.training.step import TrainingStep

THING = 10
"""Side of the square that moves, in pixels."""
BATCH, MOST_STEPS, CHECK_EVERY = 16, 240, 20
LR = {"c3d_rsttm": 0.0005}
"""AdamW's learning rate, where it is not 0.002."""
MORE_OPTIONS = {"c3d": {"width": 8}, "c3d_rsttm": {"width": 8, "units": 32}}
"""The smallest network of these families is too narrow to learn."""


def moving_squares(count: int, frames: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A bright square moves to the right (label 0) or to the left (1) over noise: uint8 [B, T, S, S, 3], int64 [B].

    Both labels show the same pictures; only their order differs.
    """
    labels_B = torch.randint(0, 2, (count,), generator=generator)
    clips = torch.randint(60, 120, (count, frames, size, size, 3), generator=generator, dtype=torch.uint8)
    for clip, label in zip(clips, labels_B.tolist(), strict=True):
        top = int(torch.randint(0, size - THING, (1,), generator=generator))
        for frame in range(frames):
            left = round(frame * (size - THING) / (frames - 1))
            left = size - THING - left if label else left
            clip[frame, top : top + THING, left : left + THING] = 250
    return clips, labels_B


def accuracy_after_training(name: str) -> tuple[float, float]:
    """Accuracy on new clips, and on pairs of a clip and its reverse, which have opposite labels."""
    options = MODELS[name].options
    frames, size, _ = options.small_clips[0]
    torch.manual_seed(0)
    small = dict(options.small) | MORE_OPTIONS.get(name, {})
    model = build_model(name, backbone="resnet_small", options=small, num_classes=2, dropout=0)
    lr = LR.get(name, 0.002)
    optimizer = build_optimizer("adamw", parameter_groups(model, lr=lr, weight_decay=1e-4))
    step = TrainingStep(
        model, optimizer=optimizer, loss_weights={"cross_entropy": 1.0}, mean=model.pixels.mean, std=model.pixels.std
    )
    generator = torch.Generator().manual_seed(1)
    right = pairs = 0.0
    for number in range(1, MOST_STEPS + 1):
        clips, labels_B = moving_squares(BATCH, frames, size, generator)
        valid_B = torch.ones(BATCH, dtype=torch.bool)
        extras = example(model, clips)
        step.accumulate(clips, labels_B, valid_B, normalizer=BATCH, seed=number, last=True, extras=extras)
        step.update(lr)
        if number % CHECK_EVERY == 0:
            clips, labels_B = moving_squares(64, frames, size, generator)
            model.eval()
            extras = example(model, clips)
            with torch.no_grad():
                right_B = model(step.prepare(clips), **extras).logits_BK.argmax(dim=1) == labels_B
                reversed_B = model(step.prepare(clips.flip(1)), **extras).logits_BK.argmax(dim=1) == 1 - labels_B
            model.train()
            right, pairs = right_B.float().mean().item(), torch.cat([right_B, reversed_B]).float().mean().item()
            if right >= 0.95:
                break
    return right, pairs


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "tsn"])
def test_motion_is_learned(name: str) -> None:
    right, _ = accuracy_after_training(name)
    assert right >= 0.9


@pytest.mark.slow
def test_single_frames_tell_nothing_of_a_reversed_pair() -> None:
    _, pairs = accuracy_after_training("tsn")
    assert pairs == 0.5

"""Small functions for several training tests."""

import socket
from typing import Any

import torch
from torch import Tensor, nn

from w3ray.models import build_model
from w3ray.training.optimizer import build_optimizer, parameter_groups
from w3ray.training.step import TrainingStep

NUM_CLASSES = 4


def small_model(seed: int, *, dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> nn.Module:
    """TSM with W3 and AFR. Its batch norms have seen data, so that their statistics matter."""
    torch.manual_seed(seed)
    # With r = 16 the first stage has one hidden unit. Some seeds start it dead, and a gradient of zeros proves nothing.
    # Not unit gates: with them, the first gradient of all layers of a gate except the last is zero.
    attention = {"kind": "w3", "reduction": 4, "start": "near_open"}
    model = build_model("tsm", backbone="resnet_small", num_classes=NUM_CLASSES, attention=attention, dropout=dropout)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.8, 1.2)
    # At the start all scores are nearly equal. Spread them, so that a wrong gradient is visible.
    nn.init.normal_(model.classifier.weight, 0.0, 0.3)
    return model.to(dtype)


def batch(num_clips: int, seed: int = 0, size: int = 16) -> tuple[Tensor, Tensor]:
    """uint8 clips [B, 2, size, size, 3] and labels [B]."""
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randint(0, 256, (num_clips, 2, size, size, 3), dtype=torch.uint8, generator=generator)
    return clips, torch.randint(0, NUM_CLASSES, (num_clips,), generator=generator)


def padded(clips: Tensor, labels: Tensor, rows: list[int | None]) -> tuple[Tensor, Tensor, Tensor]:
    """The microbatch of these rows of the batch. None is padding with values that must never be used."""
    noise = torch.full_like(clips[0], 255)
    return (
        torch.stack([noise if row is None else clips[row] for row in rows]),
        torch.stack([torch.tensor(-7) if row is None else labels[row] for row in rows]),
        torch.tensor([row is not None for row in rows]),
    )


def training_step(model: nn.Module, *, kind: Any = "sgd", **options: Any) -> TrainingStep:
    """A step over the model (wrapped or not), by default only with cross-entropy."""
    plain = getattr(model, "module", model)
    optimizer = build_optimizer(kind, parameter_groups(plain, lr=0.1, weight_decay=5e-4))
    return TrainingStep(model, optimizer=optimizer, **{"loss_weights": {"cross_entropy": 1.0}, **options})


def run_microbatches(
    step: TrainingStep,
    clips: Tensor,
    labels: Tensor,
    microbatches: list[list[int | None]],
    *,
    normalizer: float,
    world_size: int = 1,
    seed: int = 0,
) -> None:
    """Accumulate the microbatches, given as rows of the batch."""
    for slot, rows in enumerate(microbatches):
        last = slot == len(microbatches) - 1
        step.accumulate(
            *padded(clips, labels, rows), normalizer=normalizer, world_size=world_size, seed=seed + slot, last=last
        )


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients by name."""
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers by name."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

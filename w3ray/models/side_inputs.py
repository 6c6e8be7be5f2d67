"""What does a network read besides the clip? It says so by name, and gets it as an argument of this name.

Letters: B clips, T frames, N boxes of a frame, W features of a bank, C their channels.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from w3ray.models._common import VideoModel

BOXES_PER_FRAME = 10
"""Boxes of a frame in counts and checks: those of Something-Something in Space-Time Region Graphs."""


def names_of(model: nn.Module) -> tuple[str, ...]:
    """The side inputs of a model, plain or wrapped for training. A module of another kind has none."""
    names: tuple[str, ...] = getattr(getattr(model, "module", model), "side_inputs", ())
    return names


def chosen(
    model: nn.Module, given: Mapping[str, Tensor] | Mapping[str, np.ndarray], device: torch.device
) -> dict[str, Tensor]:
    """The side inputs that a model names, on its device.

    Args:
        model: plain or wrapped for training.
        given: all side inputs of the clips.
        device: where the model is.

    Raises:
        ValueError: one of them is not given.
    """
    names = names_of(model)
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"{type(model).__name__}: needs {', '.join(missing)} with its clips")
    return {name: torch.as_tensor(given[name]).to(device, non_blocking=True) for name in names}


def example(model: VideoModel, x_BTCHW: Tensor, boxes_per_frame: int = BOXES_PER_FRAME) -> dict[str, Tensor]:
    """Side inputs for made-up clips, to count or check a model. Empty for most models.

    Args:
        model: says what it needs.
        x_BTCHW: the clips, on any device.
        boxes_per_frame: N of "boxes".

    Raises:
        ValueError: the model names something that no example exists for.
    """
    makers = {"boxes": lambda: _boxes(x_BTCHW, boxes_per_frame), "bank": lambda: _bank(x_BTCHW, model)}
    if unknown := [name for name in model.side_inputs if name not in makers]:
        raise ValueError(f"{type(model).__name__}: no example of the side input {unknown[0]!r}")
    return {name: makers[name]() for name in model.side_inputs}


def _boxes(x_BTCHW: Tensor, count: int) -> Tensor:
    """Overlapping squares on the diagonal, [B, T, N, 4]."""
    start_N = torch.linspace(0.0, 0.5, count, device=x_BTCHW.device)
    boxes_N4 = torch.stack([start_N, start_N, start_N + 0.5, start_N + 0.5], dim=1)
    return boxes_N4.expand(*x_BTCHW.shape[:2], count, 4)


def _bank(x_BTCHW: Tensor, model: VideoModel) -> Tensor:
    """Waves of different lengths, [B, W, 1 + C]. Of several features, the last one is absent."""
    assert model.bank_shape is not None, "a model that reads a bank says its shape"
    window, channels = model.bank_shape
    places_W1 = torch.arange(1, window + 1, device=x_BTCHW.device, dtype=torch.float32)[:, None]
    values_WC = (places_W1 * torch.arange(1, channels + 1, device=x_BTCHW.device)).sin().square()
    there_W1 = torch.ones_like(places_W1)
    if window > 1:
        there_W1[-1] = 0
    bank_WC = torch.cat([there_W1, values_WC * there_W1], dim=1)
    return bank_WC.expand(len(x_BTCHW), -1, -1)

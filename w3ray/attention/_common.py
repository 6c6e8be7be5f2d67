"""The interface of all attention modules.

Every attention is a module built as `Kind(channels, config)` with the attributes below and
`forward(x_BTCHW, identity_BTCHW=None) -> AttentionOutput`. The input may have any strides: 2D networks pass a view of
[B*T, C, H, W], 3D networks pass a transposed view of [B, C, T, H, W]. Neither is copied.

Axes: B clips, T frames, C channels, H height, W width.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from w3ray.attention.options import Placement

Past = Callable[[Tensor, int, int], Tensor]
"""`past(x, count, dim)`: x with the `count` frames before its first one in front, along axis `dim`."""


def with_zeros(x: Tensor, count: int, dim: int) -> Tensor:
    """The past of the first frame of a clip: nothing. `w3ray.models.streaming` replaces it by what was there."""
    shape = list(x.shape)
    shape[dim] = count
    return torch.cat([x.new_zeros(shape), x], dim=dim)


class AttentionOutput(NamedTuple):
    """The attended features, and the spatial mask if the attention has one."""

    x_BTCHW: Tensor
    mask_BTHW: Tensor | None


class Attention(Protocol):
    """The interface of all attentions in `w3ray.attention.ATTENTION`."""

    placement: Placement
    """"before": on the residual branch, before the shortcut is added; "after": on the finished block."""
    has_spatial_mask: bool
    """Whether `AttentionOutput.mask_BTHW` is a tensor."""
    norm_gain: float
    """Factor for the scale and shift of the norm before the attention; applied when the attention enters a network."""
    constant_start: float | None
    """The exact value of every gate at the start. None: the gates depend on the features, or there are no gates."""

    def __call__(self, x_BTCHW: Tensor, identity_BTCHW: Tensor | None = None) -> AttentionOutput:
        """Attend to `x_BTCHW`, then add `identity_BTCHW` (the block's shortcut) if given."""
        ...

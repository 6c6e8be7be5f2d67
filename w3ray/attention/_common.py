"""What does an attention module owe the block it sits in?

Every attention is a module built as `Kind(channels, **options)` with the two attributes below and
`forward(x_BTCHW, identity_BTCHW=None) -> AttentionOutput`. The input may have any strides: folded 2D networks hand in
a view of [B*T, C, H, W], 3D networks a transposed view of [B, C, T, H, W], and neither is copied.

Axes: B clips, T frames, C channels, H height, W width.
"""

from typing import NamedTuple, Protocol

from torch import Tensor

from w3ray.attention.options import Placement


class AttentionOutput(NamedTuple):
    """The attended features and, where the attention has one, its spatial mask."""

    x_BTCHW: Tensor
    mask_BTHW: Tensor | None


class Attention(Protocol):
    """The interface of all attentions in `w3ray.attention.ATTENTION`."""

    placement: Placement
    """"before": on the residual branch, before the shortcut is added; "after": on the finished block."""
    has_spatial_mask: bool
    """Whether `AttentionOutput.mask_BTHW` is a tensor."""
    norm_gain: float
    """By how much scale and shift of the norm before it are multiplied when it enters a network."""
    constant_start: float | None
    """What each gate of a fresh one is, exactly; None: its gates depend on the features, or it has none."""

    def __call__(self, x_BTCHW: Tensor, identity_BTCHW: Tensor | None = None) -> AttentionOutput:
        """Attend to `x_BTCHW`, then add `identity_BTCHW` (the block's shortcut) where it is given."""
        ...

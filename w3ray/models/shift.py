"""The temporal shift: features move along time at no cost (Lin et al., TSM, arXiv:1811.08383, Fig. 1).

Axes: N = B*T folded frames, T frames, C channels, H height, W width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.attention._common import Past
from w3ray.models.options import ShiftMode, TSMOptions


def _shift(x_BTCHW: Tensor, *, past: slice, future: slice) -> Tensor:
    """Channels in `past` come from the frame before, channels in `future` from the frame after. Borders are zero."""
    if torch.compiler.is_compiling():
        return _shift_without_writes(x_BTCHW, past=past, future=future)
    out_BTCHW = x_BTCHW.clone(memory_format=torch.preserve_format)
    out_BTCHW[:, 1:, past] = x_BTCHW[:, :-1, past]
    out_BTCHW[:, :1, past] = 0
    out_BTCHW[:, :-1, future] = x_BTCHW[:, 1:, future]
    out_BTCHW[:, -1:, future] = 0
    return out_BTCHW


def _shift_without_writes(x_BTCHW: Tensor, *, past: slice, future: slice) -> Tensor:
    """As `_shift`. One of the two slices begins at channel 0, and the other one follows it or is empty.

    For compilers: after a convolution, torch 2.15 compiles the writes into parts of a tensor to code that gives NaN.
    """
    from_past = F.pad(x_BTCHW[:, :-1, past], (0, 0, 0, 0, 0, 0, 1, 0))
    from_future = F.pad(x_BTCHW[:, 1:, future], (0, 0, 0, 0, 0, 0, 0, 1))
    parts = [from_past, from_future] if past.start <= future.start else [from_future, from_past]
    return torch.cat([*parts, x_BTCHW[:, :, max(past.stop, future.stop) :]], dim=2)


class _TemporalShift(torch.autograd.Function):
    """A shift with the opposite shift as its gradient. It makes one copy; slicing would make several zero tensors."""

    @staticmethod
    def forward(ctx: Any, x_BTCHW: Tensor, past: slice, future: slice) -> Tensor:
        ctx.past, ctx.future = past, future
        return _shift(x_BTCHW, past=past, future=future)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _TemporalShift.apply(grads[0], ctx.future, ctx.past), None, None


def temporal_shift(x_NCHW: Tensor, num_frames: int, shift_div: int = 8, mode: ShiftMode = "bidirectional") -> Tensor:
    """Shift 1/shift_div of the channels in each direction of time ("bidirectional"), or only forwards ("online").

    Bidirectional: the first C // shift_div channels come from the next frame, and the second C // shift_div channels
    from the previous frame (the order of the published checkpoints). Online: the first C // shift_div channels come
    from the previous frame, and none from the next.

    Args:
        x_NCHW: [B * num_frames, C, H, W].
        num_frames: T.

    Returns:
        A new tensor of the same shape. Frames outside the clip count as zero.
    """
    fold = x_NCHW.shape[1] // shift_div
    if mode == "bidirectional":
        past, future = slice(fold, 2 * fold), slice(0, fold)
    else:
        past, future = slice(0, fold), slice(0, 0)
    return _TemporalShift.apply(x_NCHW.unflatten(0, (-1, num_frames)), past, future).flatten(0, 1)


class TemporalShift(nn.Module):
    """`temporal_shift` as a module without parameters."""

    def __init__(self, shift_div: int = 8, mode: ShiftMode = "bidirectional") -> None:
        super().__init__()
        TSMOptions(shift_div=shift_div, shift_mode=mode)
        self.shift_div = shift_div
        self.mode = mode
        self.past: Past | None = None
        """Online: the frames before the first one, if they are not zero (`w3ray.models.streaming`)."""

    def forward(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        """[B*T, C, H, W] -> the same shape, shifted along T."""
        if self.past is None:
            return temporal_shift(x_NCHW, num_frames, self.shift_div, self.mode)
        x_BTCHW = x_NCHW.unflatten(0, (-1, num_frames))
        fold = x_NCHW.shape[1] // self.shift_div
        before_BTCHW = self.past(x_BTCHW[:, :, :fold], 1, 1)[:, :-1]
        return torch.cat([before_BTCHW, x_BTCHW[:, :, fold:]], dim=2).flatten(0, 1)

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"shift_div={self.shift_div}, mode={self.mode!r}"

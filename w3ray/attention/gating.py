"""Pooling and gating of features with little memory traffic.

An attention module does little arithmetic. Most of its time is spent reading and writing whole feature maps.
Autograd's gradient of a maximum makes boolean maps and integer counts of full size: on a CPU, ten times the cost of
the forward pass. Autograd's gradient of `addcmul` makes an extra product. The two functions here have hand-written
gradients with fewer passes. On CPUs they process the features in parts that stay in cache, and allocate nothing large
except the result. Compilers fuse by themselves, so they get the plain formulas, without writes into parts of a tensor.
On GPUs, `triton_kernels` replaces the passes by kernels that read and write the features once.

Axes: B clips, T frames, C channels, H height, W width.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from w3ray.errors import InputError

PART_BYTES = 1 << 20
"""Size of the parts in which a CPU processes the features. A part has at least one frame."""

Part = tuple[slice, slice]
"""Clips and frames of a part."""

_use_triton = False


@contextmanager
def triton_kernels(wanted: bool) -> Iterator[None]:
    """Inside the `with` block, features on a GPU are pooled and gated by Triton kernels, if `wanted`.

    The kernels (`w3ray.attention.gating_triton`) change the last bits of a result. The setting is one of the whole
    process. On a CPU it has no effect.

    Raises:
        InputError: there is a GPU, but no Triton.
    """
    global _use_triton
    if wanted and torch.cuda.is_available() and find_spec("triton") is None:
        raise InputError("train.triton: the package triton is not installed; install it, or set train.triton=false")
    before, _use_triton = _use_triton, wanted
    try:
        yield
    finally:
        _use_triton = before


def _kernels(x_BTCHW: Tensor, dims: tuple[int, ...]) -> Any:
    """The module of Triton kernels if these features are for it, else None."""
    if not _use_triton or torch.compiler.is_compiling():
        return None
    if x_BTCHW.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return None
    kernels = import_module("w3ray.attention.gating_triton")
    return kernels if kernels.fits(x_BTCHW, dims) else None


def _parts(x_BTCHW: Tensor) -> list[Part]:
    """The parts of a pass. On GPUs each launch costs time: they get one part."""
    whole = slice(None)
    if x_BTCHW.device.type != "cpu":
        return [(whole, whole)]
    B, T, *frame = x_BTCHW.shape
    frame_bytes = x_BTCHW.element_size() * frame[0] * frame[1] * frame[2]
    frames = max(1, PART_BYTES // max(1, frame_bytes))
    if frames >= T:
        clips = frames // max(1, T)
        return [(slice(b, b + clips), whole) for b in range(0, B, clips)]
    return [(slice(b, b + 1), slice(t, t + frames)) for b in range(B) for t in range(0, T, frames)]


class _MeanMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTCHW: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        ctx.dims = dims
        if (kernels := _kernels(x_BTCHW, dims)) is not None:
            mean, maximum, count = kernels.mean_max(x_BTCHW, dims)
            ctx.save_for_backward(x_BTCHW, maximum, count)
            return mean, maximum
        if torch.compiler.is_compiling():
            mean, maximum = x_BTCHW.mean(dim=dims, keepdim=True), x_BTCHW.amax(dim=dims, keepdim=True)
        else:
            shape = [1 if dim in dims else length for dim, length in enumerate(x_BTCHW.shape)]
            mean, maximum = x_BTCHW.new_empty(shape), x_BTCHW.new_empty(shape)
            for part in _parts(x_BTCHW):
                mean[part] = x_BTCHW[part].mean(dim=dims, keepdim=True)
                maximum[part] = x_BTCHW[part].amax(dim=dims, keepdim=True)
        ctx.save_for_backward(x_BTCHW, maximum)
        return mean, maximum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_maximum: Tensor) -> tuple[Tensor, None]:
        x_BTCHW, maximum, *count = ctx.saved_tensors
        if count:
            kernels = import_module("w3ray.attention.gating_triton")
            return kernels.mean_max_gradient(x_BTCHW, maximum, *count, grad_mean, grad_maximum, ctx.dims), None
        grad_mean = grad_mean / (x_BTCHW.numel() // max(1, maximum.numel()))
        if torch.compiler.is_compiling():
            greatest = (x_BTCHW == maximum).to(x_BTCHW.dtype)
            return greatest * (grad_maximum / greatest.sum(dim=ctx.dims, keepdim=True)) + grad_mean, None
        grad_BTCHW = torch.empty_like(x_BTCHW)
        for part in _parts(x_BTCHW):
            slot = grad_BTCHW[part]
            # The result is written as floats: on CPUs a boolean result and its sum are not vectorised.
            torch.eq(x_BTCHW[part], maximum[part], out=slot)
            # Equal maxima share the gradient, as in torch.amax.
            share = grad_maximum[part] / slot.sum(dim=ctx.dims, keepdim=True)
            slot.mul_(share).add_(grad_mean[part])
        return grad_BTCHW, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTCHW: Tensor, gate: Tensor, shortcut_BTCHW: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_BTCHW, gate)
        ctx.has_shortcut = shortcut_BTCHW is not None
        return x_BTCHW * gate if shortcut_BTCHW is None else torch.addcmul(shortcut_BTCHW, x_BTCHW, gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTCHW: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x_BTCHW, gate = ctx.saved_tensors
        dims = tuple(dim for dim in (2, 3, 4) if gate.shape[dim] == 1)
        shortcut = grad_BTCHW if ctx.has_shortcut else None
        if (kernels := _kernels(x_BTCHW, dims)) is not None:
            return *kernels.gate_gradient(x_BTCHW, gate, grad_BTCHW, dims), shortcut
        if torch.compiler.is_compiling():
            return grad_BTCHW * gate, (grad_BTCHW * x_BTCHW).sum(dim=dims, keepdim=True), shortcut
        grad_gate, grad_x_BTCHW = torch.empty_like(gate), torch.empty_like(x_BTCHW)
        for part in _parts(x_BTCHW):
            slot = grad_x_BTCHW[part]
            torch.mul(grad_BTCHW[part], x_BTCHW[part], out=slot)
            grad_gate[part] = slot.sum(dim=dims, keepdim=True)
            torch.mul(grad_BTCHW[part], gate[part], out=slot)
        return grad_x_BTCHW, grad_gate, shortcut


def mean_max(x_BTCHW: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and maximum over `dims`, a subset of (2, 3, 4). These axes stay, with length 1. Differentiable once."""
    return _MeanMax.apply(x_BTCHW, dims)


def apply_gate(x_BTCHW: Tensor, gate: Tensor, shortcut_BTCHW: Tensor | None = None) -> Tensor:
    """x * gate (+ shortcut) in one pass. Differentiable once.

    Args:
        x_BTCHW: features, of any strides.
        gate: [B, T, C, 1, 1] or [B, T, 1, H, W], of the same dtype.
        shortcut_BTCHW: shape and dtype of the features.
    """
    return _Gate.apply(x_BTCHW, gate, shortcut_BTCHW)

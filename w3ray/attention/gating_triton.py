"""The passes of `w3ray.attention.gating` as Triton kernels, each with the least memory traffic that is possible.

Pooling reads the features once, and its gradient reads and writes them once. The gradient of a gate reads features and
gradient once and writes once; the plain formulas take twice as many passes. Sums are kept in float32 (float64 for
float64 features), in a fixed order: there is nothing atomic, so equal inputs give equal bits.

All kernels see the features as N frames of K x R values, one value of the result for each k: pooling over the pixels
has the channels as K and the pixels as R, pooling over the channels the other way round. Strides are arguments, so
features of any memory order are taken if their pixels are evenly spaced.

This module imports triton, so it is imported only where kernels are wanted. With TRITON_INTERPRET=1 the kernels run on
a CPU, for tests.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048
"""Values that a program has in registers at once."""
_NARROW = 32
"""Neighbours in memory that one program reads together, at least."""


@triton.jit
def _pool(
    x_ptr, mean_ptr, maximum_ptr, count_ptr, T, K, R, stride_b, stride_t, stride_k, stride_r,
    BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Mean, maximum, and how often the maximum occurs."""
    blocks = tl.cdiv(K, BLOCK_K)
    n, k = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    frame = x_ptr + (n // T).to(tl.int64) * stride_b + (n % T).to(tl.int64) * stride_t
    total = tl.zeros((BLOCK_K,), SUM)
    maximum = tl.full((BLOCK_K,), float("-inf"), SUM)
    count = tl.zeros((BLOCK_K,), SUM)
    for start in range(0, R, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        inside = (k < K)[:, None] & (r < R)[None, :]
        x = tl.load(frame + k[:, None] * stride_k + r[None, :] * stride_r, mask=inside, other=float("-inf")).to(SUM)
        total += tl.sum(tl.where(inside, x, 0.0), axis=1)
        greater = tl.maximum(maximum, tl.max(x, axis=1))
        equal = tl.where(inside & (x == greater[:, None]), 1.0, 0.0).to(SUM)
        count = tl.where(maximum == greater, count, 0.0) + tl.sum(equal, axis=1)
        maximum = greater
    maximum = tl.where(total == total, maximum, total)  # like torch, not a number if one value is none
    place = n.to(tl.int64) * K + k
    tl.store(mean_ptr + place, total / R, mask=k < K)
    tl.store(maximum_ptr + place, maximum, mask=k < K)
    tl.store(count_ptr + place, count, mask=k < K)


@triton.jit
def _pool_gradient(
    x_ptr, maximum_ptr, count_ptr, grad_mean_ptr, grad_maximum_ptr, grad_ptr, T, K, R,
    stride_b, stride_t, stride_k, stride_r, out_b, out_t, out_k, out_r,
    BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Equal maxima share their gradient, as in torch.amax."""
    blocks = tl.cdiv(K, BLOCK_K)
    n, k = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    b, t = (n // T).to(tl.int64), (n % T).to(tl.int64)
    place = n.to(tl.int64) * K + k
    maximum = tl.load(maximum_ptr + place, mask=k < K, other=0.0).to(SUM)
    share = tl.load(grad_maximum_ptr + place, mask=k < K, other=0.0).to(SUM)
    share /= tl.load(count_ptr + place, mask=k < K, other=1.0).to(SUM)
    mean = tl.load(grad_mean_ptr + place, mask=k < K, other=0.0).to(SUM) / R
    for start in range(0, R, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        inside = (k < K)[:, None] & (r < R)[None, :]
        source = x_ptr + b * stride_b + t * stride_t + k[:, None] * stride_k + r[None, :] * stride_r
        x = tl.load(source, mask=inside, other=0.0).to(SUM)
        grad = tl.where(x == maximum[:, None], share[:, None], 0.0) + mean[:, None]
        tl.store(grad_ptr + b * out_b + t * out_t + k[:, None] * out_k + r[None, :] * out_r, grad, mask=inside)


@triton.jit
def _gate_gradient(
    x_ptr, gate_ptr, grad_ptr, grad_x_ptr, grad_gate_ptr, T, K, R,
    stride_b, stride_t, stride_k, stride_r, grad_b, grad_t, grad_k, grad_r, out_b, out_t, out_k, out_r,
    BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Gradients of x * gate: for x, gradient * gate; for the gate, the sum of gradient * x."""
    blocks = tl.cdiv(K, BLOCK_K)
    n, k = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    b, t = (n // T).to(tl.int64), (n % T).to(tl.int64)
    place = n.to(tl.int64) * K + k
    gate = tl.load(gate_ptr + place, mask=k < K, other=0.0).to(SUM)
    total = tl.zeros((BLOCK_K,), SUM)
    for start in range(0, R, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        inside = (k < K)[:, None] & (r < R)[None, :]
        x_place = x_ptr + b * stride_b + t * stride_t + k[:, None] * stride_k + r[None, :] * stride_r
        grad_place = grad_ptr + b * grad_b + t * grad_t + k[:, None] * grad_k + r[None, :] * grad_r
        grad = tl.load(grad_place, mask=inside, other=0.0).to(SUM)
        total += tl.sum(grad * tl.load(x_place, mask=inside, other=0.0).to(SUM), axis=1)
        out = grad_x_ptr + b * out_b + t * out_t + k[:, None] * out_k + r[None, :] * out_r
        tl.store(out, grad * gate[:, None], mask=inside)
    tl.store(grad_gate_ptr + place, total, mask=k < K)


class _Plan(NamedTuple):
    """How a kernel walks over features."""

    num_programs: int
    T: int
    K: int
    R: int
    block_k: int
    block_r: int
    sum_type: Any


def fits(x_BTCHW: Tensor, dims: tuple[int, ...]) -> bool:
    """Whether the kernels can reduce these features over `dims`."""
    return _even(x_BTCHW) and x_BTCHW.numel() > 0 and x_BTCHW.is_floating_point() and dims in ((3, 4), (2,))


def mean_max(x_BTCHW: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, maximum, and the count of the maximum, over `dims`, which keep length 1."""
    plan = _plan(x_BTCHW, dims)
    shape = [1 if dim in dims else length for dim, length in enumerate(x_BTCHW.shape)]
    mean, maximum = x_BTCHW.new_empty(shape), x_BTCHW.new_empty(shape)
    count = x_BTCHW.new_empty(shape, dtype=torch.float64 if x_BTCHW.dtype == torch.float64 else torch.float32)
    with _on(x_BTCHW):
        _pool[(plan.num_programs,)](x_BTCHW, mean, maximum, count, *plan[1:4], *_strides(x_BTCHW, dims), *plan[4:])
    return mean, maximum, count


def mean_max_gradient(
    x_BTCHW: Tensor, maximum: Tensor, count: Tensor, grad_mean: Tensor, grad_maximum: Tensor, dims: tuple[int, ...]
) -> Tensor:
    """Gradient of the features from those of mean and maximum."""
    plan, grad_BTCHW = _plan(x_BTCHW, dims), torch.empty_like(x_BTCHW)
    small = maximum, count, grad_mean.contiguous(), grad_maximum.contiguous()
    with _on(x_BTCHW):
        _pool_gradient[(plan.num_programs,)](
            x_BTCHW, *small, grad_BTCHW, *plan[1:4], *_strides(x_BTCHW, dims), *_strides(grad_BTCHW, dims), *plan[4:]
        )
    return grad_BTCHW


def gate_gradient(x_BTCHW: Tensor, gate: Tensor, grad_BTCHW: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Gradients of the features and of the gate, which has length 1 in `dims`."""
    plan, grad_x_BTCHW = _plan(x_BTCHW, dims), torch.empty_like(x_BTCHW)
    gate, grad_BTCHW = gate.contiguous(), grad_BTCHW if _even(grad_BTCHW) else grad_BTCHW.contiguous()
    grad_gate = torch.empty_like(gate)
    strides = [stride for one in (x_BTCHW, grad_BTCHW, grad_x_BTCHW) for stride in _strides(one, dims)]
    with _on(x_BTCHW):
        _gate_gradient[(plan.num_programs,)](
            x_BTCHW, gate, grad_BTCHW, grad_x_BTCHW, grad_gate, *plan[1:4], *strides, *plan[4:]
        )
    return grad_x_BTCHW, grad_gate


def _plan(x_BTCHW: Tensor, dims: tuple[int, ...]) -> _Plan:
    B, T, C, H, W = x_BTCHW.shape
    K, R = (H * W, C) if dims == (2,) else (C, H * W)
    _, _, stride_k, stride_r = _strides(x_BTCHW, dims)
    if stride_k < stride_r:  # neighbours in memory belong to different results
        block_k = min(triton.next_power_of_2(K), _NARROW)
        block_r = min(triton.next_power_of_2(R), _TILE // block_k)
    else:
        block_r = min(triton.next_power_of_2(R), _TILE // 2)
        block_k = min(triton.next_power_of_2(K), max(1, _TILE // 2 // block_r))
    sum_type = tl.float64 if x_BTCHW.dtype == torch.float64 else tl.float32
    return _Plan(B * T * triton.cdiv(K, block_k), T, K, R, block_k, block_r, sum_type)


def _even(x_BTCHW: Tensor) -> bool:
    """Whether the pixels of a frame are evenly spaced in memory."""
    *_, H, W = x_BTCHW.shape
    *_, stride_h, stride_w = x_BTCHW.stride()
    return H == 1 or W == 1 or stride_h == W * stride_w


def _strides(x_BTCHW: Tensor, dims: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Between clips, frames, results and reduced values."""
    b, t, c, h, w = x_BTCHW.stride()
    pixel = w if x_BTCHW.shape[4] > 1 else h
    return (b, t, pixel, c) if dims == (2,) else (b, t, c, pixel)


def _on(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device_of(x) if x.is_cuda else nullcontext()

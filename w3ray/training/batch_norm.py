"""Which batch norms learn from the batch, do ranks share their statistics, and which rows must they ignore?

A mode changes the class of the batch-norm modules in place. So the names of parameters and buffers stay (checkpoints
fit any mode), the parameters stay the same objects, copies keep the mode, and a later `model.train()` cannot undo it.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

BatchNormMode = Literal["train", "partial", "frozen", "sync"]
BATCH_NORM_MODES: tuple[str, ...] = get_args(BatchNormMode)


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""torch's batch norms. The classes of this module are subclasses of them."""
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


class _Frozen(nn.Module):
    """Always uses its running statistics and never changes them, in training mode too."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class FrozenBatchNorm1d(_Frozen, nn.BatchNorm1d):
    """BatchNorm1d that stays in evaluation mode."""


class FrozenBatchNorm2d(_Frozen, nn.BatchNorm2d):
    """BatchNorm2d that stays in evaluation mode."""


class FrozenBatchNorm3d(_Frozen, nn.BatchNorm3d):
    """BatchNorm3d that stays in evaluation mode."""


class _SumOverRanks(torch.autograd.Function):
    """All-reduce. Its derivative is the all-reduce of the gradients."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm(nn.BatchNorm1d):
    """Batch norm over the clips of all ranks.

    torch's SyncBatchNorm runs only on accelerators and cannot ignore the rows of a rank. This class runs wherever
    torch.distributed runs. A rank with only padding (`ignore_rows`) still takes part in every reduction, with count 0,
    so that no other rank waits for it. Inputs may have any number of axes; BatchNorm1d is the base class only because
    of its parameters.
    """

    ignore_rows = False

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SyncedBatchNorm expects (N, C, ...), got {input.dim()} dimensions")

    def forward(self, input: Tensor) -> Tensor:
        distributed = dist.is_available() and dist.is_initialized()
        if not self.training or not (distributed or self.ignore_rows):
            return super().forward(input)
        if not distributed:
            return _normalize_with_running(self, input)
        dims = [dim for dim in range(input.dim()) if dim != 1]
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        rows = 0 if self.ignore_rows else input.numel() // input.shape[1]
        # Two small reductions, not one of sum and sum of squares: in float32 their difference would lose precision.
        local_var_C, local_mean_C = torch.var_mean(wide, dims, correction=0)
        count_1 = local_mean_C.new_full((1,), float(rows))
        sums = _SumOverRanks.apply(torch.cat([local_mean_C * rows, count_1]))
        count = sums[-1].detach()
        mean_C = sums[:-1] / count.clamp(min=1)
        squares_C = _SumOverRanks.apply((local_var_C + (local_mean_C - mean_C).square()) * rows)
        var_C = squares_C / count.clamp(min=1)
        self._update_running(mean_C.detach(), var_C.detach(), count)
        shape = [1, -1] + [1] * (input.dim() - 2)
        scale_C = torch.rsqrt(var_C + self.eps)
        shift_C = -mean_C * scale_C
        if self.affine:
            shift_C = shift_C * self.weight + self.bias
            scale_C = scale_C * self.weight
        return (wide * scale_C.view(shape) + shift_C.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _update_running(self, mean_C: Tensor, var_C: Tensor, count: Tensor) -> None:
        """Update as torch does: exponential average, unbiased variance. No change if no rank had a row."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        seen = count > 0
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += seen.to(self.num_batches_tracked.dtype)
        if self.momentum is None:
            factor = 1.0 / self.num_batches_tracked.clamp(min=1).to(mean_C.dtype)
        else:
            factor = torch.full_like(count, self.momentum)
        factor = torch.where(seen, factor, torch.zeros_like(factor))
        unbiased_C = var_C * count / (count - 1).clamp(min=1)
        self.running_mean += factor * (mean_C - self.running_mean)
        self.running_var += factor * (unbiased_C - self.running_var)


def _normalize_with_running(module: BatchNorm, input: Tensor) -> Tensor:
    return nn.functional.batch_norm(
        input, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps
    )


_FROZEN: dict[type[nn.Module], Any] = {
    nn.BatchNorm1d: FrozenBatchNorm1d,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.BatchNorm3d: FrozenBatchNorm3d,
}


def apply_batch_norm_mode(model: nn.Module, mode: BatchNormMode = "train") -> nn.Module:
    """Set how the model's batch norms behave in training, in place. Returns the model.

    "train": each rank uses the statistics of its own microbatch. "partial": TSM's partial batch norm; all batch norms
    except the first are frozen. "frozen": all are frozen. "sync": statistics over the microbatches of all ranks. A
    frozen batch norm keeps its statistics, weight and bias, as in TSM. Call this before DDP and before the optimizer is
    built.

    Raises:
        ValueError: the mode is unknown, a batch norm already has another mode, or the mode would have no effect because
            the model has no batch norm.
    """
    if mode not in BATCH_NORM_MODES:
        raise ValueError(f"unknown batch-norm mode {mode!r}: known are {', '.join(BATCH_NORM_MODES)}")
    if mode == "train":
        return model
    modules = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    if not modules:
        raise ValueError(f"batch-norm mode {mode!r} has no effect: {type(model).__name__} has no batch norm")
    unknown = [module for module in modules if type(module) not in _FROZEN]
    if unknown:
        raise ValueError(f"batch-norm mode {mode!r} cannot be set: the model already has a {type(unknown[0]).__name__}")
    if mode == "sync":
        for module in modules:
            module.__class__ = SyncedBatchNorm
        return model
    for module in modules[1:] if mode == "partial" else modules:
        module.__class__ = _FROZEN[type(module)]
        module.train(False)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return model


class _RestingSynced(_Frozen, SyncedBatchNorm):
    """SyncedBatchNorm that stays in evaluation mode."""


class _Resting1d(FrozenBatchNorm1d):
    pass


class _Resting2d(FrozenBatchNorm2d):
    pass


class _Resting3d(FrozenBatchNorm3d):
    pass


# Classes of their own: a batch norm that rests is woken later, one that a mode froze is not.
_RESTING: dict[type[nn.Module], Any] = {
    nn.BatchNorm1d: _Resting1d,
    nn.BatchNorm2d: _Resting2d,
    nn.BatchNorm3d: _Resting3d,
    SyncedBatchNorm: _RestingSynced,
}
_AWAKE: dict[type[nn.Module], Any] = {resting: awake for awake, resting in _RESTING.items()}


def rest_batch_norms(model: nn.Module, frozen: Collection[str]) -> None:
    """Let the batch norms rest whose parameters all rest, and wake those that rested before, in place.

    Args:
        model: the network; a mode may have been applied.
        frozen: names of the parameters that rest.
    """
    for name, module in model.named_modules():
        own = [f"{name}.{one}" for one, _ in module.named_parameters(recurse=False)]
        rests = bool(own) and all(one in frozen for one in own)
        if rests and type(module) in _RESTING:
            module.__class__ = _RESTING[type(module)]
            module.train(False)
        elif not rests and type(module) in _AWAKE:
            module.__class__ = _AWAKE[type(module)]


@contextmanager
def rows_hidden_from_batch_norm(model: nn.Module) -> Iterator[None]:
    """Inside the `with` block, forward passes change no batch norm. For padding that only takes part in DDP."""
    plain = []
    synced = []
    for module in model.modules():
        if isinstance(module, SyncedBatchNorm):
            synced.append(module)
        elif isinstance(module, BATCH_NORMS) and module.training:
            plain.append(module)
    for module in plain:
        module.training = False
    for module in synced:
        module.ignore_rows = True
    try:
        yield
    finally:
        for module in plain:
            module.training = True
        for module in synced:
            module.ignore_rows = False


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Replace the running statistics of all batch norms by their mean over ranks, in one all-reduce.

    Ranks see different clips. Without this, the saved model would hold the statistics of rank 0 only, and validation
    counts would depend on which rank scored which clip. With one rank, or outside torch.distributed, this does nothing.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    buffers = [
        buffer
        for module in model.modules()
        if isinstance(module, BATCH_NORMS)
        for buffer in module.buffers(recurse=False)
    ]
    if not buffers:
        return
    # In float64, buffers that are equal on all ranks come back with the same bits.
    flat = torch.cat([buffer.reshape(-1).to(torch.float64) for buffer in buffers])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_((mean if buffer.is_floating_point() else mean.round()).view_as(buffer))

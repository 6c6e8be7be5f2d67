"""What makes the same arithmetic faster on a GPU: a compiler, the memory order of the weights, and TF32.

All three change the last bits of a result. They also work on a CPU, except TF32, which has no effect there.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from torch import nn

_BY_AXES = {4: torch.channels_last, 5: torch.channels_last_3d}


def compiled(model: nn.Module, backend: str = "inductor") -> nn.Module:
    """A module that runs `model` as compiled code, and shares its parameters, buffers and mode.

    `model` itself stays as it is, and calls of it are not compiled. So its parameters keep their names, and code that
    puts hooks on its parts (the meter of gates, Grad-CAM) works as ever: compiled code may not notice a new hook.

    Wrap the result in DistributedDataParallel, not the other way round. For a model that is wrapped already, torch's
    compiler cuts the graph where DDP starts to reduce, and it cannot do so beside the hand-written gradients of W3 and
    TSM. The price: the reduction starts when the whole backward pass is done.

    Args:
        model: the network.
        backend: of `torch.compile`.
    """
    # Each shape of the input has its own code. In training nearly all microbatches have the same.
    return cast(nn.Module, torch.compile(model, dynamic=False, backend=backend))


def is_compiled(model: nn.Module) -> bool:
    """Whether `model`, wrapped in DistributedDataParallel or not, is a result of `compiled`."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return hasattr(inner, "_orig_mod")


def without_compiler(model: nn.Module) -> AbstractContextManager[object]:
    """The context in which a result of `compiled` runs uncompiled, for shapes that are too rare to compile them."""
    return torch.compiler.set_stance("force_eager") if is_compiled(model) else nullcontext()


def weights_channels_last(model: nn.Module) -> nn.Module:
    """Store the weights of 2D and 3D convolutions with the channels last, in place. Returns the model.

    `normalize_clips` delivers frames in this order. Otherwise a GPU reorders the weights in each step. All values,
    names and parameters stay the same.
    """
    for parameter in model.parameters():
        if (order := _BY_AXES.get(parameter.dim())) is not None:
            parameter.data = parameter.data.contiguous(memory_format=order)
    return model


@contextmanager
def tf32(allowed: bool | None) -> Iterator[None]:
    """Inside the `with` block, fp32 convolutions and matrix products on a GPU do or do not use TF32.

    TF32 rounds the factors to 10 bits after the point. The setting is one of the whole process. None leaves it to
    torch, which uses TF32 for convolutions and not for matrix products.
    """
    if allowed is None:
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    _set_tf32(allowed, allowed)
    try:
        yield
    finally:
        _set_tf32(*before)


def _set_tf32(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions

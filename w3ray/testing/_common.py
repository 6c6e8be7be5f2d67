"""Functions that all checks share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

SEED = 0


class ContractBroken(AssertionError):
    """A part does not keep the contract of its family."""


def require(holds: Any, message: str) -> None:
    if not holds:
        raise ContractBroken(message)


@contextmanager
def seeded() -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


def close(one: "Tensor", other: "Tensor", message: str, *, rtol: float, atol: float) -> None:
    import torch

    same = one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=rtol, atol=atol)
    require(same, message)


def require_gradients(module: "nn.Module", what: str) -> None:
    missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    require(not missing, f"{what}: {', '.join(missing[:3])} gets no gradient: the forward pass does not use it")
    bad = [name for name, one in module.named_parameters() if one.grad is not None and not one.grad.isfinite().all()]
    require(not bad, f"{what}: the gradient of {', '.join(bad[:3])} is not finite")

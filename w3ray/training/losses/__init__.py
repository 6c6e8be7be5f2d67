"""Which losses can a recipe use? A new loss is one file here and one row in LOSSES. The table does not import torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from w3ray._registry import Registry, lazy_attributes

if TYPE_CHECKING:
    from w3ray.training.losses._common import Loss, LossInputs
    from w3ray.training.losses.build import build_losses
    from w3ray.training.losses.cross_entropy import CrossEntropy
    from w3ray.training.losses.mfr import MatureFeatures, PooledMatureFeatures, SquaredMatureFeatures

LOSSES: "Registry[Callable[..., Loss]]" = Registry(
    {
        "cross_entropy": "w3ray.training.losses.cross_entropy:CrossEntropy",
        "mfr": "w3ray.training.losses.mfr:MatureFeatures",
        "mfr_squared": "w3ray.training.losses.mfr:SquaredMatureFeatures",
        "mfr_pooled": "w3ray.training.losses.mfr:PooledMatureFeatures",
    }
)
"""Name -> class of the loss."""

TEACHER_LOSSES = ("mfr", "mfr_squared", "mfr_pooled")
"""The losses that compare with a teacher. Listed here, so that they are known without importing torch."""

__all__ = [
    "LOSSES",
    "TEACHER_LOSSES",
    "CrossEntropy",
    "Loss",
    "LossInputs",
    "MatureFeatures",
    "PooledMatureFeatures",
    "SquaredMatureFeatures",
    "build_losses",
    "weights_by_head",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "CrossEntropy": "w3ray.training.losses.cross_entropy",
        "Loss": "w3ray.training.losses._common",
        "LossInputs": "w3ray.training.losses._common",
        "MatureFeatures": "w3ray.training.losses.mfr",
        "PooledMatureFeatures": "w3ray.training.losses.mfr",
        "SquaredMatureFeatures": "w3ray.training.losses.mfr",
        "build_losses": "w3ray.training.losses.build",
    },
)


def weights_by_head(weights: Mapping[str, float], heads: Sequence[str]) -> dict[str, float]:
    """The weights with `cross_entropy` split into one weight for each head. With one head (no names): unchanged.

    Raises:
        ValueError: a weight names an unknown head.
    """
    for name in weights:
        kind, dot, head = name.partition(".")
        if dot and (kind != "cross_entropy" or head not in heads):
            known = ", ".join(f"cross_entropy.{head}" for head in heads) or "none, because a clip has one label"
            raise ValueError(f"unknown loss {name!r}: the losses of single heads are {known}")
    if not heads:
        return dict(weights)
    of_head = {f"cross_entropy.{head}": weights.get("cross_entropy", 0.0) for head in heads}
    rest = {name: weight for name, weight in weights.items() if name != "cross_entropy"}
    return {**of_head, **rest}

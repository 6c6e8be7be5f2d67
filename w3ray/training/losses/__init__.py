"""Which losses can a recipe weigh? A new one is a file here and a row in LOSSES. The table needs no torch."""

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
"""Those that compare with a teacher; to be known without torch."""

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
    """`cross_entropy` as a weight for each of several heads, by name; as it is where there is one head (no names).

    Raises:
        ValueError: a weight of a head that there is not.
    """
    for name in weights:
        kind, dot, head = name.partition(".")
        if dot and (kind != "cross_entropy" or head not in heads):
            known = ", ".join(f"cross_entropy.{head}" for head in heads) or "none, the clips have one label each"
            raise ValueError(f"unknown loss {name!r}: losses of single heads are {known}")
    if not heads:
        return dict(weights)
    of_head = {f"cross_entropy.{head}": weights.get("cross_entropy", 0.0) for head in heads}
    rest = {name: weight for name, weight in weights.items() if name != "cross_entropy"}
    return {**of_head, **rest}

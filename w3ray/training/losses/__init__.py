"""Which losses can a recipe weigh? A new one is a file here and a row in LOSSES. The table needs no torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from w3ray._table import Table, lazy_attributes

if TYPE_CHECKING:
    from w3ray.training.losses._common import Loss, LossInputs
    from w3ray.training.losses.build import build_losses
    from w3ray.training.losses.cross_entropy import CrossEntropy
    from w3ray.training.losses.mfr import MatureFeatures

LOSSES: "Table[Callable[..., Loss]]" = Table(
    {
        "cross_entropy": "w3ray.training.losses.cross_entropy:CrossEntropy",
        "mfr": "w3ray.training.losses.mfr:MatureFeatures",
    }
)
"""Name -> class of the loss."""

__all__ = ["LOSSES", "CrossEntropy", "Loss", "LossInputs", "MatureFeatures", "build_losses"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "CrossEntropy": "w3ray.training.losses.cross_entropy",
        "Loss": "w3ray.training.losses._common",
        "LossInputs": "w3ray.training.losses._common",
        "MatureFeatures": "w3ray.training.losses.mfr",
        "build_losses": "w3ray.training.losses.build",
    },
)

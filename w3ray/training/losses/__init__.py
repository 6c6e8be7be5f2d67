"""Which losses can a recipe use? A new loss is one file here and one row in LOSSES. The table does not import torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w3ray._registry import Registry, attribute, lazy_attributes

if TYPE_CHECKING:
    from w3ray.training.losses._common import Loss, LossInputs
    from w3ray.training.losses.binary_cross_entropy import BinaryCrossEntropy
    from w3ray.training.losses.build import build_losses
    from w3ray.training.losses.cross_entropy import CrossEntropy
    from w3ray.training.losses.mfr import MatureFeatures, PooledMatureFeatures, SquaredMatureFeatures


@dataclass(frozen=True, slots=True)
class LossKind:
    """A row of the table: the loss, or "module:class" of it, imported on first use."""

    place: "str | Callable[..., Loss]"
    needs_teacher: bool = False
    """Whether the loss compares with a teacher. Said here, so that it is known without importing torch."""
    multi_label: bool = False
    """Whether the loss is right for multi-label clips: it reads `classes_BK` of its inputs, or no labels at all."""

    def __call__(self, **options: Any) -> "Loss":
        """The loss itself: `Loss` is the interface."""
        loss: Loss = attribute(self.place)(**options)
        return loss


def _fault(name: str, row: Any) -> str | None:
    if not isinstance(row, LossKind):
        return f"it must be a LossKind(loss, needs_teacher=...), not {row!r}"
    return "a dot in a name stands before the name of a head" if "." in name else None


_MFR = "w3ray.training.losses.mfr"

LOSSES: Registry[LossKind] = Registry(
    "losses",
    {
        "cross_entropy": LossKind("w3ray.training.losses.cross_entropy:CrossEntropy"),
        "binary_cross_entropy": LossKind(
            "w3ray.training.losses.binary_cross_entropy:BinaryCrossEntropy", multi_label=True
        ),
        "mfr": LossKind(f"{_MFR}:MatureFeatures", needs_teacher=True, multi_label=True),
        "mfr_squared": LossKind(f"{_MFR}:SquaredMatureFeatures", needs_teacher=True, multi_label=True),
        "mfr_pooled": LossKind(f"{_MFR}:PooledMatureFeatures", needs_teacher=True, multi_label=True),
    },
    fault=_fault,
    contract="w3ray.testing:check_loss",
)
"""Name -> its row: what a recipe and the training step need."""

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Loss",
    "LossInputs",
    "LossKind",
    "MatureFeatures",
    "PooledMatureFeatures",
    "SquaredMatureFeatures",
    "build_losses",
    "check_uneven_of_sets",
    "weights_by_head",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "BinaryCrossEntropy": "w3ray.training.losses.binary_cross_entropy",
        "CrossEntropy": "w3ray.training.losses.cross_entropy",
        "Loss": "w3ray.training.losses._common",
        "LossInputs": "w3ray.training.losses._common",
        "MatureFeatures": "w3ray.training.losses.mfr",
        "PooledMatureFeatures": "w3ray.training.losses.mfr",
        "SquaredMatureFeatures": "w3ray.training.losses.mfr",
        "build_losses": "w3ray.training.losses.build",
    },
)


def check_uneven_of_sets(class_weights: str | None, logit_adjustment: float) -> None:
    """Raises: ValueError if a treatment of uneven classes is not for the binary cross-entropy."""
    if class_weights not in (None, "balanced"):
        raise ValueError(
            f"class_weights={class_weights} is for clips with one class each; with binary cross-entropy it must be "
            "balanced or null"
        )
    if logit_adjustment > 0:
        raise ValueError(
            "logit_adjustment is for clips with one class each; with binary cross-entropy, set it to 0 and "
            "class_weights to balanced"
        )


def weights_by_head(
    weights: Mapping[str, float], heads: Sequence[str], *, multi_label: bool = False
) -> dict[str, float]:
    """The weights with `cross_entropy` split into one weight for each head. With one head (no names): unchanged.

    The classification loss of multi-label clips is the binary cross-entropy: `binary_cross_entropy` then has the weight
    of `cross_entropy`, unless it has its own.

    Raises:
        ValueError: a weight names an unknown head, a binary cross-entropy of several heads, or a loss that is not for
            multi-label clips.
    """
    for name in weights:
        kind, dot, head = name.partition(".")
        if dot and (kind != "cross_entropy" or head not in heads):
            known = ", ".join(f"cross_entropy.{head}" for head in heads) or "none, because a clip has one label"
            raise ValueError(f"unknown loss {name!r}: the losses of single heads are {known}")
    if multi_label:
        rest = {name: weight for name, weight in weights.items() if name != "cross_entropy"}
        for name, weight in rest.items():
            if weight > 0 and name in LOSSES and not LOSSES[name].multi_label:
                raise ValueError(f"{name} is for clips with one class each, but these are multi-label; set it to 0")
        return {"binary_cross_entropy": weights.get("cross_entropy", 0.0), **rest}
    if not heads:
        return dict(weights)
    if weights.get("binary_cross_entropy", 0.0) > 0:
        raise ValueError(f"binary_cross_entropy is for one head, but the clips have {', '.join(heads)}; remove it")
    of_head = {f"cross_entropy.{head}": weights.get("cross_entropy", 0.0) for head in heads}
    rest = {name: weight for name, weight in weights.items() if name != "cross_entropy"}
    return {**of_head, **rest}

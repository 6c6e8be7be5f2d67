"""Which losses does a stage minimise, and with which weights?"""

from collections.abc import Mapping

from w3ray.training.losses import LOSSES
from w3ray.training.losses._common import Loss


def build_losses(weights: Mapping[str, float], *, label_smoothing: float = 0.0) -> dict[str, tuple[float, Loss]]:
    """The losses named in `weights` with their weights; one of weight 0 is left out and costs nothing.

    Raises:
        ValueError: unknown name, negative weight, or nothing left to minimise.
    """
    unknown = sorted(set(weights) - set(LOSSES))
    if unknown:
        raise ValueError(f"unknown loss {unknown[0]!r}: known are {', '.join(LOSSES)}")
    negative = [name for name, weight in weights.items() if not weight >= 0]
    if negative:
        raise ValueError(f"loss weight {negative[0]} must be >= 0, got {weights[negative[0]]}")
    options: dict[str, dict[str, float]] = {"cross_entropy": {"label_smoothing": label_smoothing}}
    built = {
        name: (float(weight), LOSSES[name](**options.get(name, {}))) for name, weight in weights.items() if weight > 0
    }
    if not built:
        raise ValueError(f"no loss has a weight above 0: {dict(weights)}")
    return built

"""Which losses does a stage minimise, and with which weights?"""

from collections.abc import Mapping
from typing import Any

from w3ray.heads import Heads
from w3ray.training.losses import LOSSES, weights_by_head
from w3ray.training.losses._common import Loss
from w3ray.training.losses.uneven import Uneven


def build_losses(
    weights: Mapping[str, float],
    *,
    label_smoothing: float = 0.0,
    heads: Heads | None = None,
    uneven: Uneven | None = None,
) -> dict[str, tuple[float, Loss]]:
    """The losses named in `weights`, with their weights. A loss with weight 0 is left out and costs nothing.

    With several heads, each head has its own cross-entropy: `cross_entropy.verb` and `cross_entropy.noun`. A weight of
    this name is for this head only. The weight `cross_entropy` is for all heads without their own weight. For
    multi-label clips, it is the weight of the binary cross-entropy.

    Raises:
        ValueError: unknown name, negative weight, or nothing is left to minimise.
    """
    if heads is None:
        weights = weights_by_head(weights, ())
    else:
        weights = weights_by_head(weights, heads.names, multi_label=heads.multi_label)
    unknown = sorted(name for name in weights if name.partition(".")[0] not in LOSSES)
    if unknown:
        raise ValueError(f"unknown loss {unknown[0]!r}: known are {', '.join(LOSSES)}")
    negative = [name for name, weight in weights.items() if not weight >= 0]
    if negative:
        raise ValueError(f"loss weight {negative[0]} must be >= 0, got {weights[negative[0]]}")
    by_name = {head.name: head for head in heads.each()} if heads is not None else {}
    built = {}
    for name, weight in weights.items():
        kind, _, head = name.partition(".")
        options: dict[str, Any] = {}
        if kind in ("cross_entropy", "binary_cross_entropy"):
            options = {"label_smoothing": label_smoothing, "uneven": uneven}
        if weight > 0:
            built[name] = (float(weight), LOSSES[kind](**options, **({"head": by_name[head]} if head else {})))
    if not built:
        raise ValueError(f"no loss has a weight above 0: {dict(weights)}")
    return built

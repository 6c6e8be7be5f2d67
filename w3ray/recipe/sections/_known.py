"""Is this name known? Names of models, decoders, losses and samplings are looked up in their tables.

A table is imported only when a recipe uses a name from it, so importing the sections does not import torch.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import AfterValidator

from w3ray._nearest import did_you_mean

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names are used as folders, run names and parts of a command line."""


def known_in(what: str, table: Callable[[], Mapping[str, Any]]) -> AfterValidator:
    """A validator: the name must be in the table. The table is imported only when a name is checked."""

    def check(name: str) -> str:
        known = table()
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; {did_you_mean(name, known)}known: {', '.join(known)}")
        return name

    return AfterValidator(check)


def models() -> Mapping[str, Any]:
    from w3ray.models import MODELS

    return MODELS


def backbones() -> Mapping[str, Any]:
    from w3ray.models import BACKBONES

    return BACKBONES


def decoders() -> Mapping[str, Any]:
    from w3ray.data.decoders import DECODERS

    return DECODERS


def check_loss(name: str) -> str:
    """Check the name of a loss, or of a loss for a single head: `cross_entropy.verb`."""
    kind, dot, head = name.partition(".")
    if dot and (kind != "cross_entropy" or not head):
        raise ValueError(f"unknown loss {name!r}; only cross_entropy has parts, such as cross_entropy.verb")
    known = losses()
    if kind not in known:
        raise ValueError(f"unknown loss {name!r}; {did_you_mean(kind, known)}known: {', '.join(known)}")
    return name


def samplers() -> Mapping[str, Any]:
    from w3ray.data.clip_sampling import SAMPLERS

    return SAMPLERS


def losses() -> Mapping[str, Any]:
    from w3ray.training.losses import LOSSES

    return LOSSES

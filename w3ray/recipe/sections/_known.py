"""Validators for names of models, decoders, losses and samplings: a name must be in its table.

A table is imported only when a recipe uses a name from it, so importing the sections does not import torch.
"""

from pydantic import AfterValidator

from w3ray._nearest import did_you_mean
from w3ray.plugins import table

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Allowed names: they are used as folders, as run names and on command lines."""


def known_in(what: str, family: str) -> AfterValidator:
    """A validator: the name must be in the family's table. If it names a plugin, the plugin must load."""

    def check(name: str) -> str:
        known = table(family)
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"unknown {what} {name!r}; {hint}known: {', '.join(known) or 'none'}")
        known.row(name)
        return name

    return AfterValidator(check)


def check_loss(name: str) -> str:
    """Check the name of a loss, or of a loss for a single head, such as `cross_entropy.verb`."""
    kind, dot, head = name.partition(".")
    if dot and (kind != "cross_entropy" or not head):
        raise ValueError(f"unknown loss {name!r}; only cross_entropy can name a head, such as cross_entropy.verb")
    known = table("losses")
    if kind not in known:
        raise ValueError(f"unknown loss {name!r}; {did_you_mean(kind, known)}known: {', '.join(known)}")
    known.row(kind)
    return name

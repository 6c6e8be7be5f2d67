"""The tensor names of public weight files, and their names in w3ray's models."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

UNUSED = "unused:"
"""`rename` puts this before the name of a tensor that the network has no place for. It is reported as left out."""


class KeyLayout(NamedTuple):
    """One way in which files name a network's tensors."""

    name: str
    example: str
    """A key of such a file, for messages."""
    matches: Callable[[Collection[str]], bool]
    """Whether a file with these keys has this layout."""
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """Renames the file's tensors to the names of `model.state_dict()`."""


def rename_backbone(state: Mapping[str, Tensor], layouts: Iterable[KeyLayout], prefix: str = "") -> dict[str, Tensor]:
    """The names of a backbone's tensors in a network that is built around it.

    Args:
        state: tensors of the backbone alone.
        layouts: the backbone's own layouts. If none matches, its tensors have the names of the backbone itself.
        prefix: of all keys of the file; it is removed.
    """
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    for layout in layouts:
        if layout.matches(state):
            return layout.rename(state)
    return {f"backbone.{key}": value for key, value in state.items()}


_NESTED = re.compile(r"(^|\.)(conv|downsample)(\d*)\.(conv|bn)\.(\w+)$")


def plain_resnet_key(key: str) -> str:
    """torchvision's name of a tensor of mmaction2's 2D ResNet, which nests convolution and norm in one module.

    `layer1.0.conv2.bn.weight` -> `layer1.0.bn2.weight`.
    """
    return _NESTED.sub(_unnested, key)


def _unnested(found: re.Match[str]) -> str:
    before, outer, number, inner, tensor = found.groups()
    if outer == "downsample":
        return f"{before}downsample.{int(inner == 'bn')}.{tensor}"
    return f"{before}{inner}{number}.{tensor}"

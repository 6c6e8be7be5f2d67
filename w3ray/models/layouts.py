"""The tensor names of public weight files, and their names in w3ray's models."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from torch import Tensor


class KeyLayout(NamedTuple):
    """One way in which files name a network's tensors."""

    name: str
    example: str
    """A key of such a file, for messages."""
    matches: Callable[[Collection[str]], bool]
    """Whether a file with these keys has this layout."""
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """Renames the file's tensors to the names of `model.state_dict()`."""

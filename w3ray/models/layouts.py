"""How are the tensors of a public file of weights called in our models?"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from torch import Tensor


class KeyLayout(NamedTuple):
    """A way in which files name a network's tensors."""

    name: str
    example: str
    """A key of such a file, for messages."""
    matches: Callable[[Collection[str]], bool]
    """Whether these keys are of it."""
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """The file's tensors under the names of `model.state_dict()`."""

"""How can a family's names be known before its members, and what they import, are needed?"""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def attribute(place: str) -> Any:
    """What "module:attribute" names; the module is imported."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


class Registry(Mapping[str, T], Generic[T]):
    """Name -> member, from "module:attribute" strings: a recipe's names are checked in no time, without torch."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> T:
        return attribute(self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


def lazy_attributes(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562) for public names that are imported on first use; `places`: name -> module."""

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(places[name]), name)

    return __getattr__

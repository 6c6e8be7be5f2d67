"""Searchers propose the next point. A new searcher is a file here and a row in the table.

A searcher has no state of its own: point `number` is a function of the space, its seed and the known results of the
other points. So a killed sweep continues exactly as if it had not been killed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from w3ray._registry import Registry
from w3ray.recipe import Recipe
from w3ray.sweep.space import Point, Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A point as a searcher sees it."""

    point: Point
    values: tuple[float, ...] | None
    """The value of each objective; None: the point is running or has failed."""
    at_work: bool = False
    number: int = -1
    """Number in this sweep; -1: the point belongs to another sweep."""


class Searcher(Protocol):
    """Proposes points."""

    def __init__(self, space: Space, base: Recipe) -> None: ...

    @property
    def most(self) -> int | None:
        """How many points there can be; None: any number."""

    def propose(self, number: int, known: Sequence[Known]) -> Point:
        """Point `number`, counted from 0.

        Args:
            known: the ended points, in the order in which they ended, then the running ones.
        """


SEARCHERS: Registry[Any] = Registry(
    "searchers",
    {
        "grid": "w3ray.sweep.searchers.grid:Grid",
        "random": "w3ray.sweep.searchers.random:Random",
        "tpe": "w3ray.sweep.searchers.tpe:TPE",
    },
    contract="w3ray.testing:check_searcher",
)
"""Name -> searcher."""

__all__ = ["SEARCHERS", "Known", "Searcher"]

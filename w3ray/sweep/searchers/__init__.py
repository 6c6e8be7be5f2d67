"""Who proposes the next point? One file each; a new searcher is a file here and a row in the table.

A searcher has no state of its own: what it proposes as point `number` is a function of the space, its seed and what is
known of the other points. So a sweep that was killed goes on as if it had not been.
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
    """Of each objective; None: it is at work, or it failed."""
    at_work: bool = False
    number: int = -1
    """In this sweep; -1: it is of another one."""


class Searcher(Protocol):
    """Proposes points."""

    def __init__(self, space: Space, base: Recipe) -> None: ...

    @property
    def most(self) -> int | None:
        """How many points there can be; None: any number."""

    def propose(self, number: int, known: Sequence[Known]) -> Point:
        """Point `number`, counted from 0.

        Args:
            known: the points that have ended, in that order, then those at work.
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

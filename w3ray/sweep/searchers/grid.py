"""Every combination of a space's values, once, in order."""

from collections.abc import Sequence

from w3ray.recipe import Recipe
from w3ray.sweep.searchers import Known
from w3ray.sweep.space import Point, Space


class Grid:
    """See `Searcher`. Raises InputError if a parameter has no list of values."""

    def __init__(self, space: Space, base: Recipe) -> None:
        self._points = list(space.grid_points(base))

    @property
    def most(self) -> int | None:
        return len(self._points)

    def propose(self, number: int, known: Sequence[Known]) -> Point:
        return self._points[number]

"""Independent random draws; cases and `grid` values are taken in turn, so that each is tried equally often."""

from collections.abc import Sequence

from w3ray.data.schedule import stable_key
from w3ray.recipe import Recipe
from w3ray.sweep.searchers import Known
from w3ray.sweep.space import Point, Space

_SHARES = 1 << 53  # a float64 can tell this many apart


class Random:
    """See `Searcher`."""

    def __init__(self, space: Space, base: Recipe) -> None:
        self._space, self._base = space, base

    @property
    def most(self) -> int | None:
        return None

    def propose(self, number: int, known: Sequence[Known]) -> Point:
        grid: dict[str, object] = {}
        turn = number
        for name, values in self._space.grid_dimensions().items():
            turn, place = divmod(turn, len(values))
            grid[name] = values[place]
        return self._space.resolve(
            self._base, lambda name: grid[name] if name in grid else self._draw(name, number, turn)
        )

    def _draw(self, name: str, number: int, turn: int) -> object:
        # One turn uses the same draws for the whole grid, so differences within a turn come from the grid alone.
        return self._space.parameters[name].at(share(self._space.search.seed, name, turn))


def share(seed: int, name: str, number: int) -> float:
    """A number in [0, 1) that depends only on the arguments."""
    return stable_key("sweep", seed, name, number) % _SHARES / _SHARES

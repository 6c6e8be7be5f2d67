"""Population based training (Jaderberg et al., arXiv:1711.09846): optimiser settings that change while models train.

A population trains for some epochs (a generation). Then the worst members continue from the weights of one of the best
members, with its settings changed slightly. Ray Tune's own scheduler decides by timing and by the random state of its
process: results cannot be reproduced, and a killed sweep cannot continue. Here a generation completes before the next
one is decided, and the decision depends only on the space, its seed and the known results. A member trains a recipe
with `train.phases`; its first epochs are reused by content (`w3ray.pipeline.prefix`). So a sweep can continue after any
kill, and its best model is a recipe that anyone can train again.
"""

import math
from collections.abc import Sequence
from typing import Any

from w3ray.errors import InputError
from w3ray.recipe import Phase, Recipe
from w3ray.sweep.searchers import Known, Searcher
from w3ray.sweep.searchers.random import share
from w3ray.sweep.space import Parameter, Point, Space, usual_stage

DEFAULT_MEMBERS = 8
_FACTORS = (0.8, 1.2)
_TRIES = 8
"""Draws until the settings differ from those that another member got from the same donor."""
_FIELDS = tuple(name for name in Phase.model_fields if name != "from_epoch")


class Population:
    """Point `number` is member `number % members` in generation `number // members`.

    Args:
        space, base: the parameters must be settings that can change during training.
        first: proposes the first generation.

    Raises:
        InputError: population based training cannot search the space.
    """

    def __init__(self, space: Space, base: Recipe, first: Searcher) -> None:
        self._space, self._first = space, first
        stage = usual_stage(space, base)
        self._stage, train = stage.name, stage.train
        self.epochs, self._interval = train.epochs, space.scheduling.interval_epochs
        self.members = space.search.trials or (first.most if first.most is not None else DEFAULT_MEMBERS)
        self.generations = -(-self.epochs // self._interval)
        self._refuse(train.validate_every_epochs)

    def _refuse(self, validate_every: int) -> None:
        name = self._space.name
        allowed = [f"stages.{self._stage}.train.{field}" for field in _FIELDS]
        for parameter in self._space.parameters:
            if parameter not in allowed:
                raise InputError(
                    f"{name}: parameters.{parameter}: pbt changes settings while stage {self._stage} trains; it can "
                    f"change only {', '.join(allowed)}"
                )
        if self._space.cases or self._space.search.repeats > 1:
            raise InputError(f"{name}: scheduling.scheduler: pbt supports neither cases nor search.repeats")
        if self._interval % validate_every:
            raise InputError(
                f"{name}: scheduling.interval_epochs: pbt compares members every {self._interval} epochs, which must "
                f"be a multiple of train.validate_every_epochs ({validate_every})"
            )
        if self.members < 2:
            raise InputError(f"{name}: search.trials: pbt needs a population of at least 2, got {self.members}")

    @property
    def most(self) -> int | None:
        return self.members * self.generations

    def waits_for(self, number: int) -> int:
        """How many points must have ended before point `number` can be proposed: all earlier generations."""
        return number // self.members * self.members

    def stops_after(self, number: int) -> int | None:
        """Epochs after which the run of point `number` ends; None: last generation, the run goes to the end."""
        generation = number // self.members
        return None if generation == self.generations - 1 else (generation + 1) * self._interval

    def propose(self, number: int, known: Sequence[Known]) -> Point:
        """See `Searcher.propose`."""
        generation, member = divmod(number, self.members)
        if not generation:
            return self._first.propose(number, known)
        start = (generation - 1) * self.members
        before = {one.number - start: one for one in known if start <= one.number < start + self.members}
        order = sorted(before, key=lambda place: self._rank(before[place], place))
        count = max(1, int(self._space.scheduling.quantile * self.members))
        if member in before and member not in order[-count:]:
            return before[member].point
        donor = order[int(share(self._seed, "donor", number) * count)]
        if donor == member or self._rank(before[donor], donor)[0] == math.inf:
            return before[member].point  # no other member is better
        siblings = [one.point for one in known if generation * self.members <= one.number < number]
        salts = range(_TRIES)
        points = (self._changed(before[donor].point, generation * self._interval, f"{number}/{salt}") for salt in salts)
        return next((point for point in points if point not in siblings), before[member].point)

    @property
    def _seed(self) -> int:
        return self._space.search.seed

    def _rank(self, known: Known, place: int) -> tuple[float, int]:
        value = math.nan if known.values is None else known.values[0]
        if math.isnan(value):
            return math.inf, place
        return (value if self._space.objectives[0].lower_is_better else -value), place

    def _changed(self, point: Point, epoch: int, draw: str) -> Point:
        """The point of a better member, with changed settings from `epoch` on."""
        place = f"stages.{self._stage}.train.phases"
        phases: list[dict[str, Any]] = list(point.get(place, []))
        now = {name: point[name] for name in self._space.parameters if name in point}
        for phase in phases:
            now |= {name: phase[field] for name in now if (field := name.rpartition(".")[2]) in phase}
        changed = {
            name.rpartition(".")[2]: self._explore(name, self._space.parameters[name], value, draw)
            for name, value in now.items()
        }
        return {**point, place: [*phases, {"from_epoch": epoch, **changed}]}

    def _explore(self, name: str, parameter: Parameter, value: Any, draw: str) -> Any:
        if share(self._seed, f"resample {name} {draw}", 0) < self._space.scheduling.resample:
            return parameter.at(share(self._seed, f"again {name} {draw}", 0))
        up = share(self._seed, f"factor {name} {draw}", 0) >= 0.5
        if (values := parameter.values) is not None:
            place = values.index(value) + (1 if up else -1)
            return values[min(max(place, 0), len(values) - 1)]
        least, most = parameter.bounds
        return min(max(value * _FACTORS[up], least), most)

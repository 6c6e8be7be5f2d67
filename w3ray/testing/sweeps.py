"""The contracts of searchers and schedulers."""

import math
from collections.abc import Sequence
from typing import Any

from w3ray.testing._common import require


def check_searcher(name: str) -> None:
    """Check a searcher of `w3ray.sweep.searchers.SEARCHERS`: it proposes the same points for the same results."""
    from w3ray.recipe import load_recipe
    from w3ray.sweep.searchers import SEARCHERS, Known
    from w3ray.sweep.space import Space, recipe_at

    base = load_recipe("quickstart")
    space = Space.model_validate(
        {
            "name": "contract",
            "parameters": {
                "model.attention.reduction": {"choice": [2, 4, 8, 16]},
                "stages.student.loss_weights.mfr": {"uniform": [0.0, 1.0], "step": 0.25},
            },
            "search": {"searcher": name},
        }
    )

    def searched() -> Sequence[Any]:
        searcher = SEARCHERS[name](space, base)
        known: list[Known] = []
        most = 8 if searcher.most is None else min(8, searcher.most)
        for number in range(most):
            point = searcher.propose(number, tuple(known))
            recipe_at(space, base, point)
            known.append(Known(point=point, values=(math.cos(number),), number=number))
        return known

    points = searched()
    require(points, "it proposes no point")
    require(searched() == points, "asked again, it proposes other points: they must depend only on the results so far")


def check_scheduler(name: str) -> None:
    """Check a scheduler of `w3ray.sweep.schedulers.SCHEDULERS`: it makes a scheduler of Ray Tune."""
    from ray.tune.schedulers import TrialScheduler

    from w3ray.sweep.schedulers import SCHEDULERS
    from w3ray.sweep.space import Scheduling

    for mode in ("max", "min"):
        made = SCHEDULERS[name](Scheduling(scheduler=name), 4, mode)
        require(isinstance(made, TrialScheduler), f"it must make a TrialScheduler of Ray Tune, not {made!r}")

"""What would a sweep do: which points, how many trials at once, and which resources for each?"""

from typing import Any

from w3ray._redact import redacted
from w3ray.cluster.connection import Connection
from w3ray.errors import InputError
from w3ray.heads import Heads
from w3ray.pipeline.plan import with_precision_chosen
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.pipeline.tracked import describe_tracking
from w3ray.plugins import check_contracts
from w3ray.recipe import Recipe
from w3ray.sweep.book import points_to_try, searcher_of
from w3ray.sweep.population import Population
from w3ray.sweep.schedulers import SCHEDULERS
from w3ray.sweep.searchers import SEARCHERS
from w3ray.sweep.slots import plan_trials
from w3ray.sweep.space import Space, check_space, usual_recipe


def plan_sweep(space: Space, base: Recipe, *, address: str | None = None) -> dict[str, Any]:
    """What `tune` would do, without doing it: points, trials at once, and the resources of each trial.

    Raises:
        InputError: as `tune`.
    """
    check_sweep(space, base)
    data = prepare_data(usual_recipe(space, base))  # not the base: the space may set other clips for all trials
    check_objectives(space, data.heads)
    connection = Connection(address)
    try:
        base = with_precision_chosen(base, connection)
        stages = plan_stages(usual_recipe(space, base), data)
        nodes = connection.nodes()
    finally:
        connection.close()
    searcher = searcher_of(space, base)
    count = points_to_try(space, searcher)
    concurrency, plan = plan_trials(base, nodes, space.concurrency, count * space.search.repeats)
    known = searcher.members if isinstance(searcher, Population) else count  # later points depend on results
    shown = [searcher.propose(number, []) for number in range(min(count, known, 8))]
    return redacted(
        {
            "space": space.to_dict(),
            "recipe": base.to_dict(),
            "points": count,
            "repeats": space.search.repeats,
            "first_points": shown,
            "concurrency": concurrency,
            "resources": plan.describe(),
            "tracking": describe_tracking(base),
            "stages": [{"name": item.stage.name, "steps": item.total_steps} for item in stages],
        }
    )


def check_objectives(space: Space, heads: Heads) -> None:
    """Raises: InputError if no stage reports an objective, because of what the labels of the clips are."""
    for objective in space.objectives:
        if heads.multi_label and objective.metric in ("top1", "top5", "mean_class_accuracy"):
            raise InputError(
                f"{space.name}: objective.metric: {objective.metric} is not for multi-label clips; set it to map"
            )
        if not heads.multi_label and objective.metric == "map":
            raise InputError(f"{space.name}: objective.metric: map is only for multi-label clips; set it to top1")


def check_sweep(space: Space, base: Recipe) -> None:
    """Raises: InputError if space, searcher and scheduler do not fit the recipe or each other."""
    for what, known, given in (
        ("search.searcher", SEARCHERS, space.search.searcher),
        ("scheduling.scheduler", SCHEDULERS, space.scheduling.scheduler),
    ):
        if given not in known:
            raise InputError(f"{space.name}: {what}: unknown {given!r}; known: {', '.join(known)}")
    check_contracts([("searchers", space.search.searcher), ("schedulers", space.scheduling.scheduler)])
    check_space(space, base)
    if len(space.objectives) > 1 and space.scheduling.scheduler != "none":
        raise InputError(
            f"{space.name}: scheduling.scheduler: {space.scheduling.scheduler} compares trials by one objective, but "
            "there are several; set it to none"
        )
    searcher_of(space, base)  # raises InputError if it cannot search the space

"""What would a run do, and which resources of the cluster would it use? Nothing is started.

Nothing is written either, except initial weights that are elsewhere: their content decides which stages there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from w3ray._redact import redacted
from w3ray.cluster.connection import Connection
from w3ray.cluster.plan import READ_CPUS, ResourcePlan, plan_resources
from w3ray.errors import InputError
from w3ray.pipeline.planned import Planned, weights_taken
from w3ray.pipeline.precision import leaves_precision_open, with_precision
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.pipeline.tracked import describe_tracking
from w3ray.recipe import Recipe, load_recipe


def plan_run(recipe: Recipe | str | Path, *, address: str | None = None) -> dict[str, Any]:
    """What `run` would do, without doing it: the resolved recipe, each stage with its state, and the resource plan.

    Raises:
        InputError: as in `run`.
    """
    recipe = loaded(recipe)
    data = prepare_data(recipe)
    connection = Connection(address)
    try:
        recipe = with_precision_chosen(recipe, connection)
        planned = plan_stages(recipe, data)
        plan = plan_recipe(recipe, connection.nodes())
    finally:
        connection.close()
    stages = [
        {
            "name": item.stage.name,
            "state": item.status.state,
            "why": item.status.why,
            "identity": item.identity,
            "directory": str(item.store.directory),
            "steps_done": item.status.step,
            "total_steps": item.total_steps,
            "weights": _weights(item),
        }
        for item in planned
    ]
    return redacted(
        {
            "recipe": recipe.to_dict(),
            "stages": stages,
            "videos": {"changed": list(data.files.changed), "touched": list(data.files.touched)},
            "resources": plan.describe(),
            "tracking": describe_tracking(recipe),
        }
    )


def _weights(item: Planned) -> dict[str, Any] | None:
    """What a stage that has not begun takes of its initial weights: the fields of `WeightsTaken`."""
    return None if (taken := weights_taken(item)) is None else asdict(taken)


def loaded(recipe: Recipe | str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a caller gave as an object, a name or a path. Raises: InputError as in `load_recipe`."""
    if isinstance(recipe, Recipe):
        if overrides:
            raise InputError("overrides need the name or path of a recipe: a Recipe object is already resolved")
        return recipe
    return load_recipe(recipe, overrides)


def plan_recipe(recipe: Recipe, nodes: Sequence[Mapping[str, float]], *, read_cpus: float = READ_CPUS) -> ResourcePlan:
    """Plan which processes get which resources of a cluster's nodes.

    Raises:
        InputError: the run does not fit on the nodes.
    """
    resources = recipe.resources
    return plan_resources(
        nodes=nodes,
        workers=resources.workers_range,
        use_gpu=resources.use_gpu,
        decoders=resources.decoders,
        cpus_per_worker=resources.cpus_per_worker,
        worker_resources=resources.worker_resources,
        decoder_resources=resources.decoder_resources,
        may_grow=resources.may_grow,
        read_cpus=read_cpus,
    )


def with_precision_chosen(recipe: Recipe, connection: Connection, plan: ResourcePlan | None = None) -> Recipe:
    """The recipe without `train.precision: auto`. Only a recipe that has it waits for the cluster.

    Args:
        recipe: of the run.
        connection: to the cluster.
        plan: of the run; None: it has the whole cluster.

    Raises:
        InputError: nothing can be chosen, or the run does not fit on the cluster.
    """
    if not leaves_precision_open(recipe):
        return recipe
    nodes = connection.nodes()
    return with_precision(recipe, plan_recipe(recipe, nodes) if plan is None else plan, nodes)

"""Which arithmetic does `train.precision: auto` stand for?

It is chosen before anything is identified or stored. So a stage with `auto` is the same stage as one with the chosen
value, and `stage.json` and the workers know only that value.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from w3ray.cluster.accelerators import have_bf16
from w3ray.cluster.plan import ResourcePlan
from w3ray.errors import InputError
from w3ray.recipe import Recipe

AUTO = "auto"


def leaves_precision_open(recipe: Recipe) -> bool:
    """Whether a stage of the recipe has `train.precision: auto`."""
    return any(stage.train.precision == AUTO for stage in recipe.resolved_stages())


def with_precision(recipe: Recipe, plan: ResourcePlan, nodes: Sequence[Mapping[str, float]]) -> Recipe:
    """The recipe with a value for each `auto`: bf16 if all GPUs that a worker may get are known to have it, else fp32.

    Args:
        recipe: without an `auto`, it is returned as it is.
        plan: says whether workers have GPUs.
        nodes: what each node of the cluster has.

    Raises:
        InputError: the cluster adds nodes on request, so the types of its GPUs are not known.
    """
    if not leaves_precision_open(recipe):
        return recipe
    if plan.worker_gpus and recipe.resources.may_grow:
        raise InputError(
            "train.precision: auto needs to know the GPUs, but the cluster adds nodes on request "
            "(resources.may_grow); set it to bf16 or fp32"
        )
    chosen = "bf16" if have_bf16(nodes, plan.worker_bundle()) else "fp32"
    stages = tuple(stage.model_copy(update={"train": _chosen(stage.train, chosen)}) for stage in recipe.stages)
    train = recipe.train
    if train.precision == AUTO:
        train = train.model_copy(update={"precision": chosen})
    return recipe.model_copy(update={"train": train, "stages": stages})


def _chosen(train: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    return {name: chosen if (name, value) == ("precision", AUTO) else value for name, value in train.items()}

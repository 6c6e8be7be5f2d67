"""How many trials run at once, and which resources does each one get?

Each trial owns a share of the cluster from its first process to its last. So no trial ever waits for resources that
another trial holds, and a sweep cannot deadlock.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from w3ray.cluster.plan import READ_CPUS, ResourcePlan, first_without_place
from w3ray.errors import InputError
from w3ray.pipeline.plan import plan_recipe
from w3ray.recipe import Recipe

_MIN_CPUS = 0.05
_MIN_READ_CPUS = 0.05


def plan_trials(
    recipe: Recipe, nodes: Sequence[Mapping[str, float]], concurrency: int | str, most: int
) -> tuple[int, ResourcePlan]:
    """Returns (trials at once, the plan of each trial).

    Args:
        recipe: the recipe of any trial; trials do not differ in the settings that planning uses.
        nodes: the resources of each node of the cluster.
        concurrency: trials at once, or "auto": one GPU (without GPUs: one CPU) for each worker of each trial.
        most: the total number of trials.

    Raises:
        InputError: not even one trial fits, or the requested number of trials does not fit.
    """
    alone = plan_recipe(recipe, nodes)
    if recipe.resources.may_grow:
        return (min(most, concurrency) if isinstance(concurrency, int) else 1), alone
    if concurrency == "auto":
        total = alone.cluster_gpus if alone.worker_gpus else alone.cluster_cpus
        wish = max(1, int(total / alone.workers))
    else:
        wish = int(concurrency)
    for runs in range(min(wish, most), 0, -1):
        plan = alone if runs == 1 else _share_of(recipe, nodes, alone, runs)
        if plan is not None and first_without_place(nodes, plan, runs) is None:
            return runs, plan
        if concurrency != "auto":
            raise InputError(
                f"concurrency: {runs} trials at once do not fit the cluster's {alone.cluster_cpus:g} CPUs and "
                f"{alone.cluster_gpus:g} GPUs; lower it, or set it to auto"
            )
    raise AssertionError("unreachable: one run was planned")


def trains_in_process(nodes: Sequence[Mapping[str, float]], plan: ResourcePlan) -> bool:
    """Whether a trial can train in its own process on the driver's node: it has one worker, which needs no GPU."""
    alone = plan.workers == plan.least_workers == 1 and not plan.worker_gpus and not plan.worker_resources
    return alone and len(nodes) == 1


def _share_of(
    recipe: Recipe, nodes: Sequence[Mapping[str, float]], alone: ResourcePlan, runs: int
) -> ResourcePlan | None:
    """The plan of one of `runs` equal trials; None if the share is too small for a trial."""
    cpus = alone.cluster_cpus / runs
    if alone.worker_gpus:
        # A trainer on a GPU needs one CPU. The other CPUs decode, except the share that reading needs.
        room = int((cpus - alone.workers * alone.worker_cpus - _MIN_READ_CPUS) / alone.decoder_cpus)
        decoders = max(1, min(alone.decoders // runs, room))
        return replace(alone, decoders=decoders, cluster_cpus=cpus, cluster_gpus=alone.cluster_gpus / runs)
    if cpus >= alone.workers:
        shares = [{**node, "CPU": node.get("CPU", 0.0) / runs} for node in nodes]
        try:
            return plan_recipe(recipe, shares, read_cpus=max(_MIN_READ_CPUS, READ_CPUS / runs))
        except InputError:
            return None
    each = math.floor((cpus - _MIN_READ_CPUS) / (alone.workers + 1) * 100) / 100
    if each < _MIN_CPUS:
        return None
    return replace(alone, worker_cpus=each, decoders=1, decoder_cpus=each, trainer_threads=1, cluster_cpus=cpus)

"""Concurrent trials: each has its own share, and all fit together with the resources for reading."""

import pytest

from w3ray.cluster.plan import first_without_place
from w3ray.errors import InputError
from w3ray.recipe import load_recipe
from w3ray.sweep.slots import plan_trials


def recipe(*overrides):
    return load_recipe("quickstart", overrides)


@pytest.mark.parametrize("cpus", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("concurrency", ["auto", 1, 2, 8])
def test_all_trials_fit_at_once(cpus, concurrency):
    nodes = [{"CPU": float(cpus)}]
    if (cpus, concurrency) == (1, 8):
        with pytest.raises(InputError, match="8 trials at once do not fit"):
            plan_trials(recipe(), nodes, concurrency, 100)
        return
    runs, plan = plan_trials(recipe(), nodes, concurrency, 100)
    assert runs == (cpus if concurrency == "auto" else concurrency)
    assert first_without_place(nodes, plan, runs) is None
    used = runs * (plan.workers * plan.worker_cpus + plan.decoders * plan.decoder_cpus)
    assert used <= cpus - 0.05 * runs + 1e-9, "no CPU is left for reading"


def test_a_gpu_for_each_worker():
    nodes = [{"CPU": 32.0, "GPU": 8.0}] * 2
    runs, plan = plan_trials(recipe("resources.workers=4"), nodes, "auto", 100)
    assert (runs, plan.worker_gpus) == (4, 1.0)
    assert first_without_place(nodes, plan, runs) is None
    used = runs * (plan.workers * plan.worker_cpus + plan.decoders * plan.decoder_cpus)
    assert used <= 64 - 0.05 * runs


def test_no_more_at_once_than_there_are_trials():
    assert plan_trials(recipe(), [{"CPU": 16.0}], "auto", 3)[0] == 3


def test_more_than_fit_is_refused_with_the_numbers():
    with pytest.raises(InputError, match="40 trials at once do not fit the cluster's 2 CPUs and 0 GPUs"):
        plan_trials(recipe(), [{"CPU": 2.0}], 40, 100)

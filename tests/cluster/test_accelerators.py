"""The types of GPUs of a cluster are known from its nodes, and plans are made as without them."""

import pytest

from w3ray.cluster.accelerators import have_bf16
from w3ray.cluster.connect import planned_with
from w3ray.cluster.plan import plan_resources, show_resources

WORKER = {"CPU": 1.0, "GPU": 1.0}


def node(*types: str, gpus: float = 2.0, **more: float) -> dict[str, float]:
    return {"CPU": 8.0, "GPU": gpus, **{f"accelerator_type:{one}": 1.0 for one in types}, **more}


@pytest.mark.parametrize(
    ("nodes", "worker", "expected"),
    [
        ([node("A100")], WORKER, True),
        ([node("H100"), node("L4")], WORKER, True),
        ([node("V100")], WORKER, False),
        ([node("T4")], WORKER, False),
        ([node("A100"), node("P100")], WORKER, False),
        ([node("H9000")], WORKER, False),  # not known
        ([node("A100", "V100")], WORKER, False),
        ([node()], WORKER, False),  # Ray did not name the type
        ([node("A100"), node()], WORKER, False),
        ([node("A100"), {"CPU": 8.0}], WORKER, True),  # only decodes
        ([{"CPU": 8.0}], WORKER, False),
        ([node("A100")], {"CPU": 1.0}, False),  # workers compute on CPUs
        ([node("A100", big=1.0), node("V100")], {**WORKER, "big": 1.0}, True),  # workers never get to the other node
        ([node("A100"), node("V100", big=1.0)], {**WORKER, "big": 1.0}, False),
    ],
)
def test_bf16(nodes: list[dict[str, float]], worker: dict[str, float], expected: bool) -> None:
    assert have_bf16(nodes, worker) is expected


def test_ray_names_its_types_so() -> None:
    from ray.util.accelerators import accelerators

    from w3ray.cluster import accelerators as ours

    names = {value for name, value in vars(accelerators).items() if name.startswith("NVIDIA")}
    before_ampere = {"V100", "P100", "T4", "P4", "K80"}
    assert names == {*ours._WITH_BF16, *before_ampere}, "a new type: say whether it has bf16"


def test_what_ray_says_of_a_node_becomes_what_plans_are_made_with() -> None:
    said = {
        "CPU": 8.0,
        "GPU": 1.0,
        "memory": 1e9,
        "object_store_memory": 1e9,
        "node:10.0.0.1": 1.0,
        "node:__internal_head__": 1.0,
        "accelerator_type:A100": 1.0,
        "decode": 2.0,
    }
    found = planned_with(said)
    assert found == {"CPU": 8.0, "GPU": 1.0, "accelerator_type:A100": 1.0, "decode": 2.0}
    assert show_resources(found) == "8 CPU, 1 GPU, 2 decode"


def test_a_plan_does_not_depend_on_the_types() -> None:
    def plan(nodes: list[dict[str, float]]) -> object:
        return plan_resources(nodes=nodes, workers=(1, 2), use_gpu="auto", decoders="auto", cpus_per_worker=None)

    assert plan([node("A100"), node("V100")]) == plan([node(), node()])

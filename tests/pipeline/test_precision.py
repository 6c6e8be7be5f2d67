"""`train.precision: auto` is chosen before a stage has an identity, so it is the stage of the chosen value."""

from types import SimpleNamespace
from typing import Any

import pytest

from w3ray.cluster.plan import READ_CPUS
from w3ray.errors import InputError
from w3ray.pipeline import plan as planning
from w3ray.pipeline.identity import stage_determinants
from w3ray.pipeline.plan import plan_recipe, plan_run, with_precision_chosen
from w3ray.pipeline.precision import with_precision
from w3ray.recipe import Recipe

AMPERE = [{"CPU": 4.0, "GPU": 1.0, "accelerator_type:A100": 1.0}]
BEFORE = [{"CPU": 4.0, "GPU": 1.0, "accelerator_type:V100": 1.0}]
CPUS = [{"CPU": 4.0}]


def recipe(
    storage: Any = "runs", *, precision: str = "auto", student: dict[str, Any] | None = None, **more: Any
) -> Recipe:
    stages = [{"name": "teacher"}, {"name": "student", "train": student or {}}]
    return Recipe.model_validate(
        {
            "name": "x",
            "storage": str(storage),
            "data": {"synthetic": {"clips": 16}},
            "model": {"backbone": "resnet_small"},
            "train": {"epochs": 2, "batch_size": 8, "precision": precision},
            "stages": stages,
            "tracking": {"enabled": False},
            **more,
        }
    )


def precisions(one: Recipe) -> list[str]:
    return [stage.train.precision for stage in one.resolved_stages()]


def chosen(one: Recipe, nodes: list[dict[str, float]]) -> Recipe:
    return with_precision(one, plan_recipe(one, nodes, read_cpus=READ_CPUS), nodes)


@pytest.mark.parametrize(("nodes", "expected"), [(AMPERE, "bf16"), (BEFORE, "fp32"), (CPUS, "fp32")])
def test_is_what_the_gpus_have(nodes: list[dict[str, float]], expected: str) -> None:
    assert precisions(chosen(recipe(), nodes)) == [expected] * 2
    assert chosen(recipe(), nodes) == chosen(recipe(precision=expected), nodes)
    on_cpus = chosen(recipe(resources={"use_gpu": False}), nodes)
    assert precisions(on_cpus) == ["fp32"] * 2


def test_each_stage_may_leave_it_open() -> None:
    one = chosen(recipe(precision="fp16", student={"precision": "auto", "lr": 0.5}), AMPERE)
    assert precisions(one) == ["fp16", "bf16"]
    assert one.resolved_stages()[1].train.lr == 0.5
    assert precisions(chosen(recipe(student={"precision": "fp16"}), AMPERE)) == ["bf16", "fp16"]


def test_a_growing_cluster_is_asked_nothing() -> None:
    growing = {"may_grow": True, "use_gpu": True, "decoders": 1}
    with pytest.raises(InputError, match="set it to bf16 or fp32"):
        chosen(recipe(resources=growing), AMPERE)
    assert precisions(chosen(recipe(resources={**growing, "use_gpu": False}), AMPERE)) == ["fp32"] * 2


def test_what_is_open_has_no_identity() -> None:
    with pytest.raises(ValueError, match="must be chosen"):
        stage_determinants(recipe().resolved_stages()[0], seed=0, data={"m": 1}, weights=None, teacher_identity=None)


class Connection:
    """In place of a cluster."""

    def __init__(self, nodes: list[dict[str, float]]) -> None:
        self.asked, self._nodes = 0, nodes

    def nodes(self) -> list[dict[str, float]]:
        self.asked += 1
        return self._nodes

    def close(self) -> None:
        pass


def test_the_stage_is_that_of_the_chosen_value(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def identities(one: Recipe, nodes: list[dict[str, float]]) -> tuple[list[str], str]:
        monkeypatch.setattr(planning, "Connection", lambda address: Connection(nodes))
        document = plan_run(one)
        return [stage["identity"] for stage in document["stages"]], document["recipe"]["train"]["precision"]

    assert identities(recipe(tmp_path), AMPERE) == identities(recipe(tmp_path, precision="bf16"), AMPERE)
    assert identities(recipe(tmp_path), CPUS) == identities(recipe(tmp_path, precision="fp32"), CPUS)
    assert identities(recipe(tmp_path), CPUS)[0] != identities(recipe(tmp_path), AMPERE)[0]


def test_only_what_is_open_waits_for_the_cluster() -> None:
    cluster: Any = Connection(AMPERE)
    one = recipe(precision="fp16")
    assert with_precision_chosen(one, cluster) is one
    assert cluster.asked == 0
    plan: Any = SimpleNamespace(worker_gpus=0.0, worker_bundle=lambda: {"CPU": 1.0})
    assert precisions(with_precision_chosen(recipe(), cluster, plan)) == ["fp32"] * 2, "a trial has its own plan"

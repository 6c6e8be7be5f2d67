"""Nodes of a cluster come and go: where processes run, and the cost of a node that dies or announces its end."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from fault_harness import (
    CONTROLLER,
    COORDINATOR,
    DECODER,
    MOMENTS,
    WORKER,
    Cost,
    Outcome,
    at_step,
    expected_history,
    faulty_recipe,
    note,
    processes,
    recovery_s,
    stages_to,
)
from patience import wait_while_alive
from small_cluster import SmallCluster

from w3ray.data.sample_log import lines_of, steps_done_again
from w3ray.pipeline import run as run_here

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

_RUN_S = 900


@pytest.fixture
def cluster(tmp_path):
    """A head without CPUs, one node that decodes, two nodes that train."""
    cluster = SmallCluster(tmp_path)
    try:
        cluster.decode = [cluster.add(2, decode=2)]
        cluster.train = [cluster.add(1, trainer=1), cluster.add(1, trainer=1)]
        yield cluster
    finally:
        cluster.close()


class ClusterRun:
    """`w3ray run` on a cluster, in its own process."""

    def __init__(self, cluster: SmallCluster, manifest: Path, storage: Path, **changes) -> None:
        resources = {"worker_resources": {"trainer": 1}, "decoder_resources": {"decode": 1}, "resize_every_s": 3.0}
        self.recipe = recipe = faulty_recipe(
            manifest, storage, **{**changes, "resources": {**resources, **changes.get("resources", {})}}
        )
        self.storage, self.log = storage, storage.parent / "run.log"
        path = storage.parent / "struck.yaml"
        path.write_text(recipe.model_dump_json())  # JSON is YAML
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("w3ray")), "run", str(path), "--address", cluster.address],
                env=cluster.env, stdout=output, stderr=output,
            )  # fmt: skip

    def wait_until(self, condition, every_s=0.02) -> None:
        wait_while_alive(self.process, condition, every_s=every_s, what=self.log.read_text, limit_s=_RUN_S)

    def outcome(self) -> Outcome:
        assert self.process.wait(_RUN_S) == 0, self.log.read_text()
        return Outcome(self.storage)


def test_each_process_is_placed_where_it_belongs(cluster, motion_manifest, tmp_path):
    run = ClusterRun(cluster, motion_manifest, tmp_path / "runs", resources={"workers": 2})
    run.wait_until(at_step(tmp_path / "runs", "teacher", 2))
    root = [psutil.Process(node.process.pid) for node in cluster.nodes]

    def places(title):
        found = [process for one in root for process in processes(title, one)]
        return [next(i for i, node in enumerate(cluster.nodes) if node.holds(process)) for process in found]

    head, decode, train = 0, [1], [2, 3]
    assert sorted(places(WORKER)) == train
    assert places(DECODER) == decode
    assert set(places(CONTROLLER) + places(COORDINATOR)) == {head}
    assert run.outcome().steps_again == 0


def trained_by(storage: Path, workers: int, after_s: float):
    """Whether `workers` workers took a step after this moment of the system clock."""

    def done() -> bool:
        steps: dict[int, set[int]] = {}
        for rank in range(4):
            for path in storage.glob(f"stages/teacher-*/samples-{rank}.jsonl"):
                for line in lines_of(path):
                    if line["kind"] == "train" and line["time_s"] > after_s:
                        steps.setdefault(line["step"], set()).add(rank)
        return any(len(ranks) == workers for step, ranks in steps.items() if step + 1 in steps)

    return done


def test_a_training_node_dies_and_another_one_comes(cluster, motion_manifest, tmp_path):
    """Elastic workers: two, then one, then two again."""
    storage = tmp_path / "runs"
    changes = {"resources": {"workers": (1, 2)}, "train": {"epochs": 90, "validate_every_epochs": 30}}
    run = ClusterRun(cluster, motion_manifest, storage, **changes)
    run.wait_until(trained_by(storage, 2, 0.0))
    struck_at_s = time.time()
    cluster.train[1].kill()
    run.wait_until(trained_by(storage, 1, struck_at_s + 5.0))
    folder = next(storage.glob("stages/teacher-*"))
    seconds, again = recovery_s(folder, struck_at_s), steps_done_again(folder)
    cluster.train.append(cluster.add(1, trainer=1))
    added_at_s = time.time()
    run.wait_until(trained_by(storage, 2, added_at_s))
    outcome = run.outcome()
    expected = expected_history(run.recipe, "teacher")
    assert outcome.samples["teacher"] == expected, (
        "same samples, same order, same crops, whatever the number of workers"
    )
    assert again <= 4
    note(Cost(fault="kill -9: a node that trains (elastic: goes on with the other)", ended=True, steps_again=again,
              lost=0, doubled=0, recovery_s=seconds, identical=None))  # fmt: skip
    note(Cost(fault="a node is added (elastic: one worker more)", ended=True, steps_again=outcome.steps_again - again,
              lost=0, doubled=0, recovery_s=recovery_s(folder, added_at_s), identical=None))  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_training_node_dies_and_its_worker_goes_to_the_other(undisturbed, cluster, motion_manifest, tmp_path, moment):
    storage = tmp_path / "runs"
    stage, when = MOMENTS[moment]
    run = ClusterRun(cluster, motion_manifest, storage, stages=stages_to(stage))
    run.wait_until(at_step(storage, stage, 3))
    at_work = next(node for node in cluster.train if processes(WORKER, psutil.Process(node.process.pid)))
    run.wait_until(when(storage), every_s=0.003)
    struck_at_s = time.time()
    at_work.kill()
    outcome = run.outcome()
    seconds = recovery_s(outcome.folders[stage], struck_at_s)
    cost = outcome.cost(f"kill -9: a node that trains, {moment}", undisturbed, seconds)
    note(cost)
    assert (cost.lost, cost.doubled, cost.identical) == (0, 0, True)
    assert cost.steps_again <= 4


def test_a_node_that_decodes_dies(undisturbed, cluster, motion_manifest, tmp_path):
    storage = tmp_path / "runs"
    cluster.decode.append(cluster.add(2, decode=2))
    run = ClusterRun(cluster, motion_manifest, storage)
    run.wait_until(at_step(storage, "teacher", 9))
    at_work = next(node for node in cluster.decode if processes(DECODER, psutil.Process(node.process.pid)))
    struck_at_s = time.time()
    at_work.kill()
    outcome = run.outcome()
    cost = outcome.cost(
        "kill -9: a node that decodes", undisturbed, recovery_s(outcome.folders["teacher"], struck_at_s)
    )
    note(cost)
    assert (cost.lost, cost.doubled, cost.identical) == (0, 0, True)
    assert cost.steps_again <= 4


def test_a_node_is_announced_to_go_away(ray_session, cluster, motion_manifest, tmp_path):
    """A checkpoint is written in time: no step is done again, although none was due before the validations."""
    # Long enough for Ray's command line to announce the end during training.
    changes = {"train": {"epochs": 100, "validate_every_epochs": 50, "checkpoint_every_steps": 100_000}}
    run_here(faulty_recipe(motion_manifest, tmp_path / "undisturbed", **changes))
    storage = tmp_path / "runs"
    run = ClusterRun(cluster, motion_manifest, storage, **changes)
    run.wait_until(at_step(storage, "teacher", 9))
    at_work = next(node for node in cluster.train if processes(WORKER, psutil.Process(node.process.pid)))
    struck_at_s = time.time()
    cluster.announce_end(at_work, seconds=120)
    run.wait_until(lambda: "a node is being taken away, its state is saved" in run.log.read_text())
    outcome = run.outcome()
    seconds = recovery_s(outcome.folders["teacher"], struck_at_s)
    cost = outcome.cost("preemption with notice", Outcome(tmp_path / "undisturbed"), seconds)
    note(cost)
    assert (cost.steps_again, cost.lost, cost.doubled, cost.identical) == (0, 0, 0, True)


def test_a_cluster_that_grows_brings_the_nodes_that_a_run_asks_for(undisturbed, motion_manifest, tmp_path):
    """Ray's autoscaler, starting with only a head."""
    node_types = {"decode": {"CPU": 2, "decode": 2}, "train": {"CPU": 1, "trainer": 1}}
    cluster = SmallCluster(tmp_path, node_types=node_types)
    try:
        resources = {"may_grow": True, "use_gpu": False, "decoders": 1}
        outcome = ClusterRun(cluster, motion_manifest, tmp_path / "runs", resources=resources).outcome()
    finally:
        cluster.close()
    cost = outcome.cost("a head alone, nodes by autoscaling", undisturbed, None)
    note(cost)
    assert (cost.steps_again, cost.lost, cost.doubled, cost.identical) == (0, 0, 0, True)

"""No wait is endless: for a hanging rank, a lost driver, another run of the same stage, or a full object store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_harness import (
    MOMENTS,
    WORKER,
    Outcome,
    Strike,
    at_step,
    faulty_recipe,
    lines,
    note,
    processes,
    recovery_s,
    stages_to,
    struck_run,
)
from patience import wait_while_alive
from small_cluster import SmallCluster

from w3ray.pipeline import run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

_RUN_S = 900
_STALL_S = 30.0


def command(recipe, folder: Path, *arguments: str) -> list[str]:
    path = folder / "struck.yaml"
    path.write_text(recipe.model_dump_json())  # JSON is YAML
    return [str(Path(sys.executable).with_name("w3ray")), "run", str(path), "--json", *arguments]


def test_a_rank_that_hangs_is_named_and_started_again(ray_session, undisturbed, motion_manifest, tmp_path):
    pair = tmp_path / "pair"
    run(faulty_recipe(motion_manifest, pair, resources={"workers": 2}))
    two = Outcome(pair)
    assert two.samples["teacher"] == undisturbed.samples["teacher"]

    storage = tmp_path / "runs"
    recipe = faulty_recipe(motion_manifest, storage, resources={"workers": 2, "stall_timeout_s": _STALL_S})

    def hang():
        found = processes(WORKER)
        if len(found) == 2:
            os.kill(found[1].pid, signal.SIGSTOP)
        return len(found) == 2

    strike = Strike(at_step(storage, "teacher", 9), hang)
    outcome, told = struck_run(recipe, strike)
    seconds = recovery_s(outcome.folders["teacher"], strike.at_s)
    cost = outcome.cost("SIGSTOP: one of two workers (a wedged collective)", two, seconds)
    note(cost)
    assert any(
        "has sent no heartbeat for" in message and "it hangs, or its node is gone" in message for message in told
    )
    assert (cost.lost, cost.doubled, cost.identical) == (0, 0, True)
    assert cost.steps_again <= 4


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_driver_is_killed_and_the_same_command_goes_on(undisturbed, motion_manifest, tmp_path, moment):
    storage = tmp_path / "runs"
    stage, when = MOMENTS[moment]
    now = when(storage)
    typed = command(faulty_recipe(motion_manifest, storage, stages=stages_to(stage)), tmp_path)
    with (tmp_path / "err").open("a") as err:
        first = subprocess.Popen(typed, stdout=subprocess.DEVNULL, stderr=err)
        wait_while_alive(first, now, every_s=0.003, what=(tmp_path / "err").read_text, limit_s=_RUN_S)
        struck_at_s = time.time()
        first.kill()
        first.wait()
        again = subprocess.run(typed, stdout=subprocess.PIPE, stderr=err, text=True, timeout=_RUN_S)
    assert again.returncode == 0, (tmp_path / "err").read_text()
    assert {one["name"]: one["state"] for one in json.loads(again.stdout)["stages"]}[stage] == "resume"
    outcome = Outcome(storage)
    seconds = recovery_s(outcome.folders[stage], struck_at_s)
    cost = outcome.cost(f"kill -9: driver, {moment}", undisturbed, seconds)
    note(cost)
    assert (cost.lost, cost.doubled, cost.identical) == (0, 0, True)
    assert cost.steps_again <= 4


def test_two_runs_of_one_recipe_at_once(undisturbed, motion_manifest, tmp_path):
    """One works. The other waits, then reuses the result of the first."""
    storage = tmp_path / "runs"
    typed = command(faulty_recipe(motion_manifest, storage), tmp_path)
    with (tmp_path / "err").open("a") as err:
        both = [subprocess.Popen(typed, stdout=subprocess.PIPE, stderr=err, text=True) for _ in range(2)]
        ends = [process.communicate(timeout=_RUN_S)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], (tmp_path / "err").read_text()
    assert sorted(json.loads(end)["stages"][0]["state"] for end in ends) == ["reuse", "run"]
    assert "another run works on teacher-" in (tmp_path / "err").read_text()
    written = [(line["kind"], line["item"]) for line in lines(storage, "teacher")]
    assert len(written) == len(set(written)), "never two writers at once"
    cost = Outcome(storage).cost("two runs of one recipe at once", undisturbed, None)
    note(cost)
    assert (cost.steps_again, cost.lost, cost.doubled, cost.identical) == (0, 0, 0, True)


def test_an_object_store_that_is_too_small(motion_manifest, tmp_path):
    """80 MiB, Ray's minimum, for microbatches of 19 MiB: it may be slower, but it continues."""
    recipe = faulty_recipe(
        motion_manifest,
        tmp_path / "runs",
        data={"num_frames": 16, "size": 224, "sampling": "segment"},
        model={"attention": None},
        train={"epochs": 1, "batch_size": 8, "microbatch_size": 8, "validate_every_epochs": 1, "lr": 0.01},
    )
    cluster = SmallCluster(tmp_path, object_store_mb=80, head_cpus=2)
    try:
        done = subprocess.run(
            command(recipe, tmp_path, "--address", cluster.address), env=cluster.env, capture_output=True, text=True,
            timeout=_RUN_S,
        )  # fmt: skip
    finally:
        cluster.close()
    assert done.returncode == 0, done.stderr
    outcome = Outcome(tmp_path / "runs")
    run(recipe.model_copy(update={"storage": str(tmp_path / "roomy")}))
    cost = outcome.cost("object store too small (80 MiB)", Outcome(tmp_path / "roomy"), None)
    note(cost)
    assert (cost.steps_again, cost.lost, cost.doubled, cost.identical) == (0, 0, 0, True)

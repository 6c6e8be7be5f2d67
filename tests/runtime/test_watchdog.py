"""Waiting processes are reported in time, and no wait is endless. Nothing is started: time is a number."""

import pytest

from w3ray.cluster.plan import plan_resources
from w3ray.errors import RunError
from w3ray.events import StepDone, WorkerAlive
from w3ray.runtime.faults import MAX_FAILURES, RestartBudget, StageLost
from w3ray.runtime.watchdog import Watchdog

PLAN = plan_resources(
    nodes=[{"CPU": 4}], workers=(2, 2), use_gpu=False, decoders=1, cpus_per_worker=1.0, decoder_resources=None
)


@pytest.fixture
def watchdog():
    return Watchdog("teacher", PLAN, timeout_s=600, now=0.0, free=lambda: {"CPU": 0.5})


def alive(rank, items, doing="computes item 4 (train)", world_size=2):
    return WorkerAlive(stage="teacher", rank=rank, world_size=world_size, doing=doing, doing_s=1.0, items=items)


def step(number):
    return StepDone(
        stage="teacher", step=number, epoch=0, losses={}, lr=0.1, clips_per_s=1.0, data_wait_s=0.0, step_s=1.0,
        valid_clips=8,
    )  # fmt: skip


def test_nothing_is_said_while_it_moves(watchdog):
    for second in range(0, 5000, 10):
        watchdog.hear(alive(0, items=second), second)
        assert watchdog.check(second) is None
    watchdog.hear(step(1), 5500)
    assert watchdog.check(5550) is None


def test_workers_that_do_not_start_wait_for_resources(watchdog):
    said = watchdog.check(61)
    assert "its workers wait for 2 x (1 CPU), and the cluster has 0.5 CPU free; add nodes" in said
    assert watchdog.check(62) is None, "only one report per minute"
    with pytest.raises(RunError, match=r"no progress for 601 s \(resources\.stall_timeout_s\)") as caught:
        watchdog.check(601)
    assert not isinstance(caught.value, StageLost), "a restart would wait as long"


def test_a_worker_that_is_not_heard_of_is_named(watchdog):
    for second in (0, 3, 6):
        watchdog.hear(alive(0, items=4), second)
        watchdog.hear(alive(1, items=4), second)
    for second in range(9, 620, 3):
        watchdog.hear(alive(0, items=4), second)
    assert "worker 1 has sent no heartbeat for 94 s (it computes item 4 (train)): it hangs" in watchdog.check(100)
    with pytest.raises(StageLost, match="worker 1"):
        watchdog.check(620)


def test_an_empty_stream_is_named(watchdog):
    for rank in (0, 1):
        watchdog.hear(alive(rank, items=4, doing="waits for item 9 of the stream"), 0)
    for rank in (0, 1):
        watchdog.hear(alive(rank, items=4, doing="waits for item 9 of the stream"), 70)
    said = watchdog.check(70)
    assert "worker 0 waits for item 9 of the stream (for 1 s); worker 1 waits" in said
    assert "decoders need 1 x (1 CPU), and the cluster has 0.5 CPU free" in said


def test_ranks_that_are_no_more_are_forgotten(watchdog):
    for rank in (0, 1):
        watchdog.hear(alive(rank, items=4), 0)
    watchdog.hear(alive(0, items=0, world_size=1), 50)
    assert "worker 1" not in watchdog.check(111)


def test_failures_count_until_there_is_a_new_checkpoint():
    budget = RestartBudget(10)
    assert all(budget.spend(10) for _ in range(MAX_FAILURES))
    assert not budget.spend(10)
    budget = RestartBudget(10)
    assert all(budget.spend(10 + failure) for failure in range(50)), "each try got further than the last"

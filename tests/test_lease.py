"""The lease on object storage, held by real processes on a real S3 API: never two holders, and no endless wait."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from patience import PATIENCE_S
from s3_server import S3Server

from w3ray.storage import RemotePath
from w3ray.storage.lease import LeaseLost, LeaseQueue, check_intent

LEASE = {"lease_s": 3.0, "beat_s": 0.5}
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def folder(s3, request) -> RemotePath:
    s3.heal()
    return RemotePath(f"s3://bucket/{request.node.name}/lock")


def _contend(folder: RemotePath, rounds: int, log: str) -> None:
    """Enter and leave; inside, write a line to the log. Appending one line is atomic."""
    for _ in range(rounds):
        with LeaseQueue(folder, **LEASE).wait(lambda: None), open(log, "a") as file:
            file.write(f"{os.getpid()} in\n")
            file.flush()
            time.sleep(0.05)
            file.write(f"{os.getpid()} out\n")


def test_several_processes_contend_and_never_two_are_inside(folder, tmp_path):
    log = str(tmp_path / "log")
    processes = [SPAWN.Process(target=_contend, args=(folder, 3, log)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    lines = [line.split() for line in Path(log).read_text().splitlines()]
    assert len(lines) == 2 * 4 * 3
    for (entered, inside), (left, outside) in zip(lines[::2], lines[1::2], strict=True):
        assert (entered, inside, outside) == (left, "in", "out")
    assert list(folder.iterdir()) == []


def _hold(folder: RemotePath, ready, go_on, answer) -> None:
    lease = LeaseQueue(folder, **LEASE).wait(lambda: None)
    ready.set()
    if not go_on.wait(PATIENCE_S):
        return
    try:
        lease.check()
        answer.put("held")
    except LeaseLost as error:
        answer.put(str(error))
    lease.close()


def holder(folder: RemotePath):
    ready, go_on, answer = SPAWN.Event(), SPAWN.Event(), SPAWN.Queue()
    process = SPAWN.Process(target=_hold, args=(folder, ready, go_on, answer))
    process.start()
    assert ready.wait(PATIENCE_S)
    return process, go_on, answer


def test_a_killed_holder_is_followed_after_its_lease(folder):
    process, _, _ = holder(folder)
    told: list[float] = []

    def on_wait() -> None:
        told.append(time.monotonic())
        os.kill(process.pid, signal.SIGKILL)

    with LeaseQueue(folder, **LEASE).wait(on_wait) as lease:
        assert len(told) == 1
        assert time.monotonic() - told[0] > LEASE["lease_s"], "a lease was taken that may still be valid"
        assert [path.name for path in folder.iterdir() if path.name.endswith(".json")] == [lease.intent.name]
    process.join()


def test_a_living_holder_is_waited_for_however_long(folder, s3):
    process, go_on, answer = holder(folder)
    queue = LeaseQueue(folder, **LEASE)
    end = time.monotonic() + 1.5 * LEASE["lease_s"]
    while time.monotonic() < end:
        assert queue.take() is None
        queue._bury()
        time.sleep(0.2)
    go_on.set()
    assert answer.get(timeout=PATIENCE_S) == "held"
    queue.wait(lambda: None).close()
    process.join()


def test_a_holder_that_slept_too_long_stops(folder):
    process, go_on, answer = holder(folder)
    os.kill(process.pid, signal.SIGSTOP)
    with LeaseQueue(folder, **LEASE).wait(lambda: None) as lease:
        os.kill(process.pid, signal.SIGCONT)
        go_on.set()
        assert "another run may work on the stage now, so this run stops" in answer.get(timeout=PATIENCE_S)
        process.join()
        lease.check()
        check_intent(lease.intent)
        time.sleep(2 * LEASE["beat_s"])
        names = sorted(path.name for path in folder.iterdir())
        assert lease.intent.name in names
        assert len([name for name in names if name.endswith(".json")]) == 1, "the sleeper removed its intent"


def test_a_worker_sees_that_the_lease_is_gone(folder):
    lease = LeaseQueue(folder, **LEASE).wait(lambda: None)
    assert json.loads(lease.intent.read_text())["pid"] == os.getpid()
    check_intent(lease.intent)
    lease.close()
    with pytest.raises(LeaseLost, match="this run stops"):
        check_intent(lease.intent)


def test_an_outage_frees_nobodys_lease(folder, s3):
    """An outage is longer than a lease: neither holder nor waiter reaches the storage. The holder keeps the lease."""
    process, go_on, answer = holder(folder)
    queue = LeaseQueue(folder, **LEASE)
    queue._bury()
    s3.fail(".*")
    healing = SPAWN.Process(target=_heal_later, args=(s3.endpoint, 1.5 * LEASE["lease_s"]))
    healing.start()
    for _ in range(8):
        queue._bury()
    assert queue.take() is None
    go_on.set()
    assert answer.get(timeout=PATIENCE_S) == "held"
    process.join()
    healing.join()


def _heal_later(endpoint: str, seconds: float) -> None:
    time.sleep(seconds)
    S3Server(endpoint).heal()

"""Decoders leave the processor to trainers, but not to programs that keep it busy without end."""

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from w3ray.data import stepping_back
from w3ray.data.clip import ClipSpec
from w3ray.data.microbatch import MicrobatchDecoder
from w3ray.data.schedule import Schedule
from w3ray.data.stepping_back import FIRST_PAUSE_S, LOOK_S, SteppingBack, ThreadTimes, thread_times
from w3ray.data.stream_spec import StreamSpec

STREAM = StreamSpec(
    schedule=Schedule(
        num_train=8,
        num_val=0,
        num_test=0,
        batch_size=4,
        microbatch_size=4,
        epochs=4,
        validate_every_epochs=9,
        seed=0,
        world_size=1,
    ),
    clip=ClipSpec(),
)

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has SCHED_IDLE")


class Machine:
    """A clock, and a thread that runs for a share of the time in which it could."""

    def __init__(self, share: float) -> None:
        self.share, self.now_s, self.ran_s, self.waited_s = share, 0.0, 0.0, 0.0

    def work(self, seconds: float = 2 * LOOK_S) -> None:
        self.now_s += seconds
        self.ran_s += self.share * seconds
        self.waited_s += (1 - self.share) * seconds

    def made(self) -> SteppingBack:
        return SteppingBack(times=lambda thread: ThreadTimes(self.ran_s, self.waited_s), now_s=lambda: self.now_s)


def policy() -> int:
    return os.sched_getscheduler(0)


def test_calls_are_made_at_the_lowest_priority_and_the_caller_keeps_its_own() -> None:
    own = policy()
    way = SteppingBack()
    assert way(policy) == os.SCHED_IDLE
    assert way(threading.get_native_id) != threading.get_native_id()
    assert policy() == own != os.SCHED_IDLE


def test_errors_are_those_of_the_call() -> None:
    def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        SteppingBack()(fail)


def test_one_that_starves_is_ordinary_for_a_while() -> None:
    machine = Machine(share=0.01)
    way = machine.made()
    way(machine.work)
    assert not way.steps_back
    assert way(policy) == policy()
    machine.now_s += FIRST_PAUSE_S
    assert way.steps_back
    way(machine.work)  # it starves again
    machine.now_s += FIRST_PAUSE_S
    assert not way.steps_back, "twice as long the second time"
    machine.now_s += FIRST_PAUSE_S
    assert way.steps_back


def test_after_a_long_time_without_starving_the_pause_is_short_again() -> None:
    machine = Machine(share=0.01)
    way = machine.made()
    for pause in (1, 2, 4):
        way(machine.work)
        machine.now_s += pause * FIRST_PAUSE_S
    machine.share = 0.9
    way(lambda: machine.work(10 * FIRST_PAUSE_S))
    machine.share = 0.01
    way(lambda: machine.work(10 * FIRST_PAUSE_S))
    machine.now_s += FIRST_PAUSE_S
    assert way.steps_back


@pytest.mark.parametrize(("share", "seconds"), [(0.9, 60.0), (0.3, 60.0), (0.01, 0.5 * LOOK_S)])
def test_one_that_gets_the_processor_goes_on_and_a_moment_decides_nothing(share: float, seconds: float) -> None:
    machine = Machine(share)
    way = machine.made()
    way(lambda: machine.work(seconds))
    assert way.steps_back


def test_short_waits_add_up() -> None:
    machine = Machine(share=0.01)
    way = machine.made()
    for _ in range(3):
        way(lambda: machine.work(0.5 * LOOK_S))
    assert not way.steps_back


@pytest.mark.parametrize("lacking", ["permission", "times"])
def test_where_it_is_impossible_all_calls_are_ordinary(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> None:
        raise PermissionError

    times: Callable[[int], ThreadTimes | None] = thread_times
    if lacking == "permission":
        monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    else:
        times = lambda thread: None  # noqa: E731
    way = SteppingBack(times=times)
    assert not way.steps_back
    assert way(threading.get_native_id) == threading.get_native_id()


@pytest.mark.parametrize("gives_way", [True, False])
def test_a_decoder_gives_way_after_its_first_microbatch(gives_way: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers wait for the first one."""
    seen: list[int] = []

    def decode(self: MicrobatchDecoder, number: int, *, load: Any) -> int:
        load("item", 0, {})
        return number

    monkeypatch.setattr(MicrobatchDecoder, "decode", decode)
    monkeypatch.setattr(MicrobatchDecoder, "_load", lambda *arguments: seen.append(policy()))
    monkeypatch.setattr("w3ray.data.microbatch.to_row", lambda number: number)
    decoder = MicrobatchDecoder(STREAM, {}, gives_way=gives_way)
    assert list(decoder({"items": np.array([[3, 4, 5]])})) == [3, 4, 5]
    later = os.SCHED_IDLE if gives_way else policy()
    assert seen == [policy(), later, later]


def test_linux_tells_how_long_a_thread_ran() -> None:
    before = thread_times(threading.get_native_id())
    sum(i * i for i in range(300_000))
    after = thread_times(threading.get_native_id())
    assert before is not None
    assert after is not None
    assert after.ran_s > before.ran_s
    assert thread_times(2**31 - 1) is None
    assert stepping_back.LEAST_SHARE < 1

"""How do decoders leave the processor to the trainers of their node, and do not starve beside other programs?

Decoders work ahead. At the priority of a trainer they interrupt its steps at every frame. As SCHED_IDLE they get the
processor as soon as the trainers of the node wait. But they get almost none of it while programs that have nothing to
do with the run keep all processors busy, and a thread that became SCHED_IDLE cannot come back without a privilege. So
not the thread changes but the work: it goes to a thread that stepped back, as long as that one gets the processor, and
stays in the caller's thread for a while if it does not.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 120.0, 3600.0
"""How long work stays in the caller's thread after the other one starved. Doubled each time in a row."""
LEAST_SHARE = 0.2
"""A thread starves if it ran for less than this share of the time in which it could have run."""
LOOK_S = 1.0
"""Seconds in which a thread could have run before the share counts, and the time between two looks."""


class ThreadTimes(NamedTuple):
    """Seconds of a thread's life, by Linux."""

    ran_s: float
    waited_s: float
    """Could have run, but others had the processor."""


def thread_times(thread: int) -> ThreadTimes | None:
    """Times of a thread of this process; None: the system does not tell."""
    try:
        ran_ns, waited_ns, _ = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return ThreadTimes(int(ran_ns) / 1e9, int(waited_ns) / 1e9)


class SteppingBack:
    """Makes calls at the lowest priority, as long as that gets the processor at all. Used by one thread.

    Where the system has no such priority, forbids it, or does not tell how long a thread waits, all calls are made in
    the caller's thread.

    Args:
        times: times of a thread.
        now_s: a clock.
    """

    def __init__(
        self,
        *,
        times: Callable[[int], ThreadTimes | None] = thread_times,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._times, self._now_s = times, now_s
        self._thread: int | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="w3ray-patient")
        if hasattr(os, "sched_setscheduler"):
            self._thread = self._executor.submit(_step_back).result()
        self._seen = None if self._thread is None else times(self._thread)
        self._until_s, self._pause_s = now_s(), FIRST_PAUSE_S

    @property
    def steps_back(self) -> bool:
        """Whether the next call is made at the lowest priority."""
        return self._seen is not None and self._now_s() >= self._until_s

    def __call__(self, call: Callable[[], T]) -> T:
        """The result of `call`, or its error."""
        if not self.steps_back:
            return call()
        future = self._executor.submit(call)
        while not wait([future], LOOK_S).done:
            self._look()
        self._look()
        return future.result()

    def _look(self) -> None:
        if self.steps_back and self._starves():
            self._stay_here()

    def _starves(self) -> bool:
        """Whether the thread got too little of the processor since the last time that this was decided."""
        assert self._thread is not None
        assert self._seen is not None
        times = self._times(self._thread)
        if times is None:
            return False
        ran_s, waited_s = times.ran_s - self._seen.ran_s, times.waited_s - self._seen.waited_s
        if ran_s + waited_s < LOOK_S:
            return False
        self._seen = times
        return ran_s < LEAST_SHARE * (ran_s + waited_s)

    def _stay_here(self) -> None:
        """Make the next calls in the caller's thread. The call in the other thread ends there."""
        now_s = self._now_s()
        if now_s - self._until_s > self._pause_s:  # it did not starve for longer than the next pause would be
            self._pause_s = FIRST_PAUSE_S
        self._until_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def _step_back() -> int | None:
    """Lower the priority of this thread for good. Returns its number; None: the system forbids it."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return threading.get_native_id()
    return None

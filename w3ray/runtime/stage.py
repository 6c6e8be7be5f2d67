"""What do all kinds of running stage share: how the driver follows one, and how it ends one?

A kind says where the stage's workers run: `cluster_stage` in processes of a Ray cluster, `in_process_stage` in a thread
of this process. Either way Ray Train's `fit` runs in a thread, and the driver reads the workers' events from a channel.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer

from w3ray.errors import InputError, RunError
from w3ray.events import Warned, WorkerAlive
from w3ray.runtime.event_channel import Channel, ChannelLost
from w3ray.runtime.faults import StageLost, TeacherMissing, last_line
from w3ray.runtime.stage_spec import StageSpec
from w3ray.runtime.watchdog import Watchdog

OnEvent = Callable[[Any], None]

_KILL_TIMEOUT_S = 10.0


class Stage(ABC):
    """One stage, from the moment its workers begin to start. Making it starts them.

    A stage may be made while its teacher is still being scored: its workers get everything else ready, then wait for
    the teacher's model. `outcome` stays with the stage until it ends; `end` ends a stage that is no longer wanted.

    Args:
        spec: the stage; it resumes from its newest good checkpoint.
        channel: the driver's end of the workers' events; the stage owns it from here on.
    """

    poll_s: float
    """Seconds between two looks at the thread: how late its end may be noticed."""
    end_timeout_s: float
    """Seconds in which the workers must end after their channel was closed."""

    def __init__(self, spec: StageSpec, channel: Channel) -> None:
        self._spec, self._channel = spec, channel
        self._owned = ExitStack()
        self._answer: dict[str, Any] = {}
        # `fit` has its own thread: the caller's hands events on and stays open to Ctrl-C.
        self._thread: threading.Thread | None = None

    def _start(self, make_trainer: Callable[[], TorchTrainer]) -> None:
        """Make the trainer and let it run. What the trainer needs is registered in `_owned` as it is made."""
        try:
            trainer = make_trainer()
            self._thread = threading.Thread(
                target=self._fit, args=(trainer,), name=f"fit-{self._spec.name}", daemon=True
            )
            self._thread.start()
        except BaseException:
            self.end()
            raise

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            self._answer["result"] = trainer.fit()
        except BaseException as error:  # whatever it is: it must reach the thread that waits
            self._answer["error"] = error

    def outcome(self, on_event: OnEvent, watch: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Wait for the stage's end.

        Args:
            on_event: called in this thread with each event of the workers, in order.
            watch: called in this thread about twice a second; what it raises ends the wait.

        Returns:
            `best_checkpoint` (folder name), and of the test split `test` (metrics), `counts` (`Counts.state`).

        Raises:
            TeacherMissing: the workers stopped because the teacher's model was not there in time.
            StageLost: the workers or what controls them are gone, or nothing moves any more.
            InputError, RunError: with the cause.
        """
        spec = self._spec
        watchdog = Watchdog(
            spec.name, spec.plan, timeout_s=spec.stall_timeout_s, now=time.monotonic(), free=free_resources
        )
        try:
            while self._is_running():
                self._relay(self._channel.receive(self.poll_s), watchdog, on_event)
                if message := watchdog.check(time.monotonic()):
                    on_event(Warned(message=message))
                watch()
            self._relay(self._channel.unread(), watchdog, on_event)
        except ChannelLost as error:
            raise StageLost(f"stage {spec.name}: {error} ({last_line(error.__cause__ or error)})") from error
        finally:
            self.end()
        if failure := self._answer.get("error"):
            raise self._explained(failure) from failure
        return outcome_of(self._answer["result"])

    def end(self) -> None:
        """End what still runs of the stage, wait for it, and release all that the stage owns. Again is harmless.

        Closing the channel tells the workers to end; what does not end in time is killed. The thread must not outlive
        the connection to the cluster: Ray ends a process that calls it afterwards.
        """
        with self._owned:  # released also where a second Ctrl-C ends the wait
            with suppress(ChannelLost, RayError):
                for event in self._channel.unread():  # what must be released may stand there
                    self._keep(event)
            self._channel.close()
            if self._thread is not None:
                self._thread.join(self.end_timeout_s)
                if self._is_running():
                    self._kill()
                    self._thread.join(_KILL_TIMEOUT_S)

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _relay(self, events: list[Any], watchdog: Watchdog, on_event: OnEvent) -> None:
        for event in events:
            watchdog.hear(event, time.monotonic())
            if not self._keep(event):
                on_event(event)

    def _keep(self, event: Any) -> bool:
        """Whether this object alone has to know of `event`; a kind of stage takes from it what it needs."""
        return isinstance(event, WorkerAlive)

    @abstractmethod
    def _explained(self, failure: BaseException) -> RunError:
        """The error to raise for what ended `fit`."""

    @abstractmethod
    def _kill(self) -> None:
        """End a stage that did not end by itself: it hangs."""


_FAULTS: dict[str, type[Exception]] = {"input": InputError, "run": RunError, "teacher": TeacherMissing}


def outcome_of(result: Any) -> dict[str, Any]:
    """What the first worker's loop returned in Ray Train's result, or the fault that it ended with."""
    answer = result.return_value or {}
    if fault := answer.get("fault"):
        raise _FAULTS[fault["kind"]](fault["message"])
    outcome: dict[str, Any] = answer["outcome"]
    return outcome


def free_resources() -> dict[str, float]:
    """What the cluster has free, by Ray's names."""
    free = ray.available_resources()
    # Without Ray's marks of nodes and placement groups.
    own = (":", "memory", "_group_")
    return {name: amount for name, amount in free.items() if not any(mark in name for mark in own)}

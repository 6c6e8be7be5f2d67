"""The common part of all kinds of running stages: how the driver follows a stage, and how it ends one.

A kind defines where the stage's workers run: `cluster_stage` in processes of a Ray cluster, `in_process_stage` in a
thread of this process. In both, Ray Train's `fit` runs in a thread, and the driver reads the workers' events from a
channel.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from w3ray.errors import InputError, RunError
from w3ray.events import Warned, WorkerAlive
from w3ray.runtime.event_channel import Channel, ChannelLost
from w3ray.runtime.faults import StageLost, StoppedEarly, TeacherMissing, last_line
from w3ray.runtime.stage_spec import StageSpec
from w3ray.runtime.watchdog import Watchdog

OnEvent = Callable[[Any], None]

_KILL_TIMEOUT_S = 10.0


class Stage(ABC):
    """One stage, from the start of its workers on. Creating the object starts them.

    A stage may start while its teacher is still being scored. Its workers prepare everything else, then wait for the
    teacher's model. `outcome` follows the stage until it ends; `end` ends a stage that is no longer wanted.

    Args:
        spec: the stage; it resumes from its newest good checkpoint.
        channel: the driver's end of the workers' events. The stage owns it from here on.
    """

    poll_s: float
    """Seconds between two checks of the thread: the maximum delay before its end is noticed."""
    end_timeout_s: float
    """Seconds in which the workers must end after their channel was closed."""

    def __init__(self, spec: StageSpec, channel: Channel) -> None:
        self._spec, self._channel = spec, channel
        self._owned = ExitStack()
        self._answer: dict[str, Any] = {}
        # `fit` has its own thread, because the caller's thread passes events on and must react to Ctrl-C.
        self._thread: threading.Thread | None = None

    def _start(self, make_trainer: Callable[[], DataParallelTrainer]) -> None:
        """Make the trainer and run it. `_owned` registers what the trainer needs as soon as it is made."""
        try:
            trainer = make_trainer()
            self._thread = threading.Thread(
                target=self._fit, args=(trainer,), name=f"fit-{self._spec.name}", daemon=True
            )
            self._thread.start()
        except BaseException:
            self.end()
            raise

    def _fit(self, trainer: DataParallelTrainer) -> None:
        try:
            self._answer["result"] = trainer.fit()
        except BaseException as error:  # any exception must reach the waiting thread
            self._answer["error"] = error

    def outcome(self, on_event: OnEvent, watch: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Wait for the stage's end.

        Args:
            on_event: called in this thread with each event of the workers, in order.
            watch: called in this thread about twice a second. Its exceptions end the wait.

        Returns:
            `best_checkpoint` (folder name), and for the test split `test` (metrics) and `counts` (`Counts.state`).

        Raises:
            StoppedEarly: the training stopped getting better.
            TeacherMissing: the workers stopped because the teacher's model did not come in time.
            StageLost: the workers or the controller are gone, or there is no progress.
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
        """End what still runs of the stage, wait for it, and release all that it owns. A second call is harmless.

        Closing the channel tells the workers to end. What does not end in time is killed. The thread must not outlive
        the connection to the cluster, because Ray ends a process that calls it afterwards.
        """
        with self._owned:  # released also if a second Ctrl-C ends the wait
            with suppress(ChannelLost, RayError):
                for event in self._channel.unread():  # they may name resources to release
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
        """Whether only this object needs `event`. Kinds of stages store handles from such events."""
        return isinstance(event, WorkerAlive)

    @abstractmethod
    def _explained(self, failure: BaseException) -> RunError:
        """The error to raise for the exception that ended `fit`."""

    @abstractmethod
    def _kill(self) -> None:
        """End a stage that hangs and did not end by itself."""


_FAULTS: dict[str, type[Exception]] = {"input": InputError, "run": RunError, "teacher": TeacherMissing}


def outcome_of(result: Any) -> dict[str, Any]:
    """The return value of the first worker's loop in Ray Train's result, or the fault that ended it."""
    answer = result.return_value or {}
    if fault := answer.get("fault"):
        raise _FAULTS[fault["kind"]](fault["message"])
    if stopped := answer.get("stopped"):
        raise StoppedEarly(stopped["epochs"], stopped["why"])
    outcome: dict[str, Any] = answer["outcome"]
    return outcome


def free_resources() -> dict[str, float]:
    """The free resources of the cluster, by Ray's names."""
    free = ray.available_resources()
    # Without the marks that Ray adds for nodes and placement groups.
    own = (":", "memory", "_group_")
    return {name: amount for name, amount in free.items() if not any(mark in name for mark in own)}

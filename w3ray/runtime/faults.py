"""Decides which failures of a worker are worth another try, and which would only happen again.

Ray Train's controller loads this module, so it imports no torch.
"""

import re
from collections.abc import Callable
from typing import Any

from ray.train import UserCallback

from w3ray.errors import RunError
from w3ray.events import Restarted
from w3ray.runtime.event_channel import EventSender
from w3ray.storage import LeaseLost, StorageFailing, StorageRefused

MAX_FAILURES = 3
"""Maximum number of restarts of a stage's processes without a new checkpoint in between."""


class TeacherMissing(RunError):
    """The teacher's model did not come while the stage's workers waited for it. The stage can be started again."""


class StoppedEarly(RunError):
    """The training stopped getting better, so it ends here. What is left is its evaluation.

    Args:
        epochs: how many epochs were trained.
        why: one line.
    """

    def __init__(self, epochs: int, why: str) -> None:
        super().__init__(why)
        self.epochs = epochs


class StageLost(RunError):
    """A stage's processes are gone or hang. A restart resumes from the newest checkpoint."""


class CallbackFailed(RunError):
    """A callback of the stage raised, or changed the network. Only the first worker runs callbacks."""


class Preempted(Exception):
    """A worker leaves because a node of the worker group is about to be taken away. Its state is saved."""


class RestartBudget:
    """Counts failures since the last new checkpoint, and decides whether another start is worth it.

    A run of weeks on changing machines may fail any number of times. A run that always fails at the same place may not.
    """

    def __init__(self, steps_done: int) -> None:
        self._steps_done, self._failures = steps_done, 0

    def spend(self, steps_done: int) -> bool:
        """Count one failure; the newest checkpoint is at this step. False: it was one failure too many."""
        if steps_done > self._steps_done:
            self._steps_done, self._failures = steps_done, 0
        self._failures += 1
        return self._failures <= MAX_FAILURES


class RestartPolicy(UserCallback):
    """Ends the stage at a failure that would happen again. Reports every other failure to the driver.

    Args:
        stage: its name.
        steps_done: the step of its newest good checkpoint.
        events: the workers' end of the channel.
    """

    def __init__(self, stage: str, steps_done: Callable[[], int], events: EventSender) -> None:
        self._stage, self._steps_done, self._events = stage, steps_done, events
        self._budget: RestartBudget | None = None

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in worker_exceptions.items():
            if is_hopeless(error):
                raise RunError(f"worker {rank}: {last_line(error)}")
        step = self._steps_done()
        again = f"resuming from step {step}"
        if any(isinstance(_original(error), Preempted) for error in worker_exceptions.values()):
            self._tell(f"stage {self._stage}: a node is being taken away, its state is saved; {again} elsewhere")
            return
        rank, error = min(worker_exceptions.items())
        if self._budget is None:
            self._budget = RestartBudget(step)
        if not self._budget.spend(step):
            raise RunError(f"worker {rank}: {last_line(error)} ({MAX_FAILURES + 1} times without a new checkpoint)")
        self._tell(f"stage {self._stage}: worker {rank} failed ({last_line(error)}); {again}")

    def _tell(self, message: str) -> None:
        self._events.send(Restarted(message=message))
        self._events.flush()


_BUGS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
    # The storage was tried until the deadline. A refused request would be refused again.
    StorageFailing,
    StorageRefused,
    LeaseLost,
    CallbackFailed,
)


_STORAGE_NAMES = "|".join(re.escape(f"{one.__module__}.{one.__qualname__}") for one in (StorageFailing, StorageRefused))
_STORAGE_LINE = re.compile(rf"^(?:.*\)\s*)?(?:{_STORAGE_NAMES}): (.+)$", re.MULTILINE)


def is_hopeless(error: BaseException) -> bool:
    """Whether another start would have the same failure."""
    return isinstance(_original(error), _BUGS) or _of_storage(error) is not None


def _original(error: BaseException) -> BaseException:
    """The worker's own exception, inside Ray's wrappers."""
    for name in ("_base_exc", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return _original(inner)
    return error


def _of_storage(error: BaseException) -> str | None:
    """The storage's error, if it is one. Ray Data puts a decoder's exception into the text of its own."""
    found = _STORAGE_LINE.findall(str(error))
    return found[-1] if found else None


def last_line(error: BaseException) -> str:
    """The last line of an exception's text. In Ray's errors it is the worker's own exception."""
    if (line := _of_storage(error)) is not None:
        return line
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

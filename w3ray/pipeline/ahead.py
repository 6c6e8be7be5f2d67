"""May the next stage begin to start before the one at work has ended?

Starting a stage's processes takes seconds that nobody needs the processor for at a stage's end: the last batches are
decoded by then. So the next stage starts when little training is left; its workers wait for the teacher's model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from w3ray.events import StepDone
from w3ray.pipeline.prepare import PlannedStage
from w3ray.pipeline.stage_processes import RunningStage
from w3ray.pipeline.stage_store import StageStatus
from w3ray.storage import Lock

LEAD_S = 12.0
"""Seconds of training that are left when the next stage begins to start: about what its controller needs."""


@dataclass(frozen=True, slots=True)
class AheadStage:
    """A stage that began to start ahead of its turn; it holds the stage's lock."""

    item: PlannedStage
    status: StageStatus
    lock: Lock
    running: RunningStage


class Ahead:
    """The stage that began to start ahead of its turn, where there is one.

    Args:
        start: starts a stage's processes.
    """

    def __init__(self, start: Callable[[PlannedStage, Lock], RunningStage]) -> None:
        self._start = start
        self._stage: AheadStage | None = None

    def begin(self, item: PlannedStage) -> None:
        """Begin to start a stage, unless one began already, it is finished, or another run works on it."""
        if self._stage is not None or item.status.state == "reuse":
            return
        item.store.create(item.determinants)
        lock = item.store.take()
        if lock is None:
            return  # its turn will come, and with it the wait
        status = item.store.status(item.determinants)
        if status.state == "reuse":
            lock.close()
            return
        self._stage = AheadStage(item, status, lock, self._start(item, lock))

    def take(self, item: PlannedStage) -> AheadStage | None:
        """The stage whose turn it is now, if it began to start; it is the caller's from now on."""
        stage, self._stage = self._stage, None
        assert stage is None or stage.item is item, "only the next stage is started ahead of its turn"
        return stage

    def check(self) -> None:
        """Raises: LeaseLost where another run may work on it."""
        if self._stage is not None:
            self._stage.lock.check()

    def abandon(self) -> None:
        """Give up the start and the lock."""
        stage, self._stage = self._stage, None
        if stage is not None:
            stage.running.end()
            stage.lock.close()


def nearly_done(event: StepDone, item: PlannedStage) -> bool:
    """Whether at most `LEAD_S` of training are left of the stage that `event` tells of."""
    left_clips = (item.schedule.total_steps - event.step) * item.schedule.batch_size
    return left_clips <= LEAD_S * event.clips_per_s

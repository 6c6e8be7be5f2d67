"""May the next stage start before the current stage has ended?

Starting a stage's processes takes some seconds. At the end of a stage the CPUs are idle, because the last batches are
decoded by then. So the next stage starts when little training is left. Its workers wait for the teacher's model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from w3ray.events import StepDone
from w3ray.pipeline.planned import PlannedStage
from w3ray.pipeline.stage_processes import RunningStage
from w3ray.pipeline.stage_store import StageStatus
from w3ray.storage import Lock

LEAD_S = 12.0
"""The next stage starts when so many seconds of training are left: about the time that its controller needs."""


@dataclass(frozen=True, slots=True)
class AheadStage:
    """A stage that was started ahead of its turn, and the stage's lock, which is held."""

    item: PlannedStage
    status: StageStatus
    lock: Lock
    running: RunningStage


class Ahead:
    """Keeps the stage that was started ahead of its turn, if there is one.

    Args:
        start: starts a stage's processes.
    """

    def __init__(self, start: Callable[[PlannedStage, Lock], RunningStage]) -> None:
        self._start = start
        self._stage: AheadStage | None = None

    def begin(self, item: PlannedStage) -> None:
        """Start a stage. Do nothing if one was started already, if it is finished, or if another run works on it."""
        if self._stage is not None or item.status.state == "reuse":
            return
        item.store.create(item.determinants)
        lock = item.store.take()
        if lock is None:
            return  # the run waits for the lock when it is the stage's turn
        status = item.store.status(item.determinants)
        if status.state == "reuse":
            lock.close()
            return
        self._stage = AheadStage(item, status, lock, self._start(item, lock))

    def take(self, item: PlannedStage) -> AheadStage | None:
        """The stage whose turn it is now, if it was started; the caller owns it from now on."""
        stage, self._stage = self._stage, None
        assert stage is None or stage.item is item, "only the next stage is started ahead of its turn"
        return stage

    def check(self) -> None:
        """Raises: LeaseLost if another run may work on the stage."""
        if self._stage is not None:
            self._stage.lock.check()

    def abandon(self) -> None:
        """End the stage's processes and release its lock."""
        stage, self._stage = self._stage, None
        if stage is not None:
            stage.running.end()
            stage.lock.close()


def nearly_done(event: StepDone, item: PlannedStage) -> bool:
    """Whether the stage of `event` has at most `LEAD_S` seconds of training left."""
    left_clips = (item.schedule.total_steps - event.step) * item.schedule.batch_size
    return left_clips <= LEAD_S * event.clips_per_s

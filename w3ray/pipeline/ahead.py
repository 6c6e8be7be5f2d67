"""May the next stage begin to start before the one at work has ended?

Starting a stage's processes takes seconds that nobody needs the processor for at a stage's end: the last batches are
decoded by then. So the next stage starts when little training is left; its workers wait for the teacher's model.
"""

from dataclasses import dataclass
from typing import Any

from w3ray.events import StepDone
from w3ray.pipeline.prepare import PlannedStage
from w3ray.pipeline.stage_store import StageStatus
from w3ray.storage import Lock

LEAD_S = 12.0
"""Seconds of training that are left when the next stage begins to start: about what its controller needs."""


@dataclass(slots=True)
class AheadStage:
    """A stage that began to start ahead of its turn; it holds the stage's lock."""

    item: PlannedStage
    status: StageStatus
    lock: Lock
    run: Any

    def abandon(self) -> None:
        """Give up the start and the lock."""
        self.run.end()
        self.lock.close()


def nearly_done(event: StepDone, item: PlannedStage) -> bool:
    """Whether at most `LEAD_S` of training are left of the stage that `event` tells of."""
    left_clips = (item.schedule.total_steps - event.step) * item.schedule.batch_size
    return left_clips <= LEAD_S * event.clips_per_s

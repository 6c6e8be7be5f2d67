"""What must the driver know to clean up after a controller that was killed, or hangs?

Ray Train has a process for that, but it asks Ray's dashboard; a cluster without one would hold the workers' processors
for ever. The driver lives as long as the run, and needs only the two handles.

Loaded by Ray Train's controller, so it imports no torch.
"""

from dataclasses import dataclass
from typing import Any

import ray

from w3ray.ray_internals import ControllerCallback, WorkerGroupCallback
from w3ray.runtime.event_channel import EventSender


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerStarted:
    """The handle of the controller, which Ray Train keeps to itself."""

    actor: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersPlaced:
    """The placement group that holds the workers' resources."""

    placement_group: Any


class ReportHandles(ControllerCallback, WorkerGroupCallback):
    """Tells the driver of the controller and of each placement group of its workers."""

    def __init__(self, events: EventSender) -> None:
        self._events = events

    def after_controller_start(self, train_run_context: Any) -> None:
        self._tell(ControllerStarted(actor=ray.get_runtime_context().current_actor))

    def after_worker_group_start(self, worker_group: Any) -> None:
        state = worker_group.get_worker_group_state()
        self._tell(WorkersPlaced(placement_group=state.placement_group_handle.placement_group))

    def _tell(self, event: Any) -> None:
        self._events.send(event)
        self._events.flush()

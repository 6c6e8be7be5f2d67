"""The handles that the driver needs to clean up after a controller that was killed or hangs.

Ray Train has a process for this, but that process asks Ray's dashboard. Without a dashboard, the workers' processors
would stay reserved forever. The driver lives as long as the run, and needs only the two handles.

Ray Train's controller loads this module, so it imports no torch.
"""

from typing import Any

import ray

from w3ray.ray_internals import ControllerCallback, WorkerGroupCallback
from w3ray.runtime.event_channel import EventSender
from w3ray.runtime.handles import ControllerStarted, WorkersPlaced


class ReportHandles(ControllerCallback, WorkerGroupCallback):
    """Sends the driver the controller's handle, and each placement group of its workers."""

    def __init__(self, events: EventSender) -> None:
        self._events = events

    def after_controller_start(self, train_run_context: Any) -> None:
        self._tell(ControllerStarted(handle=ray.put(ray.get_runtime_context().current_actor)))

    def after_worker_group_start(self, worker_group: Any) -> None:
        state = worker_group.get_worker_group_state()
        self._tell(WorkersPlaced(placement_group=state.placement_group_handle.placement_group))

    def _tell(self, event: Any) -> None:
        self._events.send(event)
        self._events.flush()

"""What ends a stage that no driver listens to any more: interrupted, failed, or no longer interested in the stage?

Loaded by Ray Train's controller, so it imports no torch.
"""

import threading
import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from w3ray.ray_internals import ControllerCallback
from w3ray.runtime.event_channel import EventSender

_LOOK_EVERY_S = 0.5
_ABORT_TIMEOUT_S = 60.0  # a controller that is starting its workers answers when they are there


class EndWithoutDriver(ControllerCallback):
    """Ends the controller, and with it the stage's workers and its stream, once the driver's end of `events` closed.

    Ray Train ends a run at Ctrl-C if its `fit` has the main thread. Ours has a thread of its own, which nothing else
    would wake: if it were left waiting, the cluster would go away under it, and Ray then ends the whole process.

    Args:
        events: the workers' end of the channel.
        own_cluster: the cluster ends with the run, so the controller is killed without cleaning up first.
    """

    def __init__(self, events: EventSender, *, own_cluster: bool) -> None:
        self._events, self._own_cluster = events, own_cluster

    def after_controller_start(self, train_run_context: Any) -> None:
        controller = ray.get_runtime_context().current_actor
        threading.Thread(target=self._watch, args=(controller,), name="driver-watch", daemon=True).start()

    def _watch(self, controller: Any) -> None:
        while self._events.driver_listens():
            time.sleep(_LOOK_EVERY_S)
        if not self._own_cluster:
            with suppress(RayError):  # it ends itself while it answers
                ray.get(controller.abort.remote(), timeout=_ABORT_TIMEOUT_S)
        ray.kill(controller)

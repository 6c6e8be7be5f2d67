"""Ends a stage whose driver no longer listens: the driver was interrupted, failed, or abandoned the stage.

Ray Train's controller loads this module, so it imports no torch.
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
_ABORT_TIMEOUT_S = 60.0  # a controller that starts its workers answers only when they have started


class EndWithoutDriver(ControllerCallback):
    """Ends the controller, its workers and its stream, when the driver's end of `events` has closed.

    Ray Train ends a run at Ctrl-C if its `fit` is in the main thread. Ours is in another thread, and nothing else would
    wake it. If it waited until the cluster ends, Ray would end the whole process.

    Args:
        events: the workers' end of the channel.
        own_cluster: the cluster ends with the run, so the controller is killed without a cleanup.
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
            with suppress(RayError):  # it ends before it can answer
                ray.get(controller.abort.remote(), timeout=_ABORT_TIMEOUT_S)
        ray.kill(controller)

"""Tells the driver what it needs to clean up after a controller that was killed or hangs.

Ray Train has a process for this, but that process asks Ray's dashboard. Without a dashboard, the workers' processors
would stay reserved until the driver ends. The driver lives as long as the run, and needs two things: the controller's
handle, and names for the placement groups of its workers. A name is known before the group exists, so a controller
that is killed at any moment leaves nothing that cannot be found.

Ray Train's controller loads this module, so it imports no torch.
"""

from contextlib import suppress
from typing import Any

import ray
from ray.util import get_placement_group, placement_group_table, remove_placement_group

from w3ray.events import Moment
from w3ray.ray_internals import ControllerCallback, name_placement_groups
from w3ray.runtime.event_channel import EventSender
from w3ray.runtime.handles import ControllerStarted


class ReportController(ControllerCallback):
    """Sends the driver the controller's handle, and names the placement groups of its workers.

    Args:
        events: the workers' end of the channel.
        stage: the stage's name.
        groups: the beginning of the names. No other stage has it.
    """

    def __init__(self, events: EventSender, stage: str, groups: str) -> None:
        self._events, self._stage, self._groups = events, stage, groups

    def after_controller_start(self, train_run_context: Any) -> None:
        name_placement_groups(self._groups)
        self._events.send(ControllerStarted(handle=ray.put(ray.get_runtime_context().current_actor)))
        self._events.send(Moment(what="Ray Train's controller started", stage=self._stage))
        self._events.flush()


def remove_placement_groups(groups: str) -> None:
    """Free what is still reserved by placement groups whose names begin with `groups`."""
    for row in placement_group_table().values():
        if row["name"].startswith(groups) and row["state"] != "REMOVED":
            with suppress(ValueError):  # it was removed in the meantime
                remove_placement_group(get_placement_group(row["name"]))

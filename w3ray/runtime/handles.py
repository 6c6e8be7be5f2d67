"""The event that carries the handle of a stage's controller to the driver.

The queue of events imports this module to store it, so it imports nothing of Ray.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerStarted:
    """The handle of the controller. Ray Train does not give it to us.

    It is a reference to the handle: a handle brings its class, and the queue of events would import Ray Train for it.
    """

    handle: Any

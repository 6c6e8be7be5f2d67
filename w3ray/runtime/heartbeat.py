"""Tells the driver that a worker lives, and what it waits for."""

import threading
import time
from contextlib import suppress

from ray.exceptions import RayError

from w3ray.events import WorkerAlive
from w3ray.runtime.event_channel import DriverGone, Sender

BEAT_S = 3.0
"""Seconds between two heartbeats."""


class Heartbeat:
    """Reports every few seconds what this worker does. Its thread ends with the process or with the channel.

    Args:
        events: an end of the channel that no other thread uses.
        stage, rank, world_size: of this worker.
    """

    def __init__(self, events: Sender, *, stage: str, rank: int, world_size: int) -> None:
        self._events, self._stage, self._rank, self._world_size = events, stage, rank, world_size
        self._doing, self._since = "starts", time.monotonic()
        self._items = 0
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def doing(self, what: str) -> None:
        """Set what the worker does now."""
        self._doing, self._since = what, time.monotonic()

    def item_read(self) -> None:
        self._items += 1

    def _beat(self) -> None:
        with suppress(RayError, DriverGone):  # the driver is gone, or no longer listens
            while True:
                self._events.send(
                    WorkerAlive(
                        stage=self._stage,
                        rank=self._rank,
                        world_size=self._world_size,
                        doing=self._doing,
                        doing_s=time.monotonic() - self._since,
                        items=self._items,
                    )
                )
                time.sleep(BEAT_S)

"""How do events get from the workers to the driver, on whatever node they run?"""

import queue
import threading
import time
from contextlib import suppress
from typing import Any, Protocol

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.util.queue import Empty, Queue

from w3ray.errors import RunError

_SEND_EVERY_S = 0.5
_ANSWER_TIMEOUT_S = 10.0
_KEPT_EVENTS = 1000
"""While the queue cannot be reached."""


class ChannelLost(RunError):
    """The driver's end of a channel was closed by no one, and is gone."""


class Channel(Protocol):
    """The driver's end."""

    def receive(self, timeout_s: float) -> list[Any]:
        """The next events, in order; empty if none came within `timeout_s`.

        Raises:
            ChannelLost: no event can come any more.
        """

    def unread(self) -> list[Any]:
        """All events that are there, in order, without waiting for more; none once the channel is closed.

        Raises:
            ChannelLost: as `receive`.
        """

    def close(self) -> None:
        """Tell the workers that nobody listens any more. Again is harmless."""


class EventChannel:
    """The driver's end: a queue in an actor of the cluster."""

    def __init__(self) -> None:
        # Beside the driver: other nodes may be taken away. A label, for a soft affinity to a node is no promise.
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        self._queue = Queue(actor_options={"num_cpus": 0, "label_selector": here})

    def sender(self) -> "EventSender":
        return EventSender(self._queue)

    def receive(self, timeout_s: float) -> list[Any]:
        """As `Channel.receive`; empty, too, if the queue cannot be reached for now."""
        try:
            batch: list[Any] = self._queue.get(timeout=timeout_s)
        except Empty:
            return []
        except ActorUnavailableError:
            time.sleep(timeout_s)
            return []
        except ActorDiedError as error:
            raise ChannelLost("the queue of events is gone") from error
        return batch

    def unread(self) -> list[Any]:
        """As `Channel.unread`."""
        if self._queue.actor is None:
            return []
        try:
            batches: list[list[Any]] = self._queue.get_nowait_batch(self._queue.qsize())
        except ActorUnavailableError:
            return []
        except ActorDiedError as error:
            raise ChannelLost("the queue of events is gone") from error
        return [event for batch in batches for event in batch]

    def close(self) -> None:
        self._queue.shutdown(grace_period_s=1)


class Sender(Protocol):
    """A worker's end of a channel."""

    def twin(self) -> "Sender":
        """Another end, for another thread."""

    def send(self, event: Any) -> None: ...

    def flush(self) -> None: ...

    def driver_listens(self) -> bool:
        """Whether the driver's end is still open. Where that cannot be told for the moment, it is."""


class EventSender:
    """A worker's end. Events are sent in batches, so that a short training step does not wait for the channel."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._waiting: list[Any] = []
        self._sent_at = 0.0

    def twin(self) -> "EventSender":
        """Another end, for another thread."""
        return EventSender(self._queue)

    def send(self, event: Any) -> None:
        self._waiting.append(event)
        if time.monotonic() - self._sent_at >= _SEND_EVERY_S:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            try:
                self._queue.put(self._waiting)
                self._waiting = []
            except ActorUnavailableError:  # a broken connection: tried again with the next event
                del self._waiting[:-_KEPT_EVENTS]
        self._sent_at = time.monotonic()

    def driver_listens(self) -> bool:
        """Whether the driver's end is still open. Where that cannot be told for the moment, it is."""
        try:
            ray.get(self._queue.actor.qsize.remote(), timeout=_ANSWER_TIMEOUT_S)
        except ActorDiedError:
            return False
        except RayError:
            pass
        return True


class DriverGone(Exception):
    """Nobody listens to this worker any more: it is to end."""


class LocalChannel:
    """The same for a worker that is a thread of the driver: both ends in one."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closed = threading.Event()

    def sender(self) -> "LocalChannel":
        return self

    twin = sender

    def receive(self, timeout_s: float) -> list[Any]:
        """As `Channel.receive`."""
        try:
            first = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return []
        return [first, *self.unread()]

    def unread(self) -> list[Any]:
        """As `Channel.unread`."""
        events: list[Any] = []
        with suppress(queue.Empty):
            while not self._closed.is_set():
                events.append(self._queue.get_nowait())
        return events

    def send(self, event: Any) -> None:
        """Raises: DriverGone."""
        if self._closed.is_set():
            raise DriverGone
        self._queue.put(event)

    def flush(self) -> None:
        pass

    def driver_listens(self) -> bool:
        return not self._closed.is_set()

    def close(self) -> None:
        self._closed.set()

"""Sends events from the workers to the driver, on any node."""

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
    """The driver's end of a channel is gone, although nobody closed it."""


class Channel(Protocol):
    """The driver's end."""

    def receive(self, timeout_s: float) -> list[Any]:
        """The next events, in order. Empty if none comes within `timeout_s`.

        Raises:
            ChannelLost: no more events can come.
        """

    def unread(self) -> list[Any]:
        """All events so far, in order, without a wait. Empty if the channel is closed.

        Raises:
            ChannelLost: as in `receive`.
        """

    def close(self) -> None:
        """Tell the workers that the driver no longer listens. A second call is harmless."""


class EventChannel:
    """The driver's end: a queue in an actor of the cluster."""

    def __init__(self) -> None:
        # On the driver's node: other nodes may be taken away. By label: a soft affinity guarantees nothing.
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        self._queue = Queue(actor_options={"num_cpus": 0, "label_selector": here})

    def sender(self) -> "EventSender":
        return EventSender(self._queue)

    def receive(self, timeout_s: float) -> list[Any]:
        """See `Channel.receive`. Also empty if the queue cannot be reached for the moment."""
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
        """See `Channel.unread`."""
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
        """Whether the driver's end is still open. True if this is unknown at the moment."""


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
        """Whether the driver's end is still open. True if this is unknown at the moment."""
        try:
            ray.get(self._queue.actor.qsize.remote(), timeout=_ANSWER_TIMEOUT_S)
        except ActorDiedError:
            return False
        except RayError:
            pass
        return True


class DriverGone(Exception):
    """The driver no longer listens to this worker, so the worker must end."""


class LocalChannel:
    """A channel for a worker that is a thread of the driver: both ends in one object."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closed = threading.Event()

    def sender(self) -> "LocalChannel":
        return self

    twin = sender

    def receive(self, timeout_s: float) -> list[Any]:
        """See `Channel.receive`."""
        try:
            first = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return []
        return [first, *self.unread()]

    def unread(self) -> list[Any]:
        """See `Channel.unread`."""
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

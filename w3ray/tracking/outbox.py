"""How do operations reach the tracking server without ever blocking training?

`put` writes the operation to the journal and returns; one background thread delivers in order. If the server does not
answer, the thread tries again, with growing pauses, for as long as the driver lives. An operation that the server
refuses goes to `refused.jsonl` with the reason. Server errors never reach the caller of `put`.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from w3ray._redact import redact
from w3ray.tracking.journal import Journal, Operation

THREAD_NAME = "w3ray-tracking"
COALESCE_S = 0.5
BACKOFF_FIRST_S = 0.5
BACKOFF_LAST_S = 15.0
# A store that answers its health check but fails the same operation this often will never accept it.
TRIES_WHILE_HEALTHY = 5
DOWN_GRACE_S = 3.0

Notify = Callable[[str], None]


class Unreachable(Exception):
    """The store does not answer now: the same operation may succeed later."""


class Refused(Exception):
    """The store answered that it does not accept this operation."""


class Store(Protocol):
    """Where operations go. Only the delivery thread uses it."""

    def open(self) -> None:
        """Raises: Unreachable (the outbox tries again), Refused (final)."""

    def healthy(self) -> bool: ...

    def deliver(self, operations: list[Operation]) -> Any:
        """Deliver the operations of one batch (see `batch_size`). Raises: Unreachable, Refused."""

    def batch_size(self, operations: "deque[Operation]") -> int:
        """How many operations at the left end can be sent as one."""

    def take_facts(self) -> dict[str, dict[str, str]]: ...

    def heartbeat(self) -> None: ...


@dataclass(slots=True)
class Ticket:
    """The outcome of one operation; known once the operation is delivered or refused."""

    settled: bool = False
    result: Any = None
    error: Exception | None = None

    def settle(self, result: Any = None, error: Exception | None = None) -> None:
        self.result, self.error = result, error
        self.settled = True


@dataclass(frozen=True, slots=True)
class Delivery:
    """The outcome of all operations: `waiting` ones are in `journal`, `refused` ones in `refused_file`."""

    delivered: int
    waiting: int
    refused: int
    journal: Path | None
    refused_file: Path | None


class Outbox:
    """Deliver operations to a store from one background thread, in order.

    Args:
        store: receives the operations.
        journal: keeps them until they are delivered.
        notify: called with one line when the server goes away, comes back, or refuses something.
        heartbeat_s: seconds between calls of the store's `heartbeat`, roughly.
    """

    def __init__(self, store: Store, journal: Journal, notify: Notify, *, heartbeat_s: float = 60.0) -> None:
        self._store, self._journal, self.notify = store, journal, notify
        self._queue: deque[Operation] = deque()
        self._tickets: dict[int, Ticket] = {}
        self._wake = threading.Condition()
        self._hurry = False
        self._closing = False
        self._may_open = False
        self._give_up_at = float("inf")
        self._journal_lost = False
        self._delivered = 0
        self._refused = 0
        self._failures = 0
        self._down_since: float | None = None
        self._heartbeat_s = heartbeat_s
        self._next_heartbeat = time.monotonic() + heartbeat_s
        self.opened = Ticket()
        self.last_failure = ""
        self._thread = threading.Thread(target=self._work, name=THREAD_NAME, daemon=True)

    def start(self, adopted: list[Operation]) -> None:
        """Start the delivery thread; `adopted` operations (already in the journal) go first.

        The store is not opened yet: `open` or the first wait does that.
        """
        self._queue.extendleft(reversed(adopted))
        self._thread.start()

    def open(self) -> None:
        """Begin to open the store and to deliver."""
        with self._wake:
            self._may_open = True
            self._wake.notify_all()

    def put(self, kind: str, run: str, data: dict[str, Any]) -> Ticket:
        """Queue one operation; returns at once."""
        ticket = Ticket()
        with self._wake:
            if self._closing:
                raise RuntimeError("the tracker is closed")
            operation = self._journal.append(kind, run, data)
            unwritable, self._journal.failure = self._journal.failure, None
            self._tickets[operation.number] = ticket
            self._queue.append(operation)
            self._wake.notify_all()
        if unwritable is not None and not self._journal_lost:
            self._journal_lost = True
            self.notify(f"{self._journal.path}: {unwritable}; tracking continues, but only in memory")
        return ticket

    @property
    def down(self) -> bool:
        """Whether the store has been unreachable for more than a moment."""
        since = self._down_since
        return since is not None and time.monotonic() - since > DOWN_GRACE_S

    def wait(self, ticket: Ticket, timeout_s: float) -> bool:
        """Wait for one operation; if the server is down, only for one more try. Returns whether the ticket settled."""
        deadline = time.monotonic() + timeout_s
        with self._wake:
            failures = self._failures
            self._hurry = self._may_open = True
            self._wake.notify_all()
            while not ticket.settled and self._thread.is_alive():
                left_s = deadline - time.monotonic()
                if left_s <= 0 or (self.down and self._failures > failures):
                    break
                self._wake.wait(min(0.5, left_s))
            return ticket.settled

    def flush(self, timeout_s: float) -> bool:
        """Wait until all operations queued so far are settled. Returns whether they are."""
        with self._wake:
            tickets = list(self._tickets.values())
        deadline = time.monotonic() + timeout_s
        return all(self.wait(ticket, deadline - time.monotonic()) for ticket in tickets)

    def close(self, timeout_s: float) -> Delivery:
        """Deliver what is possible within `timeout_s`; the rest stays in the journal for the next driver."""
        deadline = time.monotonic() + timeout_s
        with self._wake:
            self._closing = True
            self._give_up_at = deadline
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._wake:
            waiting = len(self._queue)
            self._queue.clear()  # if the thread is still stuck in a call, it finds no more work afterwards
            self._journal.close(keep=waiting > 0)
        return Delivery(
            delivered=self._delivered,
            waiting=waiting,
            refused=self._refused,
            journal=self._journal.path if waiting else None,
            refused_file=self._refused_file if self._refused else None,
        )

    @property
    def _refused_file(self) -> Path:
        return self._journal.folder / "refused.jsonl"

    def _work(self) -> None:
        try:
            if not self._open():
                return
            while self._next_is_ready():
                with self._wake:
                    batch = [self._queue[index] for index in range(self._store.batch_size(self._queue))]
                if not self._deliver(batch):
                    return
        except Exception as error:
            # A bug in w3ray, or a full disk. Training continues; the journal keeps all further operations.
            self.last_failure = redact(f"{type(error).__name__}: {error}")
            self.notify(f"tracking stopped ({self.last_failure}); further operations are kept in {self._journal.path}")
            raise

    def _open(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._may_open or self._closing)
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                self._store.open()
            except Unreachable as error:
                self._went_down(error)
                if not self._pause(backoff_s):
                    return False
                backoff_s = min(2 * backoff_s, BACKOFF_LAST_S)
            except Exception as error:
                self.last_failure = redact(str(error))
                self._opened(error)
                return False
            else:
                self._came_back()
                self._opened(None)
                return True

    def _opened(self, error: Exception | None) -> None:
        with self._wake:
            self.opened.settle(error=error)
            self._wake.notify_all()

    def _next_is_ready(self) -> bool:
        """Wait for work, long enough to collect metrics in batches; False: closing, and no work is left."""
        with self._wake:
            while not self._queue and not self._closing:
                self._wake.wait(1.0)
                self._beat()
            if not (self._closing or self._hurry):
                self._wake.wait_for(lambda: self._closing or self._hurry, COALESCE_S)
            self._hurry = False
            return bool(self._queue)

    def _deliver(self, batch: list[Operation]) -> bool:
        """Deliver one batch, however long it takes; False: closing, and the store is unreachable."""
        backoff_s = BACKOFF_FIRST_S
        tries = 0
        while True:
            try:
                result = self._store.deliver(batch)
            except Unreachable as error:
                tries = tries + 1 if self._store.healthy() else 0
                if tries >= TRIES_WHILE_HEALTHY:
                    self._settle(batch, error=Refused(f"failed {tries} times although the store answers: {error}"))
                    return True
                if not tries:
                    self._went_down(error)
                if not self._pause(backoff_s):
                    return False
                backoff_s = min(2 * backoff_s, BACKOFF_LAST_S)
            except Exception as error:
                # Refused, or a bug in w3ray: training must not fail, but the user must see the error.
                self._settle(batch, error=error)
                return True
            else:
                self._came_back()
                self._settle(batch, result=result)
                self._beat()
                return True

    def _settle(self, batch: list[Operation], result: Any = None, error: Exception | None = None) -> None:
        with self._wake:
            if not self._queue:
                return  # closed meanwhile: the journal keeps the operations, and a second delivery is harmless
            message = None if error is None else self._set_aside(batch, error)
            for _ in batch:
                self._queue.popleft()
            self._journal.done([operation.number for operation in batch], self._store.take_facts())
            tickets = [self._tickets.pop(operation.number, None) for operation in batch]
            self._delivered += 0 if error else len(batch)
            for ticket in tickets:
                if ticket is not None:
                    ticket.settle(result, error)
            self._wake.notify_all()
        if message is not None:
            self.notify(message)  # without the lock: the callback may wait for a thread that waits for this lock

    def _set_aside(self, batch: list[Operation], error: Exception) -> str:
        self._refused += len(batch)
        reason = redact(str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}")
        with self._refused_file.open("a", encoding="utf-8") as file:
            for operation in batch:
                line = {"kind": operation.kind, "run": operation.run, "data": operation.data, "reason": reason}
                file.write(json.dumps(line) + "\n")
        return f"the tracking store refused {batch[0].kind}: {reason}; kept in {self._refused_file}"

    def _pause(self, seconds: float) -> bool:
        """Wait before the next try; False when the driver is closing and the last try has failed."""
        with self._wake:
            was_closing = self._closing
            if was_closing:
                self._wake.wait(BACKOFF_FIRST_S)
            else:
                self._wake.wait_for(lambda: self._closing or self._hurry, seconds)
            self._hurry = False
            return not was_closing or not (self.down or time.monotonic() >= self._give_up_at)

    def _went_down(self, error: Exception) -> None:
        self.last_failure = str(error)
        self._failures += 1
        if self._down_since is None:
            self._down_since = time.monotonic()
            self.notify(
                f"the tracking store does not answer ({error}); training continues; kept in {self._journal.path}"
            )

    def _came_back(self) -> None:
        if self._down_since is not None:
            self.notify(f"the tracking store answers again after {time.monotonic() - self._down_since:.0f} s")
            self._down_since = None

    def _beat(self) -> None:
        if time.monotonic() < self._next_heartbeat:
            return
        self._next_heartbeat = time.monotonic() + self._heartbeat_s
        try:
            self._store.heartbeat()
        except (Unreachable, Refused) as error:
            # The next operation reports the failure and retries; a missed heartbeat loses no data.
            logging.getLogger(__name__).debug("heartbeat not delivered: %s", error)

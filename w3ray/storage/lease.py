"""Who may work on a stage in object storage, which has no file locks? The holder of a lease.

A lease is a folder with two files for each process that holds it or wants it:

    <folder>/<holder>.json    intent: made once, before anything else, and never written again
    <folder>/<holder>.beat    rewritten every few seconds for as long as the holder lives

A process writes its intent and then lists the folder. It holds the lease if it finds no other intent. Listings are
strongly consistent, so if two processes try at once, at least one sees the other, and never do both hold the lease. A
process that sees another intent removes its own, pauses for a random time and tries again.

If a beat does not change for `lease_s` on the WAITER's own monotonic clock, its holder counts as dead and the waiter
removes the intent. A holder that was only paused finds its intent gone and must stop. It never writes its intent again,
so it cannot take the lease back by accident while another process holds it.
"""

import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from w3ray.errors import InputError, RunError
from w3ray.storage.errors import StorageFailing, StorageRefused
from w3ray.storage.paths import RemotePath

BEAT_S = 4.0
LEASE_S = 24.0
_CLOSE_S = 5.0

_ERRORS = (StorageFailing, StorageRefused)


class LeaseLost(RunError):
    """The holder of the lease was taken for dead. Another run may hold the lease now."""


class Lease:
    """A lease that is held. Made by `take` or `wait`; `close` gives it back."""

    def __init__(self, intent: RemotePath, beat_s: float) -> None:
        self.intent = intent
        self._beat = _beat_of(intent)
        self._beat_s = beat_s
        self._confirmed = time.monotonic()
        self._lost = False
        self._closed = threading.Event()
        self._beats = 0
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._closed.wait(self._beat_s):
            with suppress(*_ERRORS):  # the storage may answer again; if not, the work on the stage fails by itself
                self._confirm()
                if self._lost:
                    return
                self._beats += 1
                self._beat.write_text(str(self._beats))

    def _confirm(self) -> None:
        asked = time.monotonic()
        if self.intent.is_file():
            self._confirmed = max(self._confirmed, asked)
        else:
            self._lost = True

    def check(self) -> None:
        """Make sure that the lease is still held. Must be called before anything is written.

        Raises:
            LeaseLost: another run may hold it by now.
        """
        if not self._lost and time.monotonic() - self._confirmed > 2 * self._beat_s:
            self._confirm()  # this process was paused, or its beats do not reach the storage
        if self._lost:
            raise lost(self.intent)

    def close(self) -> None:
        """Give the lease back."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            return  # the storage does not answer: the lease expires by itself
        with suppress(*_ERRORS):
            for path in (self.intent, self._beat):
                path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lost(intent: RemotePath) -> LeaseLost:
    """The error for a holder whose intent is gone."""
    stage = intent.parent.parent
    return LeaseLost(
        f"{stage}: this run was silent for so long that another run may work on the stage now, so this run stops; "
        "the same command resumes the stage at the other run's newest checkpoint"
    )


def check_intent(intent: RemotePath) -> None:
    """Called by a worker before it writes a checkpoint: its driver may be paused, and another run may hold the stage.

    Raises:
        LeaseLost: the intent is gone, so another run may hold the stage.
    """
    if not intent.is_file():
        raise lost(intent)


class LeaseQueue:
    """A process that wants a lease. It remembers when the others last gave a sign of life."""

    def __init__(self, folder: RemotePath, *, lease_s: float | None = None, beat_s: float | None = None) -> None:
        self._folder = folder
        self._lease_s = LEASE_S if lease_s is None else lease_s
        self._beat_s = BEAT_S if beat_s is None else beat_s
        self._seen: dict[str, tuple[str | None, float]] = {}

    def take(self) -> Lease | None:
        """Take the lease; None if another process holds or wants it.

        Raises:
            StorageFailing, StorageRefused.
        """
        if self._others():
            return None
        intent = self._folder / f"{uuid.uuid4().hex}.json"
        intent.write_text(f'{{"host": "{socket.gethostname()}", "pid": {os.getpid()}}}\n')
        try:
            others = self._others(intent.name)
            # The intent is gone if this process slept after it wrote it, and a waiter took the process for dead.
            if not others and intent.is_file():
                return Lease(intent, self._beat_s)
        except BaseException:
            with suppress(*_ERRORS, InputError):
                intent.unlink(missing_ok=True)
            raise
        intent.unlink(missing_ok=True)
        return None

    def wait(self, on_wait: Callable[[], None]) -> Lease:
        """Wait for the lease. `on_wait` is called once if another process has it."""
        told = False
        while (lease := self.take()) is None:
            self._bury()
            if not told and self._others():
                on_wait()
                told = True
            time.sleep(random.uniform(0.2, 1.0) * min(1.5, self._beat_s))
        return lease

    def _others(self, own: str = "") -> list[RemotePath]:
        return [path for path in self._folder.iterdir() if path.name.endswith(".json") and path.name != own]

    def _bury(self) -> None:
        """Remove the intents whose beats did not change for `lease_s`, measured by this process's clock alone.

        A time in which the storage answered late does not count: no holder could write a beat then.
        """
        asked = time.monotonic()
        stirred = {path: _text(_beat_of(path)) for path in self._others()}
        answered = time.monotonic()
        if answered - asked > self._beat_s:
            self._seen.clear()
        dead = []
        for path, beat in stirred.items():
            seen, since = self._seen.setdefault(path.name, (beat, answered))
            if seen != beat:
                self._seen[path.name] = (beat, answered)
            elif asked - since > self._lease_s:
                dead.append(path)
        for path in dead:
            path.unlink(missing_ok=True)
            _beat_of(path).unlink(missing_ok=True)
            del self._seen[path.name]
        if dead:
            # A holder that was only asleep notices in this time that it lost the lease: see `Lease.check`.
            time.sleep(2 * self._beat_s)


def _beat_of(intent: RemotePath) -> RemotePath:
    return intent.parent / intent.name.replace(".json", ".beat")


def _text(path: RemotePath) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None

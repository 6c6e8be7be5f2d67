"""Who works on a folder, on a disk or on object storage? The one process that holds its lock.

On a disk, it is a lock of the operating system. The system releases it when the process ends, even after a crash. On
object storage, it is a lease (`w3ray.storage.lease`).
"""

import fcntl
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self

from w3ray.storage.lease import Lease, LeaseQueue
from w3ray.storage.paths import RemotePath, StoragePath

_POLL_S = 0.5


class FileLock:
    """A lock on a disk."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def check(self) -> None:
        """Do nothing: a lock on a disk is never lost."""

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


Lock = FileLock | Lease


def take_lock(directory: StoragePath) -> Lock | None:
    """Take the lock of an existing folder; None if another process holds it. Closing the lock releases it."""
    if isinstance(directory, RemotePath):
        return LeaseQueue(directory / "lock").take()
    lock = (directory / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return FileLock(lock)


def wait_for_lock(directory: StoragePath, on_wait: Callable[[], None]) -> Lock:
    """Wait for the lock of a folder. `on_wait` is called once if another process holds it."""
    if isinstance(directory, RemotePath):
        return LeaseQueue(directory / "lock").wait(on_wait)
    told = False
    while (lock := take_lock(directory)) is None:
        if not told:
            on_wait()
            told = True
        time.sleep(_POLL_S)
    return lock

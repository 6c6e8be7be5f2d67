"""Where do a tracker and its runs put what MLflow is to be told? Each call returns at once; a wait has a limit."""

import uuid
from pathlib import Path
from typing import Any

from w3ray._redact import redacted
from w3ray.tracking.outbox import Outbox, Ticket

# Values that the delivery works with.
_PLACES = frozenset({"path", "folder", "experiment"})


class OperationQueue:
    """The way to one experiment of one store.

    Args:
        outbox: delivers in the background; None: nothing is tracked, and every operation is settled at once.
        experiment: its name.
        buffer_dir: files are kept below it until they are delivered.
    """

    def __init__(self, outbox: Outbox | None, experiment: str, buffer_dir: Path) -> None:
        self.outbox, self.experiment, self._buffer_dir = outbox, experiment, buffer_dir

    @property
    def enabled(self) -> bool:
        return self.outbox is not None

    def put(self, kind: str, run: str, data: dict[str, Any]) -> Ticket:
        """Queue one operation; see `store.py` for the kinds."""
        if self.outbox is None:
            return Ticket(settled=True)
        # It is kept on disk, then on the server: without secrets. Metrics are names and numbers, and many.
        if kind != "metrics":
            data = {name: value if name in _PLACES else redacted(value) for name, value in data.items()}
        return self.outbox.put(kind, run, data)

    def wait(self, ticket: Ticket, timeout_s: float) -> bool:
        """Wait for one operation, though not for a server that is down. Returns whether its outcome is known."""
        return ticket.settled or (self.outbox is not None and self.outbox.wait(ticket, timeout_s))

    def new_file(self, name: str) -> Path:
        """A new path that the file or folder `name` can be written at, and is kept at until it is delivered."""
        folder = self._buffer_dir / "files" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder / name

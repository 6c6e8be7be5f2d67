"""The queue in which a tracker and its runs put operations for MLflow. Calls return at once; waits have a limit."""

import uuid
from pathlib import Path
from typing import Any

from w3ray._redact import redacted
from w3ray.tracking.outbox import Outbox, Ticket

# The delivery needs these values unchanged.
_PLACES = frozenset({"path", "folder", "experiment"})


class OperationQueue:
    """The queue for one experiment of one store.

    Args:
        outbox: delivers in the background; None: nothing is tracked, and every operation is settled at once.
        experiment: name of the experiment.
        buffer_dir: files wait below this folder until they are delivered.
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
        # Operations go to disk and to the server, so secrets are removed. Metrics hold only names and numbers, and
        # there are many of them: skip them.
        if kind != "metrics":
            data = {name: value if name in _PLACES else redacted(value) for name, value in data.items()}
        return self.outbox.put(kind, run, data)

    def wait(self, ticket: Ticket, timeout_s: float) -> bool:
        """Wait for one operation, but not for a server that is down. Returns whether the outcome is known."""
        return ticket.settled or (self.outbox is not None and self.outbox.wait(ticket, timeout_s))

    def new_file(self, name: str) -> Path:
        """A new path for the file or folder `name`, where it stays until it is delivered."""
        folder = self._buffer_dir / "files" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder / name

"""Which tracking operations are not delivered yet, and how do they outlive the driver?

A journal is one JSONL file. Every operation is appended before it is sent, and its delivery is appended afterwards. So
the file always tells what the tracking server does not have yet, whenever the driver is killed. The driver holds a
lock on its journal. A journal without a lock belonged to a driver that has ended; the next driver adopts it.

Lines: `{"format", "uri"}` first (the uri without its password); `{"number", "kind", "run", "data"}` for an operation;
`{"done": number}` for a delivery; `{"facts": ...}` for the ids that the server gave.
"""

import fcntl
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from w3ray._redact import redact
from w3ray.storage import modified_s

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing to tell the tracking server, as plain data.

    Args:
        number: position in its journal.
        kind: name of the handler (`start`, `metrics`, `finish` ...).
        run: our key of its run; the server's own run id becomes known later.
        data: arguments of the handler, JSON values only.
    """

    number: int
    kind: str
    run: str
    data: dict[str, Any]


@dataclass(slots=True)
class Facts:
    """What the server answered: run ids and model ids, by our keys."""

    run_ids: dict[str, str] = field(default_factory=dict)
    model_ids: dict[str, str] = field(default_factory=dict)

    def learn(self, other: dict[str, dict[str, str]]) -> None:
        self.run_ids.update(other.get("run_ids", {}))
        self.model_ids.update(other.get("model_ids", {}))


class Journal:
    """The journal of this driver; locked from the start, removed by `close(keep=False)`.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / f"journal-{uuid.uuid4().hex}.jsonl"
        self._file: IO[str] = self.path.open("a", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._next = 0
        self.failure: OSError | None = None
        self._write({"format": FORMAT, "uri": redact(uri)})

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            # Flush to the operating system, not to the disk: this survives a killed driver and costs microseconds.
            self._file.flush()
        except OSError as error:
            # A full disk must not make training fail because of tracking; the outbox reads this and reports it.
            self.failure = error

    def append(self, kind: str, run: str, data: dict[str, Any]) -> Operation:
        operation = Operation(self._next, kind, run, data)
        self._next += 1
        self._write({"number": operation.number, "kind": kind, "run": run, "data": data})
        return operation

    def done(self, numbers: Iterable[int], facts: dict[str, dict[str, str]] | None = None) -> None:
        for number in numbers:
            self._write({"done": number})
        if facts:
            self._write({"facts": facts})

    def close(self, *, keep: bool) -> None:
        if not keep:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def adopt(self, uri: str) -> tuple[list[Operation], Facts]:
        """Take over what dead drivers could not deliver to `uri`: copy it here, then remove their journals."""
        operations: list[Operation] = []
        facts = Facts()
        for path in sorted(self.folder.glob("journal-*.jsonl"), key=modified_s):
            if path == self.path:
                continue
            with path.open(encoding="utf-8") as other:
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # the journal's driver is alive
                try:
                    found = read_journal(other)
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    continue  # no driver wrote this file; leave it for a person to inspect
                if found.uri != redact(uri):
                    continue
                pending = [old for old in found.pending if self._may_deliver(old)]
                if pending:
                    learned = {"run_ids": found.facts.run_ids, "model_ids": found.facts.model_ids}
                    facts.learn(learned)
                    self.done((), learned)
                    operations += [self.append(old.kind, old.run, old.data) for old in pending]
                path.unlink()
        return operations, facts

    def _may_deliver(self, operation: Operation) -> bool:
        """Whether a driver of this storage can have written this operation.

        Delivery removes an attached file together with its folder, and uploads a model's folder. A forged journal that
        names other paths could make us delete or upload them.
        """
        data = operation.data
        if operation.kind == "artifact" or data.get("is_copy"):
            place = Path(str(data.get("folder" if operation.kind == "model" else "path")))
            return place.resolve().parent.parent == (self.folder / "files").resolve() and not place.is_symlink()
        if operation.kind == "model":
            return Path(str(data.get("folder"))).resolve().is_relative_to(self.folder.parent.resolve())
        return True


@dataclass(slots=True)
class JournalContent:
    uri: str | None
    pending: list[Operation]
    facts: Facts


def read_journal(lines: Iterable[str]) -> JournalContent:
    """Read a journal; an incomplete last line (the driver was killed) is ignored."""
    uri: str | None = None
    operations: dict[int, Operation] = {}
    facts = Facts()
    for text in lines:
        if not text.endswith("\n"):
            break
        line = json.loads(text)
        if "format" in line:
            uri = line["uri"] if line["format"] == FORMAT else None
        elif "facts" in line:
            facts.learn(line["facts"])
        elif "done" in line:
            operations.pop(line["done"], None)
        else:
            operations[line["number"]] = Operation(line["number"], line["kind"], line["run"], line["data"])
    return JournalContent(uri, list(operations.values()), facts)

"""Which process owns a run that is marked RUNNING, and is it still alive?"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

# A run on another machine counts as abandoned after this many seconds without a heartbeat (one a minute).
SILENT_S = 900.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A process; its start time tells it from a later process with the same pid.

    Args:
        host: name of the machine.
        space: the process namespace (containers may share a host name but not their pids); "" if unknown.
        pid: process id.
        started: start time in the kernel's clock ticks; "" if unknown.
    """

    host: str
    space: str
    pid: int
    started: str

    def to_tag(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_tag(text: str) -> "Owner | None":
        try:
            found = json.loads(text)
            return Owner(str(found["host"]), str(found["space"]), int(found["pid"]), str(found["started"]))
        except (ValueError, KeyError, TypeError):
            return None  # a tag that we did not write


def this_process() -> Owner:
    return Owner(socket.gethostname(), _space(), os.getpid(), _started(os.getpid()) or "")


def state(owner: Owner, last_seen_s: float | None) -> Literal["alive", "dead", "unknown"]:
    """Is the process alive? If it cannot be looked up, `last_seen_s` (Unix time of the last heartbeat) decides."""
    here = this_process()
    if (owner.host, owner.space) == (here.host, here.space):
        return "alive" if _is_alive(owner) else "dead"
    if last_seen_s is not None and time.time() - last_seen_s > SILENT_S:
        return "dead"
    return "unknown"


def _is_alive(owner: Owner) -> bool:
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process exists and belongs to another user
    return _started(owner.pid) in (None, owner.started)


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""  # not Linux: only the host name is compared


def _started(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None  # not Linux
    # The start time is field 22, counted from 1. The command name (field 2) may hold spaces and brackets.
    return text.rpartition(")")[2].split()[19]

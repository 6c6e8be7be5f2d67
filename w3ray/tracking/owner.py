"""Which process owns a run that is marked RUNNING, and is it still alive?"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

# A run of another machine counts as abandoned after this long without a heartbeat (one a minute).
SILENT_S = 900.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, so that a later process with the same number is not taken for it.

    Args:
        host: name of its machine.
        space: its process namespace (containers may share a host name but not their process numbers); "" if unknown.
        pid: its number.
        started: its start time in the kernel's clock ticks; "" if unknown.
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
    """Is the process alive? `last_seen_s` (Unix time of the last heartbeat) decides where it cannot be looked up."""
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
        pass  # somebody else's process: it exists
    return _started(owner.pid) in (None, owner.started)


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""  # no Linux: the host name alone has to do


def _started(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None  # no Linux
    # The command name before it may hold spaces and brackets; the start time is field 22, counted from 1.
    return text.rpartition(")")[2].split()[19]

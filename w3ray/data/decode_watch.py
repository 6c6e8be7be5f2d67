"""Which clip did a decoder read when its process ended, and should that clip be tried again?

A video can hang a decoder, crash its process or use up its memory. None of these is an exception that could be caught.
Ray starts the process again and repeats its task, without end. So each decoder notes on the disk of its node which clip
it is reading. The note is a page of shared memory: it survives the process and costs a microsecond. A clip that ended
a process too often is given up by all decoders of the node.
"""

import faulthandler
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAX_CRASHES = 3
"""A clip is given up after it ended this many processes. Not 1: something else may have ended a process."""
MAX_TIMEOUTS = 2
"""A clip is given up after it exceeded its time limit this many times."""

_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSpec:
    """What the decoders of one stream share: its name, and the seconds that one clip may take."""

    stream: str
    clip_timeout_s: float


class DecodeWatch:
    """The notes of one decoder.

    Args:
        folder: folder on this node, used only by the decoders of one stream.
        decoder: name of this decoder; stays the same when its process is started again.
        timeout_s: seconds that one clip may take.
    """

    def __init__(self, folder: Path, decoder: str, *, timeout_s: float) -> None:
        self._folder, self._timeout_s = folder, timeout_s
        folder.mkdir(parents=True, exist_ok=True)
        page = self._page = folder / f"{decoder}.at"
        self._timer = (folder / f"{decoder}.timer").open("a+")
        if not page.exists():
            page.write_bytes(bytes(_PAGE_BYTES))
        with page.open("r+b") as file:
            self._at = mmap.mmap(file.fileno(), _PAGE_BYTES)
        if clip := self._at[:].rstrip(b"\0").decode():
            self._note_end(clip)
        self._timer.truncate(0)
        self._write("")

    @contextmanager
    def at(self, clip: str) -> Iterator[None]:
        """Watch the reading of `clip` (its short name). The process is ended if this takes longer than the limit.

        Time to fetch the video from a storage does not count: see `unhurried`.
        """
        global _ticking
        self._write(clip)
        _ticking = self
        self._start_timer()
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            _ticking = None
            self._write("")

    def close(self) -> None:
        """Forget this decoder, which is no longer needed. Its notes about clips stay."""
        self._at.close()
        self._timer.close()
        self._page.unlink()
        Path(self._timer.name).unlink()

    def _start_timer(self) -> None:
        # A C thread ends the process: a Python thread would wait for a decoder that holds the interpreter lock.
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=self._timer)

    def given_up(self, clip: str) -> str | None:
        """Why `clip` is not tried any more; None: it is still tried."""
        note = self._notes(clip)
        if not note.exists():
            return None
        ends = note.read_text().split()
        if ends.count("timeout") >= MAX_TIMEOUTS:
            return f"decoding took longer than {self._timeout_s:g} s, {MAX_TIMEOUTS} times (resources.clip_timeout_s)"
        if ends.count("crash") >= MAX_CRASHES:
            return f"its decoder's process ended {MAX_CRASHES} times while reading it (a crash, or out of memory)"
        return None

    def _note_end(self, clip: str) -> None:
        self._timer.seek(0)
        kind = "timeout" if self._timer.read(7) == "Timeout" else "crash"
        with self._notes(clip).open("a") as file:
            file.write(f"{kind}\n")

    def _notes(self, clip: str) -> Path:
        return self._folder / f"{clip}.ends"

    def _write(self, clip: str) -> None:
        self._at[:] = clip.encode().ljust(_PAGE_BYTES, b"\0")


_ticking: DecodeWatch | None = None  # a process has only one such timer, so only one watch can use it


@contextmanager
def unhurried() -> Iterator[None]:
    """Stop the clip's time limit while its video is fetched: slow storage is not a bad clip, and has its own deadline.

    Afterwards the clip has its whole time again.
    """
    watch = _ticking
    if watch is not None:
        faulthandler.cancel_dump_traceback_later()
    try:
        yield
    finally:
        if watch is not None:
            watch._start_timer()

"""Standard output and standard error while a command runs: the reader may close, and any character may be written.

If the reader of a pipe closes it (`w3ray ... | head`), further output is dropped and the command continues to its end.
Neither the command nor a library in it sees an error.
"""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, TextIO, cast

from w3ray._text import plain_lines
from w3ray.errors import RunError

# Where the JSON document goes while a command runs with --json. None: standard output.
_document_stream: IO[str] | None = None
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


@contextmanager
def guarded() -> Iterator[None]:
    """Replace standard output and standard error for a command: see `_Pipe` and `_Visible`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        cast(Any, _Visible(_writable(stream, number))) for number, stream in enumerate(before, start=1)
    )
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def reserved_stdout(active: bool) -> Iterator[None]:
    """Reserve standard output for the JSON document: all other output to it goes to standard error.

    This also holds for the file descriptor, because C++ libraries and child processes (FFmpeg, Ray) write to it.
    """
    global _document_stream
    if not active:
        yield
        return
    python_stdout = sys.stdout
    python_stdout.flush()
    saved_fd = os.dup(1) if _is_descriptor(python_stdout, 1) else None
    if saved_fd is not None:
        os.dup2(2, 1)
    _document_stream = python_stdout if saved_fd is None else _on_pipe(saved_fd, "utf-8", closefd=True)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = python_stdout
        if saved_fd is not None:
            _document_stream.flush()
            os.dup2(saved_fd, 1)
            _document_stream.close()
        _document_stream = None


def write_document(text: str) -> None:
    """Write the single JSON document, which is ASCII, and flush it."""
    stream = sys.stdout if _document_stream is None else _document_stream
    stream.write(text + "\n")
    stream.flush()


class _Pipe(io.FileIO):
    """A descriptor whose reader may close it. Output after that is dropped.

    If standard error fails for another reason (a full disk), its output is dropped too, because nobody can be told.
    For standard output this is an error, raised once.
    """

    def __init__(self, descriptor: int, *, closefd: bool, lossy: bool) -> None:
        super().__init__(descriptor, "w", closefd=closefd)
        self._lossy = lossy

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except ConnectionError:
            # Redirect the descriptor, for code that writes to it directly.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        except OSError as error:
            if not self._lossy:
                self._lossy = True
                raise RunError(f"standard output cannot be written ({error.strerror})") from error
        return memoryview(data).nbytes


class _Visible:
    """The stream that libraries get: text that bypasses w3ray's console is printed, but cannot move or colour anything.

    w3ray's console, and Rich's console for `--help`, find the stream itself by the name `rich_proxied_file`.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        parts = re.split("([\r\t])", _COLOURS.sub("", text))  # progress bars use \r
        self.rich_proxied_file.write("".join(part if part in "\r\t" else plain_lines(part) for part in parts))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def _writable(stream: TextIO | None, descriptor: int) -> IO[str]:
    if stream is None:  # closed by the parent process
        return open(os.devnull, "w", encoding="utf-8")
    if not _is_descriptor(stream, descriptor):
        return stream
    stream.flush()
    return _on_pipe(descriptor, stream.encoding, closefd=False)


def _on_pipe(descriptor: int, encoding: str, *, closefd: bool) -> IO[str]:
    is_stderr = descriptor == 2
    buffer = io.BufferedWriter(_Pipe(descriptor, closefd=closefd, lossy=is_stderr))
    buffered_by_line = is_stderr or os.isatty(descriptor)
    return io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace", line_buffering=buffered_by_line)


def _is_descriptor(stream: Any, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)
    except (AttributeError, OSError):  # a replaced stream (tests, notebooks) has no descriptor
        return False

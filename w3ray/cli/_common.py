"""What do all commands share: exit codes, error lines, the one JSON document, the console?

A command looks like this; `as_json` must be the name of its `--json` option:

    @run_command
    def check(manifest: str, as_json: JsonOption = False) -> None:
        "Docstring shown by --help."
        finish({"clips": 12}, as_json, "12 clips")
"""

import functools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Annotated, Any, NoReturn

import typer
from rich.console import Console, RenderableType

from w3ray._format import without_nan
from w3ray._redact import redact, redacted
from w3ray.errors import InputError, RunError

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output; all else goes to standard error.")
]

# Where the JSON document goes while a command runs under --json; None: standard output.
_document_stream: IO[str] | None = None


def error_console() -> Console:
    """A console on standard error: displays, progress, warnings. Made anew so that it follows a redirected stderr."""
    return Console(stderr=True, highlight=False)


def finish(document: Any, as_json: bool, text: RenderableType | None = None) -> None:
    """End a command: print `document` as the one JSON document, or `text` for people, on standard output.

    Raises:
        TypeError: `document` holds something that JSON has no form for.
    """
    if as_json:
        _write_document(document)
    elif text is not None:
        console = Console(highlight=False)
        text = redact(text) if isinstance(text, str) else text
        # Off a terminal a long path must stay one line: scripts cut and grep it.
        console.print(text, soft_wrap=isinstance(text, str))


def run_command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the project's exit codes and error lines.

    InputError -> 2, RunError -> 1, Ctrl-C or SIGTERM -> 130, each with one line on standard error; any other exception
    is a bug: exit code 1 with its traceback. Under `--json` whatever libraries print goes to standard error, and a
    failure prints `{"error": {"kind", "message"}, "exit_code"}` as the one document.
    """

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("as_json"))
        with _reserve_stdout(as_json), _sigterm_interrupts():
            try:
                function(*args, **kwargs)
            except InputError as error:
                _fail("input", str(error), EXIT_BAD_INPUT, as_json)
            except RunError as error:
                _fail("run", str(error), EXIT_FAILED, as_json)
            except KeyboardInterrupt as error:
                _fail("interrupted", str(error) or "interrupted", EXIT_INTERRUPTED, as_json)
            except (typer.Exit, typer.Abort):
                raise
            except Exception as error:
                if hasattr(error, "format_message"):  # a usage error, for main() to report
                    raise
                sys.stderr.write(redact(traceback.format_exc()))
                _fail("internal", f"{type(error).__name__}: {error}", EXIT_FAILED, as_json)

    return command


def report_usage_error(error: Exception, *, as_json: bool) -> int:
    """Report a wrong option or argument in one line; returns the exit code for bad input."""
    message = str(error.format_message())  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if context is not None and context.command_path:
        message = f"{message} See '{context.command_path} --help'."
    _print_failure("usage", message, EXIT_BAD_INPUT, as_json)
    return EXIT_BAD_INPUT


def _fail(kind: str, message: str, exit_code: int, as_json: bool) -> NoReturn:
    _print_failure(kind, message, exit_code, as_json)
    raise typer.Exit(exit_code)


def _print_failure(kind: str, message: str, exit_code: int, as_json: bool) -> None:
    message = redact(message)
    for line in message.splitlines() or [kind]:
        sys.stderr.write(f"error: {line}\n")
    sys.stderr.flush()
    if as_json:
        _write_document({"error": {"kind": kind, "message": message}, "exit_code": exit_code})


def _write_document(document: Any) -> None:
    text = json.dumps(without_nan(redacted(document)), indent=2, allow_nan=False)
    stream = sys.stdout if _document_stream is None else _document_stream
    stream.write(text + "\n")
    stream.flush()


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, in order: it is what `ray job stop`, Slurm and Kubernetes send first."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def _reserve_stdout(active: bool) -> Iterator[None]:
    """Keep standard output for the JSON document alone: all else that is written to it goes to standard error.

    Also at the level of file descriptors, because C++ libraries and child processes (FFmpeg, Ray) write there.
    """
    global _document_stream
    if not active:
        yield
        return
    python_stdout = sys.stdout
    python_stdout.flush()
    saved_fd = os.dup(1) if _is_real_stdout(python_stdout) else None
    if saved_fd is not None:
        os.dup2(2, 1)
    _document_stream = python_stdout if saved_fd is None else os.fdopen(saved_fd, "w", encoding="utf-8")
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = python_stdout
        if saved_fd is not None:
            os.dup2(saved_fd, 1)
            _document_stream.close()
        _document_stream = None


def _is_real_stdout(stream: Any) -> bool:
    try:
        return bool(stream.fileno() == 1)
    except (AttributeError, OSError):  # a replaced stream (tests, notebooks) has no descriptor
        return False

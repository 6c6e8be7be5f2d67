"""What do all commands share: exit codes, error lines, and the single JSON document?

A command looks like this. Its `--json` option must be named `as_json`:

    @run_command
    def check(manifest: str, as_json: JsonOption = False) -> None:
        "Docstring shown by --help."
        finish({"clips": 12}, as_json, "12 clips")
"""

import functools
import json
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from w3ray._format import without_nan
from w3ray._redact import redact, redacted
from w3ray._text import one_line
from w3ray.cli._console import RenderableType, write_error, write_out
from w3ray.cli._streams import reserved_stdout, write_document
from w3ray.errors import InputError, RunError

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output; all else goes to standard error.")
]


def finish(document: Any, as_json: bool, text: RenderableType | Sequence[str] | None = None) -> None:
    """End a command: print `document` as the single JSON document, or `text` for people, on standard output.

    Args:
        text: one line, several lines, or something drawn, such as a table.

    Raises:
        TypeError: `document` holds a value that JSON cannot hold.
    """
    if as_json:
        _write_document(document)
    elif text is not None:
        write_out(text)


def run_command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the project's exit codes and error lines.

    InputError -> 2, RunError -> 1, Ctrl-C or SIGTERM -> 130, each with one line on standard error. Any other exception
    is a bug: exit code 1 with its traceback. With `--json`, the output of libraries goes to standard error, and a
    failure prints `{"error": {"kind", "message"}, "exit_code"}` as the single document.
    """

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("as_json"))
        with reserved_stdout(as_json), _sigterm_interrupts():
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
            except UnicodeEncodeError as error:  # a file name that is not UTF-8; Arrow needs UTF-8 paths
                _fail("input", one_line(f"{error.object[:300]}: is not UTF-8 text; rename it"), EXIT_BAD_INPUT, as_json)
            except Exception as error:
                if hasattr(error, "format_message"):  # a usage error, for main() to report
                    raise
                write_error(*redact(traceback.format_exc()).rstrip("\n").split("\n"))
                _fail("internal", f"{type(error).__name__}: {error}", EXIT_FAILED, as_json)

    return command


def report_input_error(error: InputError, *, as_json: bool) -> int:
    """Report what is wrong before a command begins; returns the exit code for bad input."""
    _print_failure("input", str(error), EXIT_BAD_INPUT, as_json)
    return EXIT_BAD_INPUT


def report_usage_error(error: Exception, *, as_json: bool) -> int:
    """Report a wrong option or argument in one line. Returns the exit code for bad input."""
    message, context = str(error.format_message()), getattr(error, "ctx", None)  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        write_error(*filter(None, message.split("\n")))  # the help, if it was not shown already
        message = "Missing command."
        if not as_json:
            return EXIT_BAD_INPUT
    message = one_line(message)
    if context is not None and context.command_path:
        message = f"{message} See '{context.command_path} --help'."
    _print_failure("usage", message, EXIT_BAD_INPUT, as_json)
    return EXIT_BAD_INPUT


def _fail(kind: str, message: str, exit_code: int, as_json: bool) -> NoReturn:
    _print_failure(kind, message, exit_code, as_json)
    raise typer.Exit(exit_code)


def _print_failure(kind: str, message: str, exit_code: int, as_json: bool) -> None:
    message = redact(message)
    write_error(*(f"error: {line}" for line in (message or kind).split("\n")))
    if as_json:
        _write_document({"error": {"kind": kind, "message": message}, "exit_code": exit_code})


def _write_document(document: Any) -> None:
    write_document(json.dumps(without_nan(redacted(document)), indent=2, allow_nan=False))


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end a command cleanly, like Ctrl-C. `ray job stop`, Slurm and Kubernetes send SIGTERM first."""
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

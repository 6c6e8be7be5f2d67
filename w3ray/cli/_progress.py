"""How does a command that reads many files show its progress?"""

import time

from w3ray._format import duration
from w3ray.cli._console import Line, error_console


class Progress:
    """A line on standard error: rewritten each second on a terminal, a new line every few seconds in a log.

    `line` holds {done} and {total}. Speed and time left are added.
    """

    def __init__(self, line: str, every_s: float = 5.0) -> None:
        self._line = line
        self._console = error_console()
        self._every_s = 1.0 if self._console.is_terminal else every_s
        self._began_s = self._told_s = time.monotonic()
        self._first: int | None = None
        self._wrote = False

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        self._first = done if self._first is None else self._first
        due = now_s - self._told_s >= self._every_s or (done == total and self._wrote)
        if not due:
            return
        self._told_s, self._wrote = now_s, True
        per_s = (done - self._first) / (now_s - self._began_s)
        left = f", {duration((total - done) / per_s)} left" if per_s > 0 and done < total else ""
        line = f"{self._line.format(done=done, total=total)} ({per_s:.1f}/s{left})"
        if self._console.is_terminal:
            self._console.print(Line(f"{line:<78}"), end="\r" if done < total else "\n", soft_wrap=True)
        else:
            self._console.print(Line(line), soft_wrap=True)

"""How does a command of many files say how far it is?"""

import time

from w3ray.cli._common import error_console


class Progress:
    """A line on standard error every few seconds; `line` holds {done} and {total}."""

    def __init__(self, line: str, every_s: float = 5.0) -> None:
        self._line = line
        self._every_s = every_s
        self._last_s = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now_s = time.perf_counter()
        if now_s - self._last_s >= self._every_s:
            self._last_s = now_s
            error_console().print(self._line.format(done=done, total=total))

"""How long tests wait for something that surely comes, and the loop that waits for it."""

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 300.0
"""The longest wait of a test for something that surely comes.

It only decides how long a broken thing takes to fail. It is long because tests run beside other load.
"""


def wait_until(
    condition: Callable[[], T],
    *,
    every_s: float = 0.05,
    what: Callable[[], str] | str = "",
    limit_s: float = PATIENCE_S,
) -> T:
    """Ask for `condition` until it is true. Returns its value.

    Args:
        every_s: the pause between two questions.
        what: the text of the failure: what is missing, or a function such as one that reads a log.

    Raises:
        AssertionError: it was not true within `limit_s`.
    """
    end = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s:g} s: {what() if callable(what) else what}")
        time.sleep(every_s)
    return found


def wait_while_alive(
    process: "subprocess.Popen[str] | subprocess.Popen[bytes]",
    condition: Callable[[], T],
    *,
    every_s: float = 0.05,
    what: Callable[[], str] | str = "",
    limit_s: float = PATIENCE_S,
) -> T:
    """`wait_until`, for something that a process does. It fails at once if the process ends before."""

    def found() -> T:
        result = condition()
        if not result and process.poll() is not None:
            said = what() if callable(what) else what
            raise AssertionError(f"the process ended with exit code {process.returncode}: {said}")
        return result

    return wait_until(found, every_s=every_s, what=what, limit_s=limit_s)

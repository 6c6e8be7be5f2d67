"""Which failures of a worker are worth another try, and which ones would only happen again?

Loaded by Ray Train's controller, so it imports no torch.
"""

import re
from typing import Any

from ray.train import UserCallback

from w3ray.errors import RunError
from w3ray.lease import LeaseLost
from w3ray.storage import StorageFailing, StorageRefused


class TeacherMissing(RunError):
    """The workers of a stage waited for its teacher's model, and it did not come: the stage can be started again."""


class StopAtBugs(UserCallback):
    """Ends the stage at an exception that another start of the workers would meet again, instead of retrying it."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in worker_exceptions.items():
            if isinstance(_original(error), _BUGS) or _of_storage(error) is not None:
                raise RunError(f"worker {rank}: {last_line(error)}")


_BUGS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
    # Tried until the deadline, and what a store refuses it refuses again.
    StorageFailing,
    StorageRefused,
    LeaseLost,
)


_STORAGE_LINE = re.compile(r"^(?:.*\)\s*)?w3ray\.storage\.(?:StorageFailing|StorageRefused): (.+)$", re.MULTILINE)


def _original(error: BaseException) -> BaseException:
    """What the worker itself raised, inside Ray's wrappers."""
    for name in ("_base_exc", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return _original(inner)
    return error


def _of_storage(error: BaseException) -> str | None:
    """What the storage did wrong. Ray Data hides a decoder's exception in the text of its own."""
    found = _STORAGE_LINE.findall(str(error))
    return found[-1] if found else None


def last_line(error: BaseException) -> str:
    """The end of an exception's text, which in Ray's errors is the worker's own exception."""
    if (line := _of_storage(error)) is not None:
        return line
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

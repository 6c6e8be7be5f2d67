"""What does a store that fails, or refuses, end with?"""

import re

from w3ray.errors import InputError, RunError


class StorageFailing(RunError):
    """A store did not do what was asked of it until the deadline: nothing is wrong with what was asked."""


class StorageRefused(InputError):
    """A store will not do what is asked: no such bucket, no permission, wrong credentials."""


def reason_of(error: BaseException) -> str:
    """An error in one line, without the name that is said anyway.

    And without "AWS Error": Ray Train would begin anew with what was tried long enough.
    """
    text = re.sub(r"^When .* in bucket '[^']*': ", "", first_line(error, 600))
    return text.replace("AWS Error ", "")[:200]


def first_line(error: BaseException, limit: int = 200) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]

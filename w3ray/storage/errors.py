"""Which errors are raised when a store fails or refuses?"""

import re

from w3ray.errors import InputError, RunError


class StorageFailing(RunError):
    """A store kept failing until the deadline. The request itself was correct."""


class StorageRefused(InputError):
    """A store refuses the request: no such bucket, no permission, or wrong credentials."""


def reason_of(error: BaseException) -> str:
    """An error in one line, without the name of the bucket, which our message gives anyway.

    "AWS Error" is removed, too: Ray Train retries errors that contain it, and we have already retried long enough.
    """
    text = re.sub(r"^When .* in bucket '[^']*': ", "", first_line(error, 600))
    return text.replace("AWS Error ", "")[:200]


def first_line(error: BaseException, limit: int = 200) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]

"""Which known name did the user probably mean?"""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None where none is like it."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'? " to be put before what else is said, or nothing."""
    match = nearest(name, known)
    return f"did you mean {match!r}? " if match else ""

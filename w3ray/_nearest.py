"""Which known name did the user probably mean?"""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None if no name is like it."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The beginning of a message: "did you mean 'x'? ", or nothing if no known name is like it."""
    match = nearest(name, known)
    return f"did you mean {match!r}? " if match else ""

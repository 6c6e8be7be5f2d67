"""What is a file called that belongs to something with a name of its own, such as a video, a split or a head?"""

import hashlib
import re
from collections.abc import Sequence

_ODD = re.compile(r"[^\w.\-+@ ]")
_LONGEST = 150  # bytes: file systems take 255, and endings and names of unfinished files come on top


def file_stem(name: str) -> str:
    """A name as (the beginning of) a file's.

    A plain one stays as it is. One that has slashes, control characters and the like, is too long or is no name of a
    file at all ends with its digest instead, so that two that differ stay different.
    """
    content = name.encode("utf-8", "surrogateescape")
    plain = _ODD.sub("_", name)
    if plain == name and len(content) <= _LONGEST and name.strip(" .") and name[0] not in " .":
        return name
    short = plain.encode("utf-8", "ignore")[:_LONGEST].decode("utf-8", "ignore").lstrip(" .")
    return f"{short or '_'}-{hashlib.sha256(content).hexdigest()[:8]}"


def unique_stems(names: Sequence[str]) -> list[str]:
    """A stem for each name, no two of which are equal, even where a file system knows no case.

    A name that is there once keeps its own, and so does the first of several; the others are numbered in their order,
    "a", "a-2", "a-3", past names that are taken.
    """
    plain = [file_stem(name) for name in names]
    taken = {stem.casefold() for stem in plain}
    given: set[str] = set()
    stems = []
    for stem in plain:
        unique, number = stem, 1
        while unique.casefold() in (given if number == 1 else taken):
            number += 1
            unique = f"{stem}-{number}"
        given.add(unique.casefold())
        taken.add(unique.casefold())
        stems.append(unique)
    return stems

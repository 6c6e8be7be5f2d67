"""How is a file named after something that has its own name, such as a video, a split or a head?"""

import hashlib
import re
from collections.abc import Sequence

_ODD = re.compile(r"[^\w.\-+@ ]")
_LONGEST = 150  # bytes: file systems allow 255, and endings and marks of unfinished files are added


def file_stem(name: str) -> str:
    """A file name, or the beginning of one, made from a name.

    A plain name stays as it is. A name that has slashes, control characters and the like, is too long, or is not a
    valid file name ends with its digest instead. So two different names stay different.
    """
    content = name.encode("utf-8", "surrogateescape")
    plain = _ODD.sub("_", name)
    if plain == name and len(content) <= _LONGEST and name.strip(" .") and name[0] not in " .":
        return name
    short = plain.encode("utf-8", "ignore")[:_LONGEST].decode("utf-8", "ignore").lstrip(" .")
    return f"{short or '_'}-{hashlib.sha256(content).hexdigest()[:8]}"


def unique_stems(names: Sequence[str]) -> list[str]:
    """A stem for each name. No two are equal, even on a file system that ignores case.

    The first of several equal stems stays as it is. The others are numbered in order, "a", "a-2", "a-3"; numbers that
    would give a stem that is already taken are skipped.
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

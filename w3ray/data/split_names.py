"""Which split does a name mean? The one table of the names that data sets give to train, val and test."""

from collections.abc import Iterable

from w3ray.errors import InputError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Upper and lower case do not matter."""


def split_name(name: str) -> str:
    """The standard name of a split: "train" for "Training". A name that is not in the table stays as it is."""
    name = name.strip()
    return SPLIT_NAMES.get(name.casefold(), name)


def is_split_name(name: str) -> bool:
    return name.strip().casefold() in SPLIT_NAMES


def split_names(names: Iterable[str], where: str, *, synonyms: bool = False) -> dict[str, str]:
    """The split that each of some names means.

    Args:
        names: the names in the data.
        where: for errors.
        synonyms: whether two words may mean one split, such as "train" and "training" in a column of a table.

    Raises:
        InputError: two names differ only in case, or (without `synonyms`) mean the same split.
    """
    found: dict[str, str] = {}
    first: dict[str, str] = {}
    for name in dict.fromkeys(names):
        found[name] = split_name(name)
        key = name.casefold() if synonyms else found[name].casefold()
        if first.setdefault(key, name) != name:
            raise InputError(
                f"{where}: {first[key]!r} and {name!r} both name the split {found[name]!r}; "
                "give its clips one name, in one spelling"
            )
    return found


def split_among(name: str, known: Iterable[str], where: str) -> str | None:
    """The split in `known` that has this name, in upper or lower case; None if there is none.

    A synonym, such as "dev" for "val", does not count: a table from elsewhere may have both.

    Raises:
        InputError: several splits have this name, such as "train" and "Train".
    """
    key = name.strip().casefold()
    meant = [one for one in known if one.casefold() == key]
    if len(meant) > 1:
        raise InputError(f"{where}: the split {name!r} may be {' or '.join(map(repr, meant))}; give it one name")
    return meant[0] if meant else None

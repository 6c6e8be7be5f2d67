"""How does a path become an address, and an address a path again?

Only this module converts between the two: `%`, `?` and `#` may be in the name of a folder, but mean something else in
an address.
"""

import os
from pathlib import Path
from urllib.parse import quote, unquote

_FILE = "file://"
_SQLITE, _SQLITE_QUOTED = "sqlite:///", "sqlite+pysqlite:///"


def file_address(path: str | os.PathLike[str]) -> str:
    """`file:///...` of a path."""
    return Path(path).absolute().as_uri()


def local_path(location: str) -> str:
    """The path of a location on this machine: the path in a `file://` address; any other location unchanged."""
    if not location.startswith(_FILE):
        return location
    rest = location.removeprefix(_FILE)
    return unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest)


def sqlite_address(path: str | os.PathLike[str]) -> str:
    """The address of a SQLite file for MLflow: for most paths `sqlite:///` and the path."""
    text = str(path)
    return quoted_sqlite(_SQLITE + text.replace("%", quote("%")).replace("?", quote("?")))


def quoted_sqlite(address: str) -> str:
    """A SQLite address in a form whose escapes MLflow understands. Any other address is returned unchanged.

    SQLAlchemy resolves the escapes. But MLflow makes the folder first and takes the escapes for letters of its name,
    unless the address also names the driver.
    """
    escaped = address.startswith(_SQLITE) and "%" in address
    return _SQLITE_QUOTED + address.removeprefix(_SQLITE) if escaped else address


def sqlite_path(address: str) -> Path | None:
    """The file of a SQLite address. None for any other address, and for a database that is not in a file."""
    for prefix in (_SQLITE, _SQLITE_QUOTED):
        if address.startswith(prefix):
            path = unquote(address.removeprefix(prefix).partition("?")[0])
            return Path(path) if path and not path.startswith((":", "file:")) else None
    return None

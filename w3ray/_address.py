"""How does a path become an address, and an address a path again?

Nobody else puts the two together: `%`, `?` and `#` in the name of a folder mean something in an address.
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
    """The path of a location on this machine: that of a `file://` address, else the location itself."""
    if not location.startswith(_FILE):
        return location
    rest = location.removeprefix(_FILE)
    return unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest)


def sqlite_address(path: str | os.PathLike[str]) -> str:
    """The address by which MLflow knows a SQLite file: for most paths just `sqlite:///` before it."""
    text = str(path)
    return quoted_sqlite(_SQLITE + text.replace("%", quote("%")).replace("?", quote("?")))


def quoted_sqlite(address: str) -> str:
    """A SQLite address with escapes so that MLflow keeps to it: another one as it is.

    SQLAlchemy resolves the escapes. MLflow makes the folder first, and there takes them for letters of its name, unless
    the address names the driver, too.
    """
    escaped = address.startswith(_SQLITE) and "%" in address
    return _SQLITE_QUOTED + address.removeprefix(_SQLITE) if escaped else address


def sqlite_path(address: str) -> Path | None:
    """The file of a SQLite address; None for another one, and for a database that is in no file."""
    for prefix in (_SQLITE, _SQLITE_QUOTED):
        if address.startswith(prefix):
            path = unquote(address.removeprefix(prefix).partition("?")[0])
            return Path(path) if path and not path.startswith((":", "file:")) else None
    return None

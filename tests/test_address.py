"""Paths become addresses and paths again, for any characters."""

from pathlib import Path
from urllib.request import url2pathname

import pytest
from sqlalchemy.engine import make_url

from w3ray._address import file_address, local_path, quoted_sqlite, sqlite_address, sqlite_path
from w3ray.data.manifest.files import _absolute
from w3ray.data.roots import outside
from w3ray.storage import storage_path

LETTERS = " %?#&+:;=@'\"[]{}()\\$~!*,|<>^`äあ\n"
NAMES = ["plain", *(f"a{letter}b" for letter in LETTERS), "My%20Runs", "a%2Fb", "%", "50%?#"]


@pytest.mark.parametrize("name", NAMES)
def test_each_letter(name, tmp_path):
    path = tmp_path / name / "mlflow.db"
    assert sqlite_path(sqlite_address(path)) == path
    assert make_url(sqlite_address(path)).database == str(path), "SQLAlchemy opens the same file"
    assert local_path(file_address(path)) == str(path)
    assert url2pathname(file_address(path).removeprefix("file://")) == str(path), "MLflow's way"
    assert storage_path(file_address(path)) == path
    assert storage_path(str(path)) == path
    assert _absolute(file_address(path)) == str(path)
    assert not outside(file_address(path), [str(path.parent)])
    assert outside(file_address(path), [str(tmp_path / "other")])


def test_most_addresses_look_as_people_write_them():
    assert sqlite_address(Path("/data/My Runs/mlflow.db")) == "sqlite:////data/My Runs/mlflow.db"
    assert sqlite_address(Path("runs/mlflow.db")) == "sqlite:///runs/mlflow.db"
    assert sqlite_address("/data/My%20Runs/a.db") == "sqlite+pysqlite:////data/My%2520Runs/a.db"


def test_what_was_given_stays_what_it_means():
    for address in ("http://me:a%20b@host/x%20y", "sqlite:///runs/mlflow.db?timeout=9", "postgresql://host/a%20b"):
        assert quoted_sqlite(address) == address
    assert quoted_sqlite("sqlite:////a%20b/c.db?timeout=9") == "sqlite+pysqlite:////a%20b/c.db?timeout=9"
    assert sqlite_path("sqlite:////a%20b/c.db?timeout=9") == Path("/a b/c.db")
    for address in ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:a.db?uri=true", "http://host"):
        assert sqlite_path(address) is None
    assert local_path("s3://bucket/a%20b") == "s3://bucket/a%20b"
    assert local_path("a%20b") == "a%20b"
    assert local_path("file://localhost/a%20b") == "/a b"

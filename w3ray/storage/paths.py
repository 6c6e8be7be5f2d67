"""Where do files lie, on this machine's disk or on a remote store, and what can be done with them?

`storage_path` turns what a user wrote into a `Path`, or into a `RemotePath` for `s3://...` and every other scheme that
pyarrow or fsspec knows. A `RemotePath` has the same methods, but fewer. Both can be sent to any process. Each process
reads the endpoint and the credentials from its own environment, so no secret is sent.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from w3ray._address import local_path
from w3ray.errors import InputError
from w3ray.storage._patient import PatientFileSystem
from w3ray.storage._systems import inner, inner_path, is_remote, options_of, root_of


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or folder of a remote file system. It has the methods of `pathlib.Path` that object storage supports.

    Args:
        uri: `s3://bucket/folder/file`, without a slash at the end.
        query: options of the file system as in `s3://bucket/folder?region=eu-west-1`, or "". Over HTTP it is a part
            of the file's address, for example of a signed URL.
    """

    uri: str
    query: str = ""

    def __str__(self) -> str:
        return f"{self.uri}?{self.query}" if self.query else self.uri

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.uri}/{name}", self.query)

    @property
    def name(self) -> str:
        return self.uri.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.uri.rpartition("/")[0], self.query)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """A pyarrow file system with the same retries."""
        return pafs.PyFileSystem(self._handler)

    @property
    def path(self) -> str:
        """The path within `filesystem`."""
        return inner_path(self.uri, self.query)

    @property
    def _handler(self) -> "PatientFileSystem":
        return PatientFileSystem(root_of(self.uri), options_of(self.uri, self.query))

    def info(self) -> pafs.FileInfo:
        info: pafs.FileInfo = self._handler.get_file_info([self.path])[0]
        return info

    def exists(self) -> bool:
        return bool(self.info().type != pafs.FileType.NotFound)

    def is_file(self) -> bool:
        return bool(self.info().type == pafs.FileType.File)

    def is_dir(self) -> bool:
        return bool(self.info().type == pafs.FileType.Directory)

    def iterdir(self) -> Iterator["RemotePath"]:
        """The files and folders directly in this folder, sorted by name; none if the folder does not exist."""
        found = self._handler.get_file_info_selector(pafs.FileSelector(self.path, allow_not_found=True))
        return iter([self / name for name in sorted(info.base_name for info in found)])

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:
        """Read as a stream. Each read is retried by itself."""
        return io.BufferedReader(self._handler.reader(self.path), 1 << 20)

    def read_bytes(self) -> bytes:
        return self._handler.read(self.path)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Write the whole file: a reader sees the old content or the new content, never a mixture."""
        self._handler.write(self.path, content)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.write_bytes(text.encode(encoding))

    def upload(self, source: Path) -> None:
        """Copy a local file to this path."""
        self._handler.upload(source, self.path)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._handler.delete_file(self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise


StoragePath = Path | RemotePath
"""A file or folder, on this machine's disk or on a remote store."""


def storage_path(location: str | os.PathLike[str] | RemotePath) -> StoragePath:
    """Turn what a user wrote into a path: an absolute local one, or a remote one. A path object is returned unchanged.

    Raises:
        InputError: the URI has an unknown scheme, or credentials in it.
    """
    if isinstance(location, Path | RemotePath):
        return location
    text = os.fspath(location)
    if not is_remote(text):
        return Path(local_path(text)).absolute()
    uri, _, query = text.partition("?")
    if "@" in urlsplit(uri).netloc:
        raise InputError(f"{uri}: no credentials in an address; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    found = RemotePath(uri.rstrip("/"), query)
    inner(root_of(found.uri), options_of(found.uri, query))
    return found


def file_system(location: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system of a location and the path within it.

    Raises:
        InputError: as in `storage_path`.
    """
    found = storage_path(location)
    return (pafs.LocalFileSystem(), str(found)) if isinstance(found, Path) else (found.filesystem, found.path)


def file_digest(path: StoragePath) -> dict[str, Any]:
    """Size and SHA-256 of a file, read as a stream: `{"bytes", "sha256"}`.

    Raises:
        FileNotFoundError: no such file.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def file_size(path: StoragePath) -> int:
    """Size of an existing file, in bytes."""
    return path.stat().st_size if isinstance(path, Path) else int(path.info().size)


def modified_s(path: StoragePath) -> float:
    """When a file was last written, in seconds since 1970 by the clock of its store; 0 if the store does not say."""
    if isinstance(path, Path):
        return path.stat().st_mtime
    mtime = path.info().mtime
    return 0.0 if mtime is None else float(mtime.timestamp())

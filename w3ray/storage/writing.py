"""How are files and folders written atomically (a reader sees the old one or the new one), and how are they removed?"""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from w3ray.errors import InputError
from w3ray.storage.errors import StorageRefused
from w3ray.storage.folders import local_copy_errors
from w3ray.storage.paths import RemotePath, StoragePath

PART_SUFFIX = ".part"
"""Suffix of files that are still being written. A killed process may leave one behind; nothing reads it."""


@contextmanager
def replacing(
    path: StoragePath, *, durable: bool = False, parents: bool = True, suffix: str = PART_SUFFIX
) -> Iterator[Path]:
    """A local path to write a file at. The file then replaces `path`. On an error, `path` stays as it was.

    Args:
        durable: even a power cut leaves either the old file or the new one.
        parents: make the folders above `path`; False: they must exist.
        suffix: how the name of the file ends while it is written, for writers that look at the suffix.

    Raises:
        OSError: the file cannot be written.
        StorageFailing, StorageRefused: the store does not accept the file.
    """
    if isinstance(path, RemotePath):
        with local_copy_errors(path), tempfile.TemporaryDirectory(prefix="w3ray-") as temporary:
            part = Path(temporary) / f"part{suffix}"
            yield part
            path.upload(part)
        return
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}{suffix}")
    try:
        yield part
        if durable:
            _to_disk([part])
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: StoragePath, content: bytes, *, durable: bool = False) -> None:
    """Write a whole file: see `replacing`."""
    if isinstance(path, RemotePath):
        path.write_bytes(content)  # an object appears whole
        return
    with replacing(path, durable=durable) as part:
        part.write_bytes(content)


def write_text(path: StoragePath, text: str, *, durable: bool = False) -> None:
    """Write a whole file of UTF-8: see `replacing`."""
    write_bytes(path, text.encode(), durable=durable)


def write_json(path: StoragePath, document: Mapping[str, Any]) -> None:
    """Write a whole JSON document: a reader sees the old one or the new one, even after a power cut."""
    write_text(path, json.dumps(document, indent=2), durable=True)


def append_text(path: StoragePath, text: str) -> None:
    """Append to a file; make it if it does not exist. For one writer only: an object is rewritten as a whole."""
    if isinstance(path, RemotePath):
        path.write_text((path.read_text() if path.is_file() else "") + text)
    else:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


@contextmanager
def replacing_folder(folder: Path, *, durable: bool = False, over: bool = True) -> Iterator[Path]:
    """An empty folder to write into. It then replaces `folder`. On an error, `folder` stays as it was.

    The folders above it are made. For a moment between the old and the new folder, there may be none.

    Args:
        durable: the new content is on the disk before it replaces the old one.
        over: replace an existing folder; False: replace only an empty one.

    Raises:
        OSError: the folder cannot be written, or the old one is kept.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{folder.name}.{kind}-{uuid.uuid4().hex}") for kind in ("new", "old"))
    new.mkdir()
    try:
        yield new
        if durable:
            _to_disk([*new.iterdir(), new])
        if over and folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        if durable:
            _to_disk([folder.parent])
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def remove_tree(folder: StoragePath) -> None:
    """Remove a folder and all its content. On a disk, a missing folder or one that cannot be removed is no error."""
    if isinstance(folder, RemotePath):
        folder.filesystem.delete_dir(folder.path)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def require_writable(storage: StoragePath) -> None:
    """Write a test file where the storage is or will be, and remove it: a refused run leaves nothing behind.

    Raises:
        InputError: the storage cannot be written.
        StorageFailing: the storage does not answer.
    """
    try:
        if isinstance(storage, RemotePath):
            probe = storage / f".w3ray-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
        else:
            probe_folder(next(folder for folder in (storage, *storage.parents) if folder.exists()))
    except StorageRefused as error:
        raise InputError(f"storage {storage}: cannot be written; {error}") from error
    except OSError as error:
        raise InputError(f"storage {storage}: cannot be written ({error.strerror}); set another --storage") from error


def probe_folder(folder: Path) -> None:
    """Raises: OSError if no file can be made in the folder. Leaves nothing behind."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _to_disk(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""How does something appear whole, so that a reader sees the old one or the new one, and how does it go away?"""

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
"""How the names of files end that are being written; what a killed process left of them is no one's."""


@contextmanager
def replacing(
    path: StoragePath, *, durable: bool = False, parents: bool = True, suffix: str = PART_SUFFIX
) -> Iterator[Path]:
    """A local path to write a file at, which then takes the place of `path`. On an error `path` stays as it was.

    Args:
        durable: a power cut leaves the old one or the new one, too.
        parents: make the folders above `path`; False: they must be there.
        suffix: how the name of the file ends while it is written, for writers that go by it.

    Raises:
        OSError: it cannot be written.
        StorageFailing, StorageRefused: the store does not take it.
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
    """Write a whole document: a reader sees the old one or the new one, also after a power cut."""
    write_text(path, json.dumps(document, indent=2), durable=True)


def append_text(path: StoragePath, text: str) -> None:
    """Add to the end of a file, which is made where it is absent. Of one writer: an object is written anew."""
    if isinstance(path, RemotePath):
        path.write_text((path.read_text() if path.is_file() else "") + text)
    else:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


@contextmanager
def replacing_folder(folder: Path, *, durable: bool = False, over: bool = True) -> Iterator[Path]:
    """An empty folder to write into, which then takes the place of `folder`. On an error `folder` stays as it was.

    Folders above it are made. Between the old and the new one there may be a moment without any.

    Args:
        durable: what is written is on the disk before it takes its place.
        over: take the place of a folder that is there; False: of an empty one at most.

    Raises:
        OSError: it cannot be written, or something is there that stays.
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
    """Remove a folder with all that is in it; what is not there, or cannot be removed, is left."""
    if isinstance(folder, RemotePath):
        folder.filesystem.delete_dir(folder.path)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def require_writable(storage: StoragePath) -> None:
    """Write where the storage is or will be; nothing stays, so that a run that is refused leaves nothing behind.

    Raises:
        InputError: it cannot be written.
        StorageFailing: it does not answer.
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
    """Raises: OSError where no file can be made in a folder. Leaves nothing."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _to_disk(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Is a checkpoint on disk complete, and which one is the newest?

`w3ray.training.checkpoint` describes, writes and loads the files. This module does not import torch, because the driver
calls it often.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from w3ray.errors import InputError
from w3ray.storage import StoragePath, fetched, file_digest, file_size, storage_path

FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
RAW_FILE = "raw.safetensors"
"""The weights of the last step, where `MODEL_FILE` holds their moving average."""
INDEX_FILE = "checkpoint.json"
_STEP_FOLDER = re.compile(r"step_(\d+)")


class CheckpointError(InputError):
    """A checkpoint cannot be used: it is damaged, or has another architecture."""


def read_index(directory: str | StoragePath) -> dict[str, Any]:
    """Read and check `checkpoint.json`. Its `meta` is the one that was given to `take_snapshot`.

    Raises:
        CheckpointError: the file is absent or damaged, or has a newer format.
    """
    path = storage_path(directory) / INDEX_FILE
    try:
        text, seal = path.read_text(encoding="utf-8").rstrip("\n").rsplit("\n", 1)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory}: no readable {INDEX_FILE} ({error}); use another checkpoint") from error
    if hashlib.sha256(text.encode()).hexdigest() != seal:
        raise CheckpointError(f"{path}: damaged, its checksum differs; use another checkpoint")
    try:
        index = json.loads(text)
        version = index["format_version"]
        if version == FORMAT_VERSION:
            _check_form(index)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not the index of a checkpoint ({error!r}); use another checkpoint") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {version!r}, but this version of w3ray reads {FORMAT_VERSION}"
        )
    checked: dict[str, Any] = index
    return checked


def _check_form(index: dict[str, Any]) -> None:
    """Check the form of the index. The checksum shows damage, but an attacker can write a valid one, and file names."""
    if set(index["files"]) - {RAW_FILE} != {MODEL_FILE, OPTIMIZER_FILE}:
        raise ValueError(f"files {sorted(index['files'])}")
    for entry in index["files"].values():
        if not (isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str)):
            raise TypeError("files: no size or checksum")
    for part in ("meta", "step_state", "optimizer"):
        if not isinstance(index[part], dict):
            raise TypeError(part)


def verify_checkpoint(directory: str | StoragePath) -> dict[str, Any]:
    """Check the size and checksum of every file. Returns the index.

    Raises:
        CheckpointError: names the bad file and its fault.
    """
    index = read_index(directory)
    for name, expected in index["files"].items():
        path = storage_path(directory) / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; use another checkpoint")
        if (size := file_size(path)) != expected["bytes"]:
            raise CheckpointError(
                f"{path}: damaged, {size} bytes instead of {expected['bytes']}; use another checkpoint"
            )
        if file_digest(path)["sha256"] != expected["sha256"]:
            raise CheckpointError(f"{path}: damaged, its checksum differs; use another checkpoint")
    return index


def by_step(parent: StoragePath, *, among: Iterable[StoragePath] | None = None) -> list[StoragePath]:
    """The `step_<number>` folders of `parent`, or those in `among`, newest first. Incomplete ones are included."""
    if among is None:
        among = parent.iterdir() if parent.is_dir() else ()
    numbered = [(int(match[1]), path) for path in among if (match := _STEP_FOLDER.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, key=lambda found: (found[0], str(found[1])), reverse=True)]


def newest_valid_checkpoint(
    parent: str | StoragePath,
    on_damaged: Callable[[StoragePath, str], None] | None = None,
    *,
    among: Iterable[StoragePath] | None = None,
) -> StoragePath | None:
    """The newest complete checkpoint in the `step_<number>` folders of `parent`. None: there is none.

    Damaged newer ones are reported to `on_damaged(folder, reason)`, newest first, and stay where they are. If `among`
    is given, only these folders are checked.
    """
    for path in by_step(storage_path(parent), among=among):
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            if on_damaged is not None:
                on_damaged(path, str(error))
        else:
            return path
    return None


@contextmanager
def first_whole(
    folders: Iterable[StoragePath], on_damaged: Callable[[StoragePath, str], None] = lambda path, reason: None
) -> Iterator[tuple[StoragePath, Path] | None]:
    """The first complete checkpoint of `folders`, and a local folder that holds it. None: all are damaged.

    A checkpoint in object storage is copied, and the copy is verified. So the loaded files are the verified ones.
    """
    for folder in folders:
        with fetched(folder) as local:
            try:
                verify_checkpoint(local)
            except CheckpointError as error:
                on_damaged(folder, str(error).replace(str(local), str(folder)))
            else:
                yield folder, local
                return
    yield None


def is_checkpoint_folder(folder: StoragePath, name: str) -> bool:
    """Whether `folder` is a checkpoint of a stage: `name` is a checkpoint's name, not a path, and it is not a link."""
    is_link = isinstance(folder, Path) and folder.is_symlink()
    return bool(_STEP_FOLDER.fullmatch(name)) and folder.is_dir() and not is_link


def steps_done(checkpoints: StoragePath) -> int:
    """The optimiser step from which a stage resumes: the step of its newest valid checkpoint, or 0."""
    newest = newest_valid_checkpoint(checkpoints)
    return 0 if newest is None else int(read_index(newest)["meta"]["step"])

"""Is a checkpoint on disk whole, and which one is the newest? Needs no torch: the driver's side asks often.

The files' layout is in `w3ray.training.checkpoint`, which writes and loads them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from w3ray.errors import InputError

FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
INDEX_FILE = "checkpoint.json"
_STEP_FOLDER = re.compile(r"step_(\d+)")


class CheckpointError(InputError):
    """A checkpoint that can not be used: damaged, or of another architecture."""


def file_entry(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as the index holds them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def read_index(directory: str | Path) -> dict[str, Any]:
    """The checked content of `checkpoint.json`; its `meta` is what was given when saving.

    Raises:
        CheckpointError: absent, damaged, or written by a newer format.
    """
    path = Path(directory) / INDEX_FILE
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
        raise CheckpointError(f"{path}: not a checkpoint's index ({error!r}); use another checkpoint") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: checkpoint format {version!r}, this version of w3ray reads {FORMAT_VERSION}")
    checked: dict[str, Any] = index
    return checked


def _check_form(index: dict[str, Any]) -> None:
    """The checksum tells damage, not malice: the index may have been made by anyone, and names files."""
    if set(index["files"]) != {MODEL_FILE, OPTIMIZER_FILE}:
        raise ValueError(f"files {sorted(index['files'])}")
    for entry in index["files"].values():
        if not (isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str)):
            raise TypeError("files: no size or checksum")
    for part in ("meta", "step_state", "optimizer"):
        if not isinstance(index[part], dict):
            raise TypeError(part)


def verify_checkpoint(directory: str | Path) -> dict[str, Any]:
    """Check every file against its size and checksum; returns the index.

    Raises:
        CheckpointError: names the file and what is wrong with it.
    """
    index = read_index(directory)
    for name, expected in index["files"].items():
        path = Path(directory) / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; use another checkpoint")
        if path.stat().st_size != expected["bytes"]:
            raise CheckpointError(
                f"{path}: damaged, {path.stat().st_size} bytes instead of {expected['bytes']}; use another checkpoint"
            )
        if file_entry(path)["sha256"] != expected["sha256"]:
            raise CheckpointError(f"{path}: damaged, its checksum differs; use another checkpoint")
    return index


def newest_valid_checkpoint(
    parent: str | Path,
    on_damaged: Callable[[Path, str], None] | None = None,
    *,
    among: Iterable[Path] | None = None,
) -> Path | None:
    """The newest whole checkpoint among the `step_<number>` folders of `parent`, None if there is none.

    Damaged ones on the way are reported to `on_damaged(folder, reason)`, newest first, and left where they are.
    `among` looks at these folders only.
    """
    parent = Path(parent)
    if among is None:
        among = parent.iterdir() if parent.is_dir() else ()
    numbered = [(int(match[1]), path) for path in among if (match := _STEP_FOLDER.fullmatch(path.name))]
    for _, path in sorted(numbered, reverse=True):
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            if on_damaged is not None:
                on_damaged(path, str(error))
        else:
            return path
    return None


def is_checkpoint_folder(folder: Path, name: str) -> bool:
    """Whether `folder`, known by `name`, is one of a stage's checkpoints and not another place by `..` or a link."""
    return bool(_STEP_FOLDER.fullmatch(name)) and folder.is_dir() and not folder.is_symlink()


def steps_done(checkpoints: Path) -> int:
    """The optimiser step at which a stage goes on: that of its newest good checkpoint, or 0."""
    newest = newest_valid_checkpoint(checkpoints)
    return 0 if newest is None else int(read_index(newest)["meta"]["step"])

"""Where does a stage keep its work, and what is already there?

<storage>/stages/<name>-<identity, 12 digits>/
    stage.json        determinants and identity: they say which stage the folder belongs to
    checkpoints/      Ray Train's folder, with a folder step_<n>/ for each checkpoint
    failures.jsonl    ledger of the clips that could not be read
    model/            the best checkpoint as a model (`w3ray.models.bundle`)
    report/           per-class results and confusion matrix of the test split
    result.json       written last: if it exists, the stage is finished
    lock              held by the one process that works on the stage; on object storage a folder: see `lease`
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from w3ray._redact import redacted
from w3ray.errors import InputError
from w3ray.pipeline.identity import completed, difference, stage_identity
from w3ray.storage import Lock, StoragePath, append_text, modified_s, take_lock, wait_for_lock, write_json
from w3ray.training.checkpoint_files import CheckpointError, is_checkpoint_folder, newest_valid_checkpoint, read_index

StageState = Literal["run", "resume", "reuse"]

_FORMAT = 2
"""Version of stage.json. The first version had no number, and held only the options that the recipe named."""
_RESULT_KEYS = {"metrics", "validation", "checkpoint", "tracking_run", "logged_model", "finished"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """What has to be done for a stage, and why."""

    state: StageState
    why: str
    step: int = 0


class StageStore:
    """One stage's folder. Nothing is made in the storage before `create`."""

    def __init__(self, storage: StoragePath, name: str, identity: str) -> None:
        self.name, self.identity = name, identity
        self.stages = storage / "stages"
        self.directory = _folder(self.stages, name, identity)

    @property
    def model(self) -> StoragePath:
        return self.directory / "model"

    @property
    def report(self) -> StoragePath:
        return self.directory / "report"

    @property
    def ledger(self) -> StoragePath:
        return self.directory / "failures.jsonl"

    def status(self, determinants: Mapping[str, Any]) -> StageStatus:
        """Whether to reuse, resume or run the stage. Only reads files."""
        result = self.result()
        if result is not None and self.model.is_dir():
            return StageStatus(state="reuse", why=f"finished {result['finished']}, identity {self.identity[:12]}")
        newest = newest_valid_checkpoint(self.directory / "checkpoints")
        if newest is not None:
            step = int(read_index(newest)["meta"]["step"])
            return StageStatus(state="resume", why=f"unfinished, checkpoint at step {step}", step=step)
        return StageStatus(state="run", why=self._why_new(determinants))

    def _why_new(self, determinants: Mapping[str, Any]) -> str:
        """Why the stage has to run: how it differs from the newest stage of the same name."""
        folders = self.stages.iterdir() if self.stages.is_dir() else ()
        others = [
            path / "stage.json"
            for path in folders
            if path.name.startswith(f"{self.name}-") and path != self.directory and (path / "stage.json").is_file()
        ]
        if not others:
            return "new"
        newest = max(others, key=modified_s)
        try:
            theirs = json.loads(newest.read_text())["determinants"]
            with suppress(ValueError, KeyError, TypeError):  # written by a newer version: compared as it is
                theirs = completed(theirs)
            changes = difference(theirs, determinants)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return "new"  # the other stage's file is damaged
        shown = "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
        return f"differs from {newest.parent.name}: {shown}"

    def create(self, determinants: Mapping[str, Any]) -> None:
        """Make the folder and write its `stage.json`.

        Raises:
            InputError: the storage cannot be written.
        """
        try:
            if isinstance(self.directory, Path):
                self.directory.mkdir(parents=True, exist_ok=True)
            self._write_json(
                "stage.json",
                {"format": _FORMAT, "name": self.name, "identity": self.identity, "determinants": determinants},
            )
        except OSError as error:
            raise InputError(
                f"storage {self.directory}: cannot be written ({error.strerror}); set another --storage"
            ) from error

    def take(self) -> Lock | None:
        """Take the stage's lock; None if another process holds it. Closing the lock releases it."""
        return take_lock(self.directory)

    def wait(self, on_wait: Callable[[], None]) -> Lock:
        """Take the stage's lock. If another process holds it, call `on_wait` once and wait until that process ends."""
        return wait_for_lock(self.directory, on_wait)

    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote; None before that.

        Raises:
            InputError: the file is damaged.
        """
        path = self.directory / "result.json"
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if self._is_result(document):
                return document
            error: Exception = ValueError("not a stage's result")
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as wrong:
            error = wrong
        raise InputError(f"{path}: damaged ({error}); remove the file to evaluate the stage again") from error

    def _is_result(self, document: Any) -> bool:
        """Whether a document has the form that `finish` writes, with a checkpoint of this stage."""
        if not isinstance(document, dict) or not set(document) >= _RESULT_KEYS:
            return False
        place = Path(str(document["checkpoint"]))
        return (
            all(isinstance(document[name], dict) for name in ("metrics", "validation"))
            and place.parent.name == "checkpoints"
            and place.parent.parent.name == self.directory.name
            and ".." not in place.parts
        )

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the stage as finished. Its model and report must exist."""
        self._write_json("result.json", {**result, "finished": time.strftime("%Y-%m-%d %H:%M:%S")})

    def add_to_result(self, **more: Any) -> None:
        """Add what is known only after the stage was finished, such as the model's id in the tracking store."""
        self._write_json("result.json", {**(self.result() or {}), **more})

    def add_failures(self, failures: tuple[Mapping[str, Any], ...]) -> None:
        lines = "".join(json.dumps(redacted(dict(failure)), ensure_ascii=False) + "\n" for failure in failures)
        append_text(self.ledger, lines)  # only the lock's holder writes it

    def checkpoint(self, name: str) -> StoragePath:
        """A checkpoint's folder.

        Raises:
            CheckpointError: the checkpoint is gone.
        """
        path = self.directory / "checkpoints" / name
        if not is_checkpoint_folder(path, name):
            raise CheckpointError(f"{path}: the checkpoint is gone; run again to make a new one")
        return path

    def _write_json(self, name: str, document: Mapping[str, Any]) -> None:
        write_json(self.directory / name, redacted(document))


def _folder(stages: StoragePath, name: str, identity: str) -> StoragePath:
    """The folder of a stage: named by its identity, or a folder of an older version, which computed another hash."""
    own = stages / f"{name}-{identity[:12]}"
    if own.is_dir() or not stages.is_dir():
        return own
    others = sorted((path for path in stages.iterdir() if path.name.startswith(f"{name}-")), key=str)
    return next((path for path in others if _identity_of_older(path) == identity), own)


_identities: dict[str, str | None] = {}
"""Folder -> what `_identity_of_older` found. It is kept because the identity of a folder never changes."""


def _identity_of_older(folder: StoragePath) -> str | None:
    """The identity that a stage of an older version has today. None if the folder's name holds it, or it is no stage.

    The identity of a student includes the identity of its teacher, which is found from the teacher's folder.
    """
    if (key := str(folder)) in _identities:
        return _identities[key]
    try:
        document = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        if document.get("format") == _FORMAT:  # a newer version worked on an older folder; the folder kept its name
            identity = document["identity"]
        else:
            determinants = completed(document["determinants"])
            if (teacher := determinants["teacher"]) is not None:
                found = [path for path in folder.parent.iterdir() if path.name.endswith(f"-{teacher[:12]}")]
                determinants["teacher"] = (_identity_of_older(found[0]) if found else None) or teacher
            identity = stage_identity(determinants)
        _identities[key] = None if folder.name.endswith(identity[:12]) else identity
    except OSError:
        return None  # not remembered: another process may be writing it now
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _identities[key] = None
    return _identities[key]

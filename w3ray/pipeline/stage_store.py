"""Where does a stage keep its work, and what is already there?

<storage>/stages/<name>-<identity, 12 digits>/
    stage.json        determinants and identity: why this folder is this stage's
    checkpoints/      Ray Train's folder: step_<n>/ each
    failures.jsonl    ledger of clips that could not be read
    model/            the best checkpoint as a model (`w3ray.models.bundle`)
    report/           per-class results and confusion matrix of the test split
    result.json       written last: with it the stage is finished
    lock              held by the one process that works on the stage
"""

import fcntl
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from w3ray._redact import redacted
from w3ray.errors import InputError
from w3ray.pipeline.identity import difference
from w3ray.training.checkpoint_files import CheckpointError, is_checkpoint_folder, newest_valid_checkpoint, read_index

StageState = Literal["run", "resume", "reuse"]

_LOCK_POLL_S = 0.5
_RESULT_KEYS = {"metrics", "validation", "checkpoint", "tracking_run", "logged_model", "finished"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """What has to be done for a stage, and why."""

    state: StageState
    why: str
    step: int = 0


class StageStore:
    """One stage's folder. Nothing is made on disk before `create`."""

    def __init__(self, storage: Path, name: str, identity: str) -> None:
        self.name, self.identity = name, identity
        self.stages = storage / "stages"
        self.directory = self.stages / f"{name}-{identity[:12]}"

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def report(self) -> Path:
        return self.directory / "report"

    @property
    def ledger(self) -> Path:
        return self.directory / "failures.jsonl"

    def status(self, determinants: Mapping[str, Any]) -> StageStatus:
        """Reuse, resume or run; reads files only."""
        result = self.result()
        if result is not None and self.model.is_dir():
            return StageStatus(state="reuse", why=f"finished {result['finished']}, identity {self.identity[:12]}")
        newest = newest_valid_checkpoint(self.directory / "checkpoints")
        if newest is not None:
            step = int(read_index(newest)["meta"]["step"])
            return StageStatus(state="resume", why=f"unfinished, checkpoint at step {step}", step=step)
        return StageStatus(state="run", why=self._why_new(determinants))

    def _why_new(self, determinants: Mapping[str, Any]) -> str:
        """Against the newest stage of the same name: what makes this one another."""
        others = [path for path in self.stages.glob(f"{self.name}-*/stage.json") if path.parent != self.directory]
        if not others:
            return "new"
        newest = max(others, key=lambda path: path.stat().st_mtime)
        try:
            changes = difference(json.loads(newest.read_text())["determinants"], determinants)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return "new"  # the other one's own file is damaged
        shown = "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
        return f"differs from {newest.parent.name}: {shown}"

    def create(self, determinants: Mapping[str, Any]) -> None:
        """Make the folder and say what it is.

        Raises:
            InputError: the storage can not be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._write_json("stage.json", {"name": self.name, "identity": self.identity, "determinants": determinants})
        except OSError as error:
            raise InputError(
                f"storage {self.directory}: can not be written ({error.strerror}); set another --storage"
            ) from error

    def take(self) -> IO[str] | None:
        """The stage's lock, None where another one holds it. It is held until the file is closed.

        The lock is the operating system's: it ends with the process that holds it, however that ends.
        """
        lock = (self.directory / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return lock

    def wait(self, on_wait: Callable[[str], None]) -> IO[str]:
        """The stage's lock; where another one holds it, say so and wait until that one is done or dead."""
        told = False
        while (lock := self.take()) is None:
            if not told:
                on_wait(f"stage {self.name}: another run works on {self.directory.name}; waiting for it")
                told = True
            time.sleep(_LOCK_POLL_S)
        return lock

    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote, None before that.

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
        raise InputError(f"{path}: damaged ({error}); remove it to score the stage again") from error

    def _is_result(self, document: Any) -> bool:
        """Whether a document has the form that `finish` gives it, and its checkpoint is one of this stage's own."""
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
        """Mark the stage finished; model and report must be there."""
        self._write_json("result.json", {**result, "finished": time.strftime("%Y-%m-%d %H:%M:%S")})

    def add_to_result(self, **more: Any) -> None:
        """Write down what became known after the stage was finished, such as the model's id in the tracking store."""
        self._write_json("result.json", {**(self.result() or {}), **more})

    def add_failures(self, failures: tuple[Mapping[str, Any], ...]) -> None:
        with self.ledger.open("a", encoding="utf-8") as file:
            for failure in failures:
                file.write(json.dumps(redacted(dict(failure)), ensure_ascii=False) + "\n")

    def checkpoint(self, name: str) -> Path:
        """A checkpoint's folder.

        Raises:
            CheckpointError: it is gone.
        """
        path = self.directory / "checkpoints" / name
        if not is_checkpoint_folder(path, name):
            raise CheckpointError(f"{path}: gone; run again to make it anew")
        return path

    def _write_json(self, name: str, document: Mapping[str, Any]) -> None:
        document = redacted(document)
        new = self.directory / f".{name}.{uuid.uuid4().hex}"
        with new.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self.directory / name)

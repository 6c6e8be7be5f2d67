"""Brings checkpoints from the training loop to the storage while training continues."""

import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointUploadMode
from safetensors import SafetensorError

from w3ray.events import CheckpointSaved
from w3ray.ray_internals import train_storage
from w3ray.runtime.event_channel import Sender
from w3ray.runtime.heartbeat import Heartbeat
from w3ray.runtime.stage_spec import StageSpec
from w3ray.storage import RemotePath, StorageFailing, StoragePath, check_intent, remove_tree, upload
from w3ray.training.checkpoint_files import INDEX_FILE, CheckpointError, by_step, read_index


def best_first(checkpoints: StoragePath, metric: str) -> list[StoragePath]:
    """The checkpoints, complete or not, sorted by validation `metric`, highest first ("last": by step, newest first).

    Of equal ones the newest comes first, as in Ray Train. Checkpoints without a validation or a readable index are left
    out.
    """
    if metric == "last":
        return by_step(checkpoints)
    ranked: list[tuple[float, int, StoragePath]] = []
    for folder in by_step(checkpoints):
        try:
            meta = read_index(folder)["meta"]
        except CheckpointError:
            continue  # damaged: reported at the start, and not a candidate
        if meta["metrics"]:
            ranked.append((meta["metrics"][metric], meta["step"], folder))
    return [folder for *_, folder in sorted(ranked, key=lambda found: found[:2], reverse=True)]


class CheckpointKeeper:
    """Brings the checkpoints of one rank to the stage's storage, one at a time.

    Args:
        stage, rank: the owner of the checkpoints; only rank 0 writes them.
        events: an end of the channel for the uploading thread.
        heartbeat: reports what this rank waits for.
    """

    def __init__(self, stage: StageSpec, rank: int, events: Sender, heartbeat: Heartbeat) -> None:
        self._stage, self._rank, self._events, self._heartbeat = stage, rank, events, heartbeat
        self._arrived = threading.Event()
        self._arrived.set()

    def save(self, step: int, metrics: Mapping[str, float] | None, write: Callable[[Path], Any]) -> None:
        """Write a checkpoint and start its upload. All ranks must call this: Ray Train's report is a barrier.

        Args:
            metrics: of the validation at this step; None: there was none.
            write: writes the checkpoint to a new folder; called on rank 0.

        Raises:
            StorageFailing: no space for it in the temporary folder.
        """
        name = f"step_{step:08d}"
        report: dict[str, Any] = {} if metrics is None else dict(metrics)
        self._heartbeat.doing(f"saves the checkpoint of step {step}")
        if self._rank != 0:
            ray.train.report(report, checkpoint=None, checkpoint_dir_name=name)
            return
        # The previous checkpoint must be stored first. Then a fault costs at most the steps since that one.
        self._heartbeat.doing("waits for the storage to take the checkpoint before this one")
        self._arrived.wait()
        self._heartbeat.doing(f"saves the checkpoint of step {step}")
        folder = self._folder(name)
        try:
            write(folder)
        except (OSError, SafetensorError) as error:
            raise StorageFailing(
                f"stage {self._stage.name}: checkpoint {name} cannot be written to {folder.parent} "
                f"({getattr(error, 'strerror', None) or error}); make room and run again: it resumes at the one before"
            ) from error
        self._send(folder, name, report)

    def _folder(self, name: str) -> Path:
        # Ray removes this folder, and nothing else, after the upload.
        return Path(tempfile.gettempdir()) / f"w3ray-checkpoint-{uuid.uuid4().hex}"

    def _send(self, folder: Path, name: str, report: dict[str, Any]) -> None:
        self._arrived.clear()
        ray.train.report(
            report,
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self._bring,
        )

    def wait(self) -> None:
        """Return when the last checkpoint is in the storage, and Ray Train knows it."""
        self._heartbeat.doing("waits for the storage to take its checkpoint")
        ray.train.get_all_reported_checkpoints()

    def _bring(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """Store the checkpoint. Runs in a thread of Ray Train while training continues.

        An error here ends the stage. The previous checkpoint stays complete, because the new index is written last.
        """
        try:
            stored = self._store(checkpoint, name)
        finally:
            self._arrived.set()
        self._tell_saved(name)
        return stored

    def _tell_saved(self, name: str) -> None:
        step = int(name.removeprefix("step_"))
        self._events.send(CheckpointSaved(stage=self._stage.name, step=step, path=str(self._stage.checkpoints / name)))
        self._events.flush()

    def _store(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        storage = train_storage()
        target = self._stage.checkpoints / name
        if isinstance(target, RemotePath):
            upload(Path(checkpoint.path), target, last=INDEX_FILE, check=self._check_lease)
            return Checkpoint(path=target.path, filesystem=storage.storage_filesystem)
        try:
            stored: Checkpoint = storage.persist_current_checkpoint(checkpoint, name)
        except OSError as error:
            raise StorageFailing(
                f"{target}: cannot be written ({os.strerror(error.errno) if error.errno else error}); "
                "make room and run again: it resumes from its newest checkpoint"
            ) from error
        return stored

    def _check_lease(self) -> None:
        if self._stage.lease is not None:
            check_intent(self._stage.lease)


class LocalCheckpointKeeper(CheckpointKeeper):
    """For Ray Train's local mode, which keeps no checkpoints: writes them directly to their final place."""

    def wait(self) -> None:
        pass

    def _folder(self, name: str) -> Path:
        target = self._stage.checkpoints / name
        if isinstance(target, RemotePath):
            return super()._folder(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _send(self, folder: Path, name: str, report: dict[str, Any]) -> None:
        target = self._stage.checkpoints / name
        if isinstance(target, RemotePath):
            try:
                upload(folder, target, last=INDEX_FILE, check=self._check_lease)
            finally:
                remove_tree(folder)
        self._forget()
        self._tell_saved(name)

    def _forget(self) -> None:
        """Keep the checkpoints that Ray Train would keep: the newest one, and the best of the others."""
        train = self._stage.train
        found = by_step(self._stage.checkpoints)
        kept = {*found[:1], *best_first(self._stage.checkpoints, train.best_metric)[: train.keep_checkpoints]}
        for folder in found:
            if folder not in kept:
                remove_tree(folder)

"""Was the beginning of this stage already trained, as the beginning of another stage?

`train.phases` changes a stage's optimiser settings from an epoch on. Until that epoch, the stage is the same as the
stage without the phase: same seed, same clips, same bits. So it starts from that stage's checkpoints, if there are any.
This makes population based training cheap. Its result is an ordinary stage: trained from the start, it gets the same
bits.

So does a stage with more epochs than another one that is otherwise the same, if the learning rates of the first epochs
do not depend on the number of epochs.
"""

import shutil
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from w3ray.pipeline.identity import stage_identity
from w3ray.pipeline.planned import PlannedStage
from w3ray.pipeline.stage_store import StageStore
from w3ray.storage import StoragePath, fetched, replacing_folder, upload
from w3ray.training.checkpoint_files import INDEX_FILE, CheckpointError, by_step, verify_checkpoint


def take_prefix(item: PlannedStage) -> str | None:
    """Copy the checkpoints of the longest beginning that was trained already. The caller holds the stage's lock.

    Returns: what was copied; None if no beginning was trained.
    """
    shorter = [(determinants, epoch) for determinants, epoch in _shorter(item) if _why_other(item, epoch) is None]
    for determinants, epoch in chain(shorter, _beginnings(item.determinants)):
        other = StageStore(item.store.stages.parent, item.store.name, stage_identity(determinants))
        step = epoch * item.schedule.steps_per_epoch
        found = [folder for folder in by_step(other.directory / "checkpoints") if _step(folder) <= step]
        if not found or _step(found[0]) != step:
            continue
        try:
            verify_checkpoint(found[0])
        except CheckpointError:
            continue
        for folder in reversed(found):  # oldest first: if copying stops half-way, the copied part is a beginning, too
            _copy(folder, item.store.directory / "checkpoints" / folder.name)
        return f"{other.directory.name}, which is the same until epoch {epoch}"
    return None


def why_not_continued(item: PlannedStage) -> str | None:
    """Why the stage cannot go on where a shorter one ended; None if there is no shorter one, or it can."""
    for _, epoch in _shorter(item):
        if (reason := _why_other(item, epoch)) is not None:
            return f"the stage with {epoch} epochs is not continued: {reason}"
    return None


def _shorter(item: PlannedStage) -> list[tuple[dict[str, Any], int]]:
    """The stages that differ only in having fewer epochs, longest first: (their determinants, their epochs)."""
    stages, train = item.store.stages, item.determinants["train"]
    names = {folder.name for folder in stages.iterdir()} if stages.is_dir() else set()
    if not any(name.startswith(f"{item.store.name}-") for name in names - {item.store.directory.name}):
        return []
    found = []
    for epochs in reversed(range(1, train["epochs"])):
        determinants = {**item.determinants, "train": {**train, "epochs": epochs}}
        # By name: to read every stage's file would take long in the storage of a sweep.
        if f"{item.store.name}-{stage_identity(determinants)[:12]}" in names:
            found.append((determinants, epochs))
    return found


def _why_other(item: PlannedStage, epoch: int) -> str | None:
    """Why the stage's first epochs are not those of the same stage with only `epoch` epochs; None: they are."""
    train = item.stage.train
    if train.schedule.kind == "cosine":
        return "the rates of a cosine schedule depend on train.epochs (those of constant and step do not)"
    if train.schedule.warmup_epochs > epoch:
        return f"it ended in the warm-up of {train.schedule.warmup_epochs:g} epochs"
    if item.schedule.num_val and not item.schedule.validates_after(epoch - 1):
        return f"after epoch {epoch} there is no validation now (train.validate_every_epochs), and there was one"
    return None


def _beginnings(determinants: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """The stage without its last phases, longest first: (its determinants, the epoch until which it is the same)."""
    train = determinants["train"]
    phases = train["phases"]
    for count in reversed(range(len(phases))):
        yield {**determinants, "train": {**train, "phases": phases[:count]}}, int(phases[count]["from_epoch"])


def _step(folder: StoragePath) -> int:
    return int(folder.name.removeprefix("step_"))


def _copy(source: StoragePath, target: StoragePath) -> None:
    with fetched(source) as local:
        if isinstance(target, Path):
            with replacing_folder(target) as partial:
                shutil.copytree(local, partial, dirs_exist_ok=True)
        else:
            upload(local, target, last=INDEX_FILE)

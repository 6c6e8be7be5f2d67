"""Was the beginning of this stage already trained, as the beginning of another stage?

`train.phases` changes a stage's optimiser settings from an epoch on. Until that epoch, the stage is the same as the
stage without the phase: same seed, same clips, same bits. So it starts from that stage's checkpoints, if there are any.
This makes population based training cheap. Its result is an ordinary stage: trained from the start, it gets the same
bits.
"""

import shutil
from collections.abc import Iterator, Mapping
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
    for determinants, epoch in _beginnings(item.determinants):
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

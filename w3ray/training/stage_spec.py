"""What does a training worker need to know of its stage? Plain values, so that it travels to any process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.clip import ClipSpec
from w3ray.data.schedule import Schedule
from w3ray.recipe import Train

CHECKPOINTS_FOLDER = "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage, resolved: everything that a worker reads and nothing that only the driver needs.

    `directory` is the stage's folder, `model` the keyword arguments of `build_model`, `teacher` the folder of the
    teacher's model (`w3ray.models.bundle`), `schedule` is for one worker, `num_clips` counts the clips of all splits
    that the stage reads (the base of `max_failed_share`), `clips_ready` is a folder that appears when the clips are
    there (None: they are), `roots` are where videos may lie (None: anywhere).
    """

    name: str
    directory: Path
    seed: int
    model: Mapping[str, Any]
    teacher: Path | None
    loss_weights: Mapping[str, float]
    train: Train
    clip: ClipSpec
    schedule: Schedule
    classes: tuple[str, ...]
    flip_map: Mapping[int, int]
    plan: ResourcePlan
    num_clips: int
    max_failed_share: float
    clips_ready: Path | None = None
    roots: tuple[str, ...] | None = None

    @property
    def checkpoints(self) -> Path:
        """The folder in which Ray Train keeps this stage's checkpoints, `step_<steps done>` each."""
        return self.directory / CHECKPOINTS_FOLDER

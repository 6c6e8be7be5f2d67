"""What a training worker needs to know about its stage, as plain values, so that it can be sent to any process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.schedule import Schedule
from w3ray.data.stream_spec import StreamSpec
from w3ray.heads import Heads
from w3ray.recipe import Train
from w3ray.runtime.explained import ExplainedClip
from w3ray.storage import RemotePath, StoragePath

CHECKPOINTS_FOLDER = "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage, resolved: everything that a worker reads, and nothing that only the driver needs."""

    name: str
    directory: StoragePath
    """The stage's folder."""
    seed: int
    model: Mapping[str, Any]
    """Keyword arguments of `build_model`."""
    teacher: StoragePath | None
    """The folder of the teacher's model (`w3ray.models.bundle`)."""
    loss_weights: Mapping[str, float]
    train: Train
    stream: StreamSpec[Schedule]
    """For one worker."""
    heads: Heads
    """The meaning of scores and labels."""
    class_counts: Mapping[str, tuple[int, ...]]
    """Name of a head ("" for a single one) -> training clips of each of its classes."""
    plan: ResourcePlan
    num_clips: int
    """Number of clips in all splits that the stage reads: the base of `max_failed_share`."""
    max_failed_share: float
    lease: RemotePath | None = None
    """The driver's intent in object storage (`w3ray.storage.lease`). When it is gone, nothing may be written."""
    stall_timeout_s: float = 600.0
    """This and the other times here are from the recipe's `resources`."""
    resize_every_s: float = 60.0
    explained: tuple[ExplainedClip, ...] = ()
    """Clips for which pictures are drawn, at each validation or every `explain_every_epochs`."""
    explain_every_epochs: int | None = None

    @property
    def checkpoints(self) -> StoragePath:
        """The folder where Ray Train keeps this stage's checkpoints, `step_<steps done>` each."""
        return self.directory / CHECKPOINTS_FOLDER

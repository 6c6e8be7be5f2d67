"""What does a training worker need to know of its stage? Plain values, so that it travels to any process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.stream_spec import StreamSpec
from w3ray.heads import Heads
from w3ray.recipe import Train
from w3ray.runtime.explained import ExplainedClip
from w3ray.storage import RemotePath, StoragePath

CHECKPOINTS_FOLDER = "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage, resolved: everything that a worker reads and nothing that only the driver needs.

    `directory` is the stage's folder, `model` the keyword arguments of `build_model`, `teacher` the folder of the
    teacher's model (`w3ray.models.bundle`), `stream` is for one worker, `heads` says what scores and labels are,
    `num_clips` counts the clips of all splits that the stage reads (the base of `max_failed_share`), `lease` is the
    driver's intent in object storage (`w3ray.storage.lease`), without which nothing may be written any more, pictures
    are drawn of the clips `explained` at each validation or every `explain_every_epochs`. The times are of the recipe's
    `resources`.
    """

    name: str
    directory: StoragePath
    seed: int
    model: Mapping[str, Any]
    teacher: StoragePath | None
    loss_weights: Mapping[str, float]
    train: Train
    stream: StreamSpec
    heads: Heads
    plan: ResourcePlan
    num_clips: int
    max_failed_share: float
    lease: RemotePath | None = None
    stall_timeout_s: float = 600.0
    resize_every_s: float = 60.0
    explained: tuple[ExplainedClip, ...] = ()
    explain_every_epochs: int | None = None

    @property
    def checkpoints(self) -> StoragePath:
        """The folder in which Ray Train keeps this stage's checkpoints, `step_<steps done>` each."""
        return self.directory / CHECKPOINTS_FOLDER

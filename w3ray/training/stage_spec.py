"""What does a training worker need to know of its stage? Plain values, so that it travels to any process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.clip import ClipSpec
from w3ray.data.schedule import Schedule
from w3ray.data.shared_clips import SharedClips
from w3ray.data.video_cache import VideoCache
from w3ray.heads import Heads
from w3ray.recipe import Train
from w3ray.storage import Place, RemotePath
from w3ray.training.explained import ExplainedClip

CHECKPOINTS_FOLDER = "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage, resolved: everything that a worker reads and nothing that only the driver needs.

    `directory` is the stage's folder, `model` the keyword arguments of `build_model`, `teacher` the folder of the
    teacher's model (`w3ray.models.bundle`), `schedule` is for one worker, `heads` says what scores and labels are,
    `num_clips` counts the clips of all splits that the stage reads (the base of `max_failed_share`), `clips_ready` is a
    file that appears when the clips are there (None: they are), `roots` are where videos may lie (None: anywhere),
    `lease` is the driver's intent in object storage (`w3ray.lease`), without which nothing may be written any more,
    `cache` keeps videos of object storage, `shared` decoded clips for other trials of a sweep, pictures are drawn of
    the clips `explained` at each validation or every `explain_every_epochs`. The times are of the recipe's `resources`.
    """

    name: str
    directory: Place
    seed: int
    model: Mapping[str, Any]
    teacher: Place | None
    loss_weights: Mapping[str, float]
    train: Train
    clip: ClipSpec
    schedule: Schedule
    heads: Heads
    flip_map: Mapping[int, int]
    plan: ResourcePlan
    num_clips: int
    max_failed_share: float
    clips_ready: Place | None = None
    roots: tuple[str, ...] | None = None
    lease: RemotePath | None = None
    cache: VideoCache | None = None
    shared: SharedClips | None = None
    clip_timeout_s: float = 120.0
    stall_timeout_s: float = 600.0
    resize_every_s: float = 60.0
    explained: tuple[ExplainedClip, ...] = ()
    explain_every_epochs: int | None = None

    @property
    def checkpoints(self) -> Place:
        """The folder in which Ray Train keeps this stage's checkpoints, `step_<steps done>` each."""
        return self.directory / CHECKPOINTS_FOLDER

"""Which events do training workers and the driver send to the display during a run?

Events are small, frozen and picklable. Workers send them through an actor, and a display (or a test, or a script)
reads them in order. They hold no state: a lost event costs a line on the screen, never a result. `docs/python.md` says
when each one comes; `w3ray.pipeline.listener` says in which thread.
"""

import time
from dataclasses import dataclass, field
from typing import Literal

from w3ray.attention.health import StageHealth

_LISTED = 4
"""How many names of tensors a line lists."""

StageState = Literal["run", "resume", "reuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The chain begins."""

    recipe: str
    stages: tuple[str, ...]
    storage: str
    metric: str
    """Validation metric that chooses the best checkpoint: top1, top5, mean_class_accuracy, map; last: the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A stage begins: it is run from the start, resumed, or its finished result is reused."""

    stage: str
    state: StageState
    why: str
    total_steps: int
    """0: the stage is a bank."""
    epochs: int
    step: int = 0
    """Steps already done (resume)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsTaken:
    """What a stage that has not begun takes of its initial weights."""

    stage: str
    source: str
    """Where they come from. An alias in MLflow is resolved to its version."""
    layout: str
    taken: int
    """Number of tensors."""
    left_out: tuple[str, ...]
    """Tensors of the source that have no place in the network, or another shape there."""
    fresh: tuple[str, ...]
    """Tensors of the network that the source does not have. They start as those of a network without weights."""

    def describe(self) -> str:
        """Text such as "weights r50.pth (tsm layout): 161 tensors taken; new: classifier.weight, classifier.bias"."""
        parts = [f"weights {self.source} ({self.layout} layout): {self.taken} tensors taken"]
        for word, names in (("left out", self.left_out), ("new", self.fresh)):
            if names:
                more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
                parts.append(f"{word}: {', '.join(names[:_LISTED])}{more}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """One optimiser step is done. Sent for every step or for some; the numbers cover the steps since the last event."""

    stage: str
    step: int
    """Global steps done in this stage, 1 after the first."""
    epoch: int
    """Epoch of this step, counted from 0."""
    losses: dict[str, float]
    """Loss parts by name, means over valid clips."""
    lr: float
    clips_per_s: float
    """Valid clips a second, all workers together."""
    data_wait_s: float
    """Seconds the trainer waited for data."""
    step_s: float
    """Seconds of the step, the wait included."""
    valid_clips: int
    accuracy: float = 0.0
    """Share of the clips of the last step whose highest score was the right class, in training mode."""
    grad_norm: float = 0.0
    """Norm of the global gradient before clipping."""
    time_s: float = 0.0
    """When it ended, in seconds of Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationProgress:
    """A part of a validation (or of the evaluation) is done. Sent about once a second; a short one sends none."""

    stage: str
    split: Literal["val", "test"]
    clips: int
    """Clips done by all workers together. An estimate of the first worker: it assumes that the others are as far."""
    total_clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BankProgress:
    """A part of a bank is done."""

    stage: str
    features: int
    total_features: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """A validation (or the evaluation) is complete."""

    stage: str
    step: int
    epoch: int
    metrics: dict[str, float]
    split: Literal["val", "test"] = "val"
    time_s: float = 0.0
    """When it ended, in seconds of Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionHealth:
    """What the gates of a stage's network did in a validation. The display ignores it."""

    stage: str
    step: int
    stages: tuple[StageHealth, ...]
    """One for each stage of the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A picture of what a stage's network looks at in a chosen clip. Only the tracking run of the stage uses it."""

    stage: str
    step: int
    clip_id: str
    picture: bytes
    """PNG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved:
    """A checkpoint is complete on storage."""

    stage: str
    step: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipsFailed:
    """Clips that cannot be read and are masked out from now on. Sent once for each clip."""

    stage: str
    failures: tuple[dict[str, str | int], ...]
    """Rows of the failure ledger: split, clip_id, uri, reason, item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAlive:
    """A training worker is alive. Sent every few seconds; only the watchdog uses it."""

    stage: str
    rank: int
    world_size: int
    doing: str
    """What it does at the moment, such as "waits for item 7 of the stream"."""
    doing_s: float
    """How long it has done that, in seconds."""
    items: int
    """Items of the stream that it has read. The worker makes progress as long as this number grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A part of a run's or a stage's start or end is done. `w3ray run --profile-start` shows these; no screen does."""

    what: str
    stage: str | None = None
    """None: the driver did it for the whole run."""
    time_s: float = field(default_factory=time.time)
    """When, in seconds of Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something the user should know; the run goes on."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWaits(Warned):
    """Another run works on a stage; this one waits until that one is done or dead."""

    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted(Warned):
    """The workers of the running stage failed and are started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStopped:
    """The training of a stage ended before its last epoch, because validations no longer got better."""

    stage: str
    epochs: int
    """How many were trained."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished:
    """A stage has its result."""

    stage: str
    metrics: dict[str, float]
    checkpoint: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSummary:
    """A row of the closing table."""

    name: str
    state: StageState
    metrics: dict[str, float]
    """Metrics on the evaluation split if the stage was evaluated, else on the validation split."""
    seconds: float
    attention: tuple[StageHealth, ...] = ()
    """What the gates did in the evaluation, one for each stage of the network; empty without attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Seconds that the platform took besides training. None: does not apply (a reused stage has no first step)."""

    to_first_step_s: float | None
    """From the command to the beginning of the first step, when data and workers have started."""
    between_stages_s: dict[str, float] = field(default_factory=dict)
    """For each stage except the first: from the last step of the previous stage to its own first step."""
    outside_steps_s: float
    """Time of the whole run that was not spent inside training steps."""
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What the closing table shows."""

    recipe: str
    stages: tuple[StageSummary, ...]
    metric: str
    """The metric by which stages are compared, such as top1."""
    model: str | None
    """Registered name and version of the model; None if it is not registered."""
    folder: str
    """The folder of the model, as `w3ray evaluate`, `predict` and the like take it."""
    mlflow_command: str | None
    """The command that opens MLflow, or the address of the server; None without tracking."""
    overhead: Overhead | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The chain is done."""

    summary: RunSummary


Event = (
    RunStarted
    | StageStarted
    | WeightsTaken
    | StepDone
    | ValidationProgress
    | BankProgress
    | Validated
    | AttentionHealth
    | Explained
    | CheckpointSaved
    | ClipsFailed
    | Moment
    | Warned
    | StageStopped
    | StageFinished
    | RunFinished
)

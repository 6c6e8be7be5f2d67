"""Who receives the workers' events? The display, the tracking run, the failure ledger, and the clock of the run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from w3ray.events import AttentionHealth, ClipsFailed, Event, Explained, Overhead, StepDone, Validated, Warned
from w3ray.pipeline.stage_store import StageStore
from w3ray.tracking import StageRun, artifact_folder


@dataclass(slots=True)
class Clock:
    """Measures where a run spends its time. Uses the system clock, so that times from workers can be compared."""

    started_s: float
    inside_steps_s: float = 0.0
    first_step_s: dict[str, float] = field(default_factory=dict)
    last_step_s: dict[str, float] = field(default_factory=dict)

    def step_done(self, event: StepDone) -> None:
        inside_s = event.step_s - event.data_wait_s
        self.inside_steps_s += inside_s
        self.first_step_s.setdefault(event.stage, event.time_s - inside_s)
        self.last_step_s[event.stage] = event.time_s

    def overhead(self) -> Overhead:
        stages = list(self.first_step_s)
        total_s = time.time() - self.started_s
        return Overhead(
            to_first_step_s=self.first_step_s[stages[0]] - self.started_s if stages else None,
            between_stages_s={
                later: self.first_step_s[later] - self.last_step_s[earlier] for earlier, later in pairwise(stages)
            },
            outside_steps_s=total_s - self.inside_steps_s,
            total_s=total_s,
        )


class StageRecorder:
    """Passes on each event of one stage."""

    def __init__(
        self,
        store: StageStore,
        run: StageRun,
        clock: Clock,
        on_event: Callable[[Event], None],
        *,
        multi_label: bool = False,
    ) -> None:
        self._store, self._run, self._clock, self._on_event = store, run, clock, on_event
        self._accuracy = "train/hit1" if multi_label else "train/top1"

    def __call__(self, event: Event) -> None:
        match event:
            case StepDone():
                self._clock.step_done(event)
                self._run.log_metrics({**_step_metrics(event), self._accuracy: event.accuracy}, event.step)
            case Validated():
                metrics = {f"{event.split}/{name}": value for name, value in event.metrics.items()}
                self._run.log_metrics(metrics, event.step)
            case AttentionHealth():
                for stage in event.stages:
                    metrics = {f"attention/{name}": value for name, value in stage.metrics().items()}
                    self._run.log_metrics(metrics, event.step)
            case Explained():
                self._attach(event)
                return  # the display cannot show a picture
            case ClipsFailed():
                self._store.add_failures(event.failures)
                first = event.failures[0]
                more = f" (and {len(event.failures) - 1} more)" if len(event.failures) > 1 else ""
                self._on_event(
                    Warned(message=f"{first['uri']} cannot be read and is left out: {first['reason']}{more}")
                )
        self._on_event(event)

    def _attach(self, event: Explained) -> None:
        folder = f"explain/{artifact_folder(event.clip_id)}"
        try:
            self._run.log_bytes(event.picture, f"step-{event.step:06d}.png", folder)
        except OSError as error:  # such as a full disk: the training continues without the picture
            what = f"stage {event.stage}: the picture of {event.clip_id} at step {event.step}"
            self._on_event(Warned(message=f"{what} cannot be saved for MLflow ({error.strerror or error})"))


def _step_metrics(event: StepDone) -> dict[str, Any]:
    losses = {f"train/loss_{name}": value for name, value in event.losses.items()}
    return {
        **losses,
        "train/lr": event.lr,
        "train/grad_norm": event.grad_norm,
        "train/clips_per_s": event.clips_per_s,
        "train/data_wait_s": event.data_wait_s,
        "train/step_s": event.step_s,
    }

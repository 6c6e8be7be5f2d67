"""What does one trial do? It runs a recipe's chain, as `w3ray run` does, and reports to Ray Tune and to the sweep.

It runs in its own process, which Ray Tune starts on the driver's node and reuses for later trials.
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.shared_clips import SharedClips
from w3ray.errors import InputError, RunError
from w3ray.events import CheckpointSaved, Event, StageFinished, StageStarted, StepDone, Validated, Warned
from w3ray.plugins import Shipment
from w3ray.recipe import Recipe
from w3ray.runtime.event_channel import EventSender
from w3ray.sweep.records import Report
from w3ray.sweep.schedulers import BEST, EPOCH, standing

_STEP_EVERY_S = 1.0
_CLEAN_UP_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One start of a trial."""

    trial: str
    """Id of the trial in the sweep."""
    recipe: dict[str, Any]
    objective_metric: str
    lower_is_better: bool
    objective_stage: str
    epochs: int
    """Epochs of the objective's stage."""
    stops_after: int | None
    """Epochs of the objective's stage after which the trial ends; None: it runs to the end."""
    reports: tuple[Report, ...]
    """Reports of earlier starts of this trial: they are sent to Ray Tune again."""
    run_name: str
    identity: str
    parent_run_id: str | None
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    plan: ResourcePlan
    in_process: bool
    shared: SharedClips | None
    folder: str
    """The driver's current folder: relative paths in the recipe start there."""
    plugins: Shipment
    """Loaded before the recipe is read, because the recipe may name parts that they register."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEvent:
    """An event of a trial's run, sent to the sweep's driver."""

    trial: str
    event: Event


def run_trial(config: dict[str, Any], sender: EventSender) -> None:
    """Ray Tune's function: `config["task"]` is a `Task`."""
    from ray import tune

    from w3ray.pipeline import run
    from w3ray.pipeline.sweep_part import SweepPart

    task: Task = config["task"]
    os.chdir(task.folder)
    task.plugins.load()
    # Time for a stopped trial to end its stage's processes and its tracking, before Ray Tune reuses this process.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(_CLEAN_UP_S)
    reporter = _Reporter(task, sender.twin(), tune.report)
    reporter.tell_again()
    if reporter.enough():
        return
    try:
        result = run(
            Recipe.model_validate(task.recipe),
            on_event=reporter,
            part_of=SweepPart(
                name=task.run_name,
                identity=task.identity,
                plan=task.plan,
                in_process=task.in_process,
                shared=task.shared,
                parent_run_id=task.parent_run_id,
                params=task.params,
                tags=task.tags,
            ),
        )
    except _Enough:
        reporter.flush()
        return
    except (InputError, RunError) as error:
        # A retry would fail the same way, so for Ray Tune the trial ends normally. It retries only if the process dies.
        reporter.finish(str(error), None)
        return
    reporter.finish(None, result.document())


class _Enough(Exception):
    """The trial should end here."""


class _Reporter:
    """Passes a run's events on: the relevant ones to the driver, the objective to Ray Tune."""

    def __init__(self, task: Task, sender: EventSender, report: Any) -> None:
        self._task, self._sender, self._report = task, sender, report
        self._last: Report | None = task.reports[-1] if task.reports else None
        self._step_told_s = 0.0

    def tell_again(self) -> None:
        for report in self._task.reports:
            if report.epoch >= self._task.epochs:
                continue
            self._report(self._compared(report, report.epoch))

    def enough(self) -> bool:
        stops_after = self._task.stops_after
        return stops_after is not None and self._epochs >= stops_after

    @property
    def _epochs(self) -> int:
        return 0 if self._last is None else self._last.epoch

    def _compared(self, report: Report, epoch: int) -> dict[str, Any]:
        return {EPOCH: epoch, BEST: standing(report, lower_is_better=self._task.lower_is_better)}

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            if time.monotonic() - self._step_told_s < _STEP_EVERY_S:
                return
            self._step_told_s = time.monotonic()
        if isinstance(event, StepDone | Validated | StageStarted | StageFinished | Warned):
            self._sender.send(TrialEvent(trial=self._task.trial, event=event))
        if isinstance(event, Validated) and event.split == "val" and event.stage == self._task.objective_stage:
            self._tell(event)
        if isinstance(event, CheckpointSaved) and event.stage == self._task.objective_stage and self.enough():
            raise _Enough  # later trials continue from that checkpoint

    def flush(self) -> None:
        self._sender.flush()

    def _tell(self, event: Validated) -> None:
        epoch = event.epoch + 1
        if epoch <= self._epochs:
            return  # repeated after a restart, with the same result
        value = event.metrics[self._task.objective_metric]
        better = min if self._task.lower_is_better else max
        best = value if self._last is None or math.isnan(self._last.best) else self._last.best
        if not math.isnan(value):
            best = better(best, value)
        self._last = report = Report(epoch=epoch, metrics=dict(event.metrics), best=best, time_s=event.time_s)
        self._sender.flush()
        told: dict[str, Any] = {"report": asdict(report)}
        # After its last epoch a trial only has to run its test: a scheduler must not stop it there.
        compared = self._compared(report, epoch) if epoch < self._task.epochs else {}
        self._report(told | compared)

    def finish(self, failure: str | None, document: Mapping[str, Any] | None) -> None:
        self._sender.flush()
        last: dict[str, Any] = {"outcome": {"failure": failure, "document": document}}
        if self._last is not None and failure is None:
            last |= self._compared(self._last, self._task.epochs + 1)
        self._report(last)

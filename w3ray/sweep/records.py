"""What is known about each trial, and where is it stored so that a sweep can always continue?

<storage>/sweeps/<name>/
    sweep.json        space, recipe and seed: they identify the sweep
    trials/<id>.json  one `Trial` each, written only by the sweep's driver
    lock              held by the one process that drives the sweep; on object storage a folder
    report/           written by `w3ray tune report`

A record holds only numbers and text. The searcher and the scheduler store no state: both are rebuilt from the records,
in the original order.
"""

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from w3ray._format import without_nan
from w3ray._redact import redacted
from w3ray.errors import InputError
from w3ray.pipeline.identity import difference
from w3ray.recipe import PARTS, Recipe, stored_recipe
from w3ray.storage import Lock, StoragePath, storage_path, take_lock, write_json
from w3ray.sweep.space import Objective, Point, Space

TrialState = Literal["waiting", "running", "finished", "stopped", "failed", "skipped"]
ENDED: tuple[TrialState, ...] = ("finished", "stopped", "failed", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of one epoch of the objective's stage."""

    epoch: int
    """Completed epochs: 1 after the first."""
    metrics: Mapping[str, float]
    """Validation metrics of the epoch."""
    best: float
    """The best value of the first objective so far."""
    time_s: float
    """System clock, Unix time in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOfTrial:
    """One stage of a trial."""

    name: str
    state: str
    """run, resume or reuse."""
    identity: str
    steps: int
    """Optimiser steps of the stage that this trial trained."""
    total_steps: int
    """Optimiser steps of the whole stage."""
    seconds: float
    tracking_run: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of one point. `number` counts points, `repeat` counts the runs of one point."""

    number: int
    repeat: int
    point: Point
    state: TrialState = "waiting"
    order: int = 0
    """Position among the ended trials of the sweep: searchers see the results in this order."""
    reports: tuple[Report, ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    """Values that are known before the recipe is trained, such as gmac."""
    values: tuple[float, ...] | None = None
    """The value of each objective; of a stopped trial, the values so far."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the last stage on the recipe's evaluation split."""
    stages: tuple[StageOfTrial, ...] = ()
    reason: str = ""
    """Why the trial failed, was stopped or was skipped."""
    started_s: float | None = None
    seconds: float = 0.0
    """Running time over all starts of the trial."""
    gpu_hours: float = 0.0
    overhead: Mapping[str, Any] = field(default_factory=dict)
    """For a finished trial: how its last start spent its time (`w3ray.events.Overhead`)."""
    tracking_run: str | None = None
    model: str | None = None
    logged_model: str | None = None

    @property
    def id(self) -> str:
        return f"{self.number:04d}" if self.repeat == 0 else f"{self.number:04d}-{self.repeat}"

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class SweepFolder:
    """The folder of one sweep. `open` creates it; nothing is written before."""

    def __init__(self, storage: str, name: str) -> None:
        self.name = name
        self.sweeps: StoragePath = storage_path(storage) / "sweeps"
        self.directory: StoragePath = self.sweeps / name

    @property
    def report(self) -> StoragePath:
        return self.directory / "report"

    def open(self, space: Space, base: Recipe) -> Lock:
        """Open the sweep: make its folder, or continue the sweep that is there.

        A sweep that has run no trial may be replaced by another one with the same name.

        Raises:
            InputError: a sweep of this name searches something else, or another process drives it.
        """
        document = {"space": space.to_dict(), "recipe": base.deciding(), "made_s": time.time()}
        if isinstance(self.directory, Path):
            (self.directory / "trials").mkdir(parents=True, exist_ok=True)
        lock = take_lock(self.directory)
        if lock is None:
            raise InputError(f"sweep {self.name}: another process drives it ({self.directory}); wait until it ends")
        try:
            self._take_over(document)
        except BaseException:
            lock.close()
            raise
        return lock

    def _take_over(self, document: Mapping[str, Any]) -> None:
        there = self.document()
        if there is not None:
            changes = difference(_searched(there), _searched(document))
            trials = self.trials() if changes else []
            if any(trial.state != "skipped" for trial in trials):
                shown = "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
                raise InputError(
                    f"sweep {self.name}: {self.directory} holds another sweep ({shown}); give this one another name "
                    "with --name, or remove that folder"
                )
            for trial in trials:  # skipped points: they may be valid in the corrected space
                self._record(trial).unlink()
            if not changes and there["space"] == document["space"]:
                return
        write_json(self.directory / "sweep.json", document)

    def document(self) -> dict[str, Any] | None:
        """The document that `open` wrote; None: there is no such sweep.

        Raises:
            InputError: the file is damaged.
        """
        path = self.directory / "sweep.json"
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            Space.model_validate(document["space"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path}: damaged ({error}); remove {self.directory} to start again") from error
        return document

    def trials(self) -> list[Trial]:
        """All trials, sorted by number.

        Raises:
            InputError: a record is damaged.
        """
        folder = self.directory / "trials"
        found = [path for path in folder.iterdir() if path.name.endswith(".json")] if folder.is_dir() else []
        return sorted(map(_read, found), key=lambda trial: (trial.number, trial.repeat))

    def _record(self, trial: Trial) -> StoragePath:
        return self.directory / "trials" / f"{trial.id}.json"

    def write(self, trial: Trial) -> None:
        write_json(self._record(trial), without_nan(redacted(asdict(trial))))


def _searched(document: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a document that identifies a sweep: without its budget, number of trials and concurrency."""
    space = {name: value for name, value in document["space"].items() if name not in ("budget", "concurrency", "name")}
    search = {name: value for name, value in space.get("search", {}).items() if name not in ("trials", "warm_start")}
    space = {**space, "search": search, "description": ""}
    recipe = stored_recipe(document["recipe"]).deciding() | {PARTS: document["recipe"].get(PARTS, {})}
    return json.loads(json.dumps({"space": space, "recipe": recipe}))


def _read(path: StoragePath) -> Trial:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["reports"] = tuple(map(_report, values["reports"]))
        values["metrics"] = {name: as_number(value) for name, value in values["metrics"].items()}
        values["stages"] = tuple(StageOfTrial(**stage) for stage in values["stages"])
        values["values"] = None if values["values"] is None else tuple(map(as_number, values["values"]))
        return Trial(**values)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); remove it to run that trial again") from error


def _report(values: Mapping[str, Any]) -> Report:
    metrics = {name: as_number(value) for name, value in values["metrics"].items()}
    return Report(**{**values, "metrics": metrics, "best": as_number(values["best"])})


def as_number(value: Any) -> float:
    """A number from JSON: null stands for NaN."""
    return math.nan if value is None else float(value)


# Results of points: each one summarizes one run or several repeats.


@dataclass(frozen=True, slots=True, kw_only=True)
class PointResult:
    """A point and all its runs."""

    number: int
    point: Point
    trials: tuple[Trial, ...]
    values: tuple[float, ...] | None
    """Means over the runs; None if no run has a value."""
    deviations: tuple[float, ...] | None
    """Standard deviations over the runs; None for fewer than two runs."""

    @property
    def complete(self) -> bool:
        return all(trial.state == "finished" for trial in self.trials)

    @property
    def state(self) -> TrialState:
        states = [trial.state for trial in self.trials]
        order: tuple[TrialState, ...] = ("running", "waiting", "failed", "stopped", "skipped", "finished")
        return next(state for state in order if state in states)


def by_point(trials: Sequence[Trial]) -> list[PointResult]:
    """The points, sorted by number."""
    numbers: dict[int, list[Trial]] = {}
    for trial in trials:
        numbers.setdefault(trial.number, []).append(trial)
    return [_together(number, tuple(runs)) for number, runs in sorted(numbers.items())]


def _together(number: int, trials: tuple[Trial, ...]) -> PointResult:
    values = [trial.values for trial in trials if trial.values is not None and trial.state != "failed"]
    columns = list(zip(*values, strict=True))
    return PointResult(
        number=number,
        point=trials[0].point,
        trials=trials,
        values=tuple(statistics.fmean(column) for column in columns) if columns else None,
        deviations=tuple(statistics.stdev(column) for column in columns) if len(values) > 1 else None,
    )


def ranked(points: Sequence[PointResult], objectives: Sequence[Objective]) -> list[PointResult]:
    """The points with a value, best first by the first objective; complete points before stopped ones.

    A stopped point has trained fewer epochs and could still have improved, so comparing its value would not be fair.
    """
    sign = 1 if objectives[0].lower_is_better else -1
    valued = [point for point in points if point.values is not None and not math.isnan(point.values[0])]
    return sorted(valued, key=lambda point: (not point.complete, sign * (point.values or (0.0,))[0], point.number))


def pareto_front(points: Sequence[PointResult], objectives: Sequence[Objective]) -> list[PointResult]:
    """The complete points that no other point dominates (better in one objective and not worse in any)."""
    signs = [1 if objective.lower_is_better else -1 for objective in objectives]
    costs = {
        point.number: tuple(sign * value for sign, value in zip(signs, point.values, strict=True))
        for point in points
        if point.complete and point.values is not None
    }
    return [
        point
        for point in points
        if (mine := costs.get(point.number)) is not None
        and not any(other != mine and all(o <= m for o, m in zip(other, mine, strict=True)) for other in costs.values())
    ]

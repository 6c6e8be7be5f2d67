"""What is known of each trial, and where is it kept so that a sweep goes on after anything?

<storage>/sweeps/<name>/
    sweep.json        space, recipe and seed: what makes this folder this sweep's
    trials/<id>.json  a `Trial` each, written by the sweep's driver alone
    lock              held by the one process that drives the sweep; on object storage a folder
    report/           `w3ray tune report`

A record holds numbers and text alone. The searcher's and the scheduler's state is no file: both are made anew from the
records, in the order in which they were told of them.
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
    """The objective's stage after one of its epochs."""

    epoch: int
    """Epochs done, 1 after the first."""
    metrics: Mapping[str, float]
    """Of its validation."""
    best: float
    """The best value of the first objective so far."""
    time_s: float
    """System clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOfTrial:
    """What a trial had of one of its stages."""

    name: str
    state: str
    """run, resume or reuse."""
    identity: str
    steps: int
    """Optimiser steps that this trial trained of it."""
    total_steps: int
    """Of the whole stage."""
    seconds: float
    tracking_run: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of one point. `number` counts points, `repeat` the runs of one."""

    number: int
    repeat: int
    point: Point
    state: TrialState = "waiting"
    order: int = 0
    """When it ended, counted over the sweep: searchers are told in this order."""
    reports: tuple[Report, ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    """What is known of its recipe before it is trained, such as gmac."""
    values: tuple[float, ...] | None = None
    """What it reached of each objective; of a stopped one so far."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the recipe's evaluation split, of the last stage."""
    stages: tuple[StageOfTrial, ...] = ()
    reason: str = ""
    """Why it failed, was stopped or skipped."""
    started_s: float | None = None
    seconds: float = 0.0
    """At work, over all its starts."""
    gpu_hours: float = 0.0
    overhead: Mapping[str, Any] = field(default_factory=dict)
    """Of a finished one: where its last start's seconds went (`w3ray.events.Overhead`)."""
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
    """The folder of one sweep. Nothing is made in the storage before `open`."""

    def __init__(self, storage: str, name: str) -> None:
        self.name = name
        self.sweeps: StoragePath = storage_path(storage) / "sweeps"
        self.directory: StoragePath = self.sweeps / name

    @property
    def report(self) -> StoragePath:
        return self.directory / "report"

    def open(self, space: Space, base: Recipe) -> Lock:
        """Take the sweep: make its folder, or go on with the one that is there.

        One that ran no trial holds its name no longer than its process lives.

        Raises:
            InputError: a sweep of this name searches something else, or another process drives it.
        """
        document = {"space": space.to_dict(), "recipe": base.deciding(), "made_s": time.time()}
        if isinstance(self.directory, Path):
            (self.directory / "trials").mkdir(parents=True, exist_ok=True)
        lock = take_lock(self.directory)
        if lock is None:
            raise InputError(f"sweep {self.name}: another process drives it ({self.directory}); wait for its end")
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
                    f"sweep {self.name}: {self.directory} holds another one ({shown}); give this one another name "
                    "with --name, or remove that folder"
                )
            for trial in trials:  # of points that the mended space may well make recipes of
                self._record(trial).unlink()
            if not changes and there["space"] == document["space"]:
                return
        write_json(self.directory / "sweep.json", document)

    def document(self) -> dict[str, Any] | None:
        """What `open` wrote; None: there is no such sweep.

        Raises:
            InputError: it is damaged.
        """
        path = self.directory / "sweep.json"
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            Space.model_validate(document["space"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path}: damaged ({error}); remove {self.directory} to begin anew") from error
        return document

    def trials(self) -> list[Trial]:
        """All trials, in the order of their numbers.

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
    """What must be equal for a sweep to be the same: not how long and with how many at once it is searched."""
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
    """A number as JSON holds it: null stands for what is none."""
    return math.nan if value is None else float(value)


# Results of points: of one run each, or of several repeats together.


@dataclass(frozen=True, slots=True, kw_only=True)
class PointResult:
    """A point and all its runs."""

    number: int
    point: Point
    trials: tuple[Trial, ...]
    values: tuple[float, ...] | None
    """Means over its runs; None where none has a value."""
    deviations: tuple[float, ...] | None
    """Standard deviations over its runs; None for fewer than two."""

    @property
    def complete(self) -> bool:
        return all(trial.state == "finished" for trial in self.trials)

    @property
    def state(self) -> TrialState:
        states = [trial.state for trial in self.trials]
        order: tuple[TrialState, ...] = ("running", "waiting", "failed", "stopped", "skipped", "finished")
        return next(state for state in order if state in states)


def by_point(trials: Sequence[Trial]) -> list[PointResult]:
    """The points in the order of their numbers."""
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
    """Those with a value, best first by the first objective; whole ones before those that were stopped early.

    A stopped one's value is of fewer epochs: it could only have got better, so it is no fair comparison either way.
    """
    sign = 1 if objectives[0].lower_is_better else -1
    valued = [point for point in points if point.values is not None and not math.isnan(point.values[0])]
    return sorted(valued, key=lambda point: (not point.complete, sign * (point.values or (0.0,))[0], point.number))


def pareto_front(points: Sequence[PointResult], objectives: Sequence[Objective]) -> list[PointResult]:
    """The complete points that no other one beats in an objective without losing in another."""
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

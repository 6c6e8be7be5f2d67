"""What is the state of a sweep, and which trial is next? Every change is written to a record.

Two threads use it: Ray Tune's thread asks for trials and reports on them, the driver's thread passes on their events.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from w3ray.errors import InputError
from w3ray.events import Event, StageFinished, StageStarted, StageWaits, StepDone, Validated
from w3ray.recipe import Recipe
from w3ray.sweep.population import Population
from w3ray.sweep.records import PointResult, Report, StageOfTrial, SweepFolder, Trial, as_number, by_point
from w3ray.sweep.schedulers import PBT
from w3ray.sweep.searchers import SEARCHERS, Known, Searcher
from w3ray.sweep.space import Space, recipe_at, usual_stage

DEFAULT_POINTS = 16
_MOST_SKIPPED = 200
"""After this many invalid points in a row, assume that no valid ones are left."""
_LEAST_ENDED = 3
"""At least this many trials must have ended before failures can end the sweep."""


@dataclass(slots=True)
class TrialProgress:
    """The latest known progress of a running trial, since its current start."""

    stage: str = ""
    stage_state: str = ""
    step: int = 0
    total_steps: int = 0
    epochs: int = 0
    validated_epoch: int = 0
    waits_for: str = ""
    clips_per_s: list[float] = field(default_factory=list)
    first_steps: dict[str, int] = field(default_factory=dict)
    last_steps: dict[str, int] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    """Steps of each stage that were trained before its process died and was started again."""
    totals: dict[str, int] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)

    def steps(self, stage: str) -> int:
        """Optimiser steps of a stage that were trained."""
        now = self.last_steps.get(stage, 0) - self.first_steps.get(stage, 0)
        return self.trained.get(stage, 0) + max(0, now)


class NotYet:
    """There will be another trial after some running trials have ended."""


NOT_YET = NotYet()


def searcher_of(space: Space, base: Recipe) -> Searcher:
    """The searcher that proposes the points of a space.

    Raises:
        InputError: this searcher or scheduler cannot search the space.
    """
    searcher: Searcher = SEARCHERS[space.search.searcher](space, base)
    return Population(space, base, searcher) if space.scheduling.scheduler == PBT else searcher


def points_to_try(space: Space, searcher: Searcher) -> int:
    """How many points a sweep tries in total: as many as the space asks for, or all if there are fewer."""
    if isinstance(searcher, Population):
        return searcher.members * searcher.generations
    most, wanted = searcher.most, space.search.trials
    grid = math.prod(len(values) for values in space.grid_dimensions().values())
    if wanted is None:
        wanted = most if most is not None else max(DEFAULT_POINTS, grid)
    return wanted if most is None else min(wanted, most)


class TrialBook:
    """The trials of one sweep.

    Args:
        space, base: already checked against each other.
        folder: already open.
        cost_of: values of the objectives that are known before a recipe is trained, by metric.
        warm_start: results of earlier sweeps.
    """

    def __init__(
        self,
        space: Space,
        base: Recipe,
        folder: SweepFolder,
        *,
        cost_of: Callable[[Recipe], Mapping[str, float]] = lambda recipe: {},
        warm_start: Sequence[Known] = (),
    ) -> None:
        self.space, self.base, self._folder = space, base, folder
        self._gpus, self._cost_of, self._warm = 0.0, cost_of, list(warm_start)
        self._searcher = searcher_of(space, base)
        self.objective_stage = usual_stage(space, base).name
        self.lock = threading.RLock()
        self._trials: dict[str, Trial] = {}
        self.doing: dict[str, TrialProgress] = {}
        self.ending = False
        """Start no more trials; running ones are interrupted and can be resumed later."""
        for trial in folder.trials():
            # Trials that were running when the last driver ended are no longer running.
            self._trials[trial.id] = replace(trial, state="waiting") if trial.state == "running" else trial

    # The state.

    @property
    def trials(self) -> list[Trial]:
        with self.lock:
            return sorted(self._trials.values(), key=lambda trial: (trial.number, trial.repeat))

    @property
    def points(self) -> list[PointResult]:
        return by_point(self.trials)

    @property
    def target(self) -> int:
        """Points to try in total."""
        return points_to_try(self.space, self._searcher)

    @property
    def most_trials(self) -> int:
        return self.target * self.space.search.repeats

    def gpu_hours(self) -> float:
        """GPU hours of all trials so far, running ones included."""
        with self.lock:
            at_work = [trial for trial in self._trials.values() if trial.state == "running"]
            now = time.time()
            return sum(trial.gpu_hours for trial in self._trials.values()) + sum(
                self._gpus * (now - (trial.started_s or now)) / 3600 for trial in at_work
            )

    def recipe(self, trial: Trial) -> Recipe:
        recipe = recipe_at(self.space, self.base, trial.point, seed_offset=trial.repeat)
        if isinstance(self._searcher, Population):
            # Later members may start from the checkpoint of any epoch of this one, so keep them all.
            train = recipe.train.model_copy(update={"keep_checkpoints": self._searcher.epochs + 1})
            recipe = recipe.model_copy(update={"train": train})
        return recipe

    def set_gpus(self, gpus: float) -> None:
        """Set how many GPUs a trial holds, to count GPU hours."""
        self._gpus = gpus

    # Which trial is next?

    def stops_after(self, trial: Trial) -> int | None:
        """Epochs of the objective's stage after which the trial ends; None: it runs to the end."""
        return self._searcher.stops_after(trial.number) if isinstance(self._searcher, Population) else None

    def next(self) -> Trial | NotYet | None:
        """The trial to start now, marked as running; None: there are no more."""
        with self.lock:
            if self.ending or self.too_many_failures() is not None:
                return None
            waiting = [trial for trial in self.trials if trial.state == "waiting"]
            trial = waiting[0] if waiting else self._new()
            if trial is None or isinstance(trial, NotYet):
                return trial
            self.doing[trial.id] = TrialProgress()
            return self._change(trial, state="running", started_s=time.time(), reason="")

    def _new(self) -> Trial | NotYet | None:
        """Propose points until one makes a valid recipe; then add all its repeats as waiting."""
        for _ in range(_MOST_SKIPPED):
            points = self.points
            tried = sum(point.state != "skipped" for point in points)
            number = points[-1].number + 1 if points else 0
            if tried >= self.target or (self._searcher.most is not None and number >= self._searcher.most):
                return None
            if isinstance(self._searcher, Population):
                first = points[: self._searcher.waits_for(number)]
                if not all(trial.ended for point in first for trial in point.trials):
                    return NOT_YET
            point = self._searcher.propose(number, self._known())
            try:
                cost = self._cost_of(recipe_at(self.space, self.base, point))
            except InputError as error:
                self._add(Trial(number=number, repeat=0, point=point, state="skipped", reason="; ".join(error.args)))
                continue
            for repeat in range(self.space.search.repeats):
                self._add(Trial(number=number, repeat=repeat, point=point, cost=dict(cost)))
            return self._trials[Trial(number=number, repeat=0, point=point).id]
        return None

    def _known(self) -> list[Known]:
        """Points of earlier sweeps, then ended points in the order in which they ended, then running ones."""
        ended: list[tuple[int, Known]] = []
        at_work: list[Known] = []
        for point in self.points:
            if point.state == "skipped":
                continue
            if all(trial.ended for trial in point.trials):
                known = Known(point=point.point, values=point.values, number=point.number)
                ended.append((max(trial.order for trial in point.trials), known))
            else:
                at_work.append(Known(point=point.point, values=None, at_work=True, number=point.number))
        return [*self._warm, *(known for _, known in sorted(ended, key=lambda pair: pair[0])), *at_work]

    # What happens to trials.

    def heard(self, trial_id: str, event: Event) -> None:
        """Take note of an event of a trial's run."""
        with self.lock:
            doing = self.doing.setdefault(trial_id, TrialProgress())
            match event:
                case StageStarted():
                    doing.stage, doing.stage_state, doing.waits_for = event.stage, event.state, ""
                    doing.step, doing.total_steps, doing.epochs = event.step, event.total_steps, event.epochs
                    doing.validated_epoch = 0
                    doing.trained[event.stage] = doing.steps(event.stage)
                    doing.states.setdefault(event.stage, event.state)
                    doing.totals[event.stage] = event.total_steps
                    doing.first_steps[event.stage] = doing.last_steps[event.stage] = event.step
                case StageWaits():
                    doing.waits_for = event.message
                case StepDone():
                    doing.step = event.step
                    doing.clips_per_s.append(event.clips_per_s)
                    doing.last_steps[event.stage] = event.step
                case Validated():
                    doing.step = max(doing.step, event.step)
                    doing.validated_epoch = event.epoch + 1
                    if event.split == "val":
                        doing.last_steps[event.stage] = event.step
                case StageFinished():
                    if doing.stage_state != "reuse":
                        doing.last_steps[event.stage] = doing.total_steps

    def reported(self, trial_id: str, report: Report) -> None:
        with self.lock:
            trial = self._trials[trial_id]
            if not trial.reports or report.epoch > trial.reports[-1].epoch:
                self._change(trial, reports=(*trial.reports, report), values=self._values(trial, report.best))

    def finished(self, trial_id: str, document: Mapping[str, Any]) -> None:
        """The chain reached its end: `document` is `RunResult.document()`."""
        objective = self.space.objectives[0]
        stages = {stage["name"]: stage for stage in document["stages"]}
        name = objective.stage or document["stages"][-1]["name"]
        last = document["stages"][-1]
        value = as_number(stages[name]["validation"].get(objective.metric, math.nan))
        with self.lock:
            trial = self._trials[trial_id]
            self._end(
                trial,
                state="finished",
                values=self._values(trial, value),
                metrics={key: as_number(number) for key, number in last["metrics"].items()},
                stages=self._stages(trial_id, stages),
                overhead=document.get("overhead", {}),
                tracking_run=document["tracking"]["run"],
                model=last["model"],
                logged_model=last["logged_model"],
            )

    def failed(self, trial_id: str, reason: str) -> None:
        with self.lock:
            self._end(self._trials[trial_id], state="failed", reason=reason, stages=self._stages(trial_id, {}))

    def left(self, trial_id: str) -> None:
        """Ray Tune ended a trial that reported no outcome: the trial was stopped, or the whole sweep is ending."""
        with self.lock:
            trial = self._trials[trial_id]
            if trial.ended:
                return
            if self.ending:
                self._end(trial, state="waiting", reason="interrupted")
            else:
                epochs = trial.reports[-1].epoch if trial.reports else 0
                reason = f"stopped by {self.space.scheduling.scheduler} after {epochs} epochs"
                if self.stops_after(trial) is not None:
                    reason = f"its generation ended after {epochs} epochs"
                self._end(trial, state="stopped", reason=reason, stages=self._stages(trial_id, {}))

    def take_back(self) -> bool:
        """Set trials whose process was lost back to waiting. Returns whether there are any and the sweep continues."""
        with self.lock:
            lost = [trial for trial in self._trials.values() if trial.state == "running"]
            for trial in lost:
                self._end(trial, state="waiting", reason="its process was lost")
            return bool(lost) and not self.ending

    def too_many_failures(self) -> str | None:
        """Why the sweep should give up; None: it should continue."""
        with self.lock:
            ended = [trial for trial in self._trials.values() if trial.ended and trial.state != "skipped"]
            failed = [trial for trial in ended if trial.state == "failed"]
            share = self.space.budget.max_failed_share
            if len(ended) < min(_LEAST_ENDED, self.most_trials) or len(failed) <= share * len(ended):
                return None
            reasons = [trial.reason for trial in failed]
            common = max(set(reasons), key=reasons.count)
            return (
                f"{len(failed)} of {len(ended)} trials failed, more than budget.max_failed_share={share:g} allows; "
                f"most often: {common}"
            )

    def _values(self, trial: Trial, first: float) -> tuple[float, ...]:
        speeds = self.doing[trial.id].clips_per_s if trial.id in self.doing else []
        speed = sum(speeds) / len(speeds) if speeds else math.nan
        known = {**trial.cost, "clips_per_s": speed}
        others = [as_number(known.get(objective.metric, math.nan)) for objective in self.space.objectives[1:]]
        return (first, *others)

    def _stages(self, trial_id: str, results: Mapping[str, Mapping[str, Any]]) -> tuple[StageOfTrial, ...]:
        """The trial's stages so far, including its earlier starts."""
        doing, trial = self.doing.get(trial_id, TrialProgress()), self._trials[trial_id]
        before = {stage.name: stage for stage in trial.stages}
        names = list(dict.fromkeys([*before, *doing.states, *results]))
        return tuple(self._stage(name, doing, results.get(name, {}), before.get(name)) for name in names)

    def _stage(
        self, name: str, doing: TrialProgress, result: Mapping[str, Any], before: StageOfTrial | None
    ) -> StageOfTrial:
        state = doing.states.get(name, result.get("state", "run"))
        trained = doing.steps(name)
        return StageOfTrial(
            name=name,
            state=state if before is None or before.steps == 0 else before.state,
            identity=str(result.get("identity", "")),
            steps=trained + (0 if before is None else before.steps),
            total_steps=doing.totals.get(name, 0 if before is None else before.total_steps),
            seconds=float(result.get("seconds", 0.0)) + (0.0 if before is None else before.seconds),
            tracking_run=result.get("tracking_run"),
        )

    def _end(self, trial: Trial, **values: Any) -> None:
        lasted_s = max(0.0, time.time() - (trial.started_s or time.time()))
        if "stages" not in values:
            values["stages"] = self._stages(trial.id, {})
        self.doing.pop(trial.id, None)
        self._change(
            trial,
            order=1 + max((one.order for one in self._trials.values()), default=0),
            seconds=trial.seconds + lasted_s,
            gpu_hours=trial.gpu_hours + self._gpus * lasted_s / 3600,
            started_s=None,
            **values,
        )

    def _add(self, trial: Trial) -> None:
        self._trials[trial.id] = trial
        self._folder.write(trial)

    def _change(self, trial: Trial, **values: Any) -> Trial:
        trial = replace(trial, **values)
        self._trials[trial.id] = trial
        self._folder.write(trial)
        return trial


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Dotted names -> their shortest unique endings, for tables and plots."""
    short = {}
    for name in names:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            ending = ".".join(parts[-length:])
            if sum(other == ending or other.endswith(f".{ending}") for other in names) == 1:
                break
        short[name] = ending
    return short


def show_value(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and all(isinstance(item, dict) and "from_epoch" in item for item in value):
        return "; ".join(_show_phase(**item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


def _show_phase(from_epoch: int, **settings: Any) -> str:
    return f"from epoch {from_epoch} " + ", ".join(f"{name} {show_value(value)}" for name, value in settings.items())

"""What is the result of a sweep, and what does a sweep report while it runs and at its end?"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w3ray._redact import redact
from w3ray.recipe import Recipe
from w3ray.sweep.book import TrialBook
from w3ray.sweep.records import PointResult, SweepFolder, Trial, pareto_front, ranked
from w3ray.sweep.report import write_report
from w3ray.sweep.space import Space, recipe_at
from w3ray.tracking import StageRun, Tracker

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStatus:
    """What a display receives about twice a second."""

    book: TrialBook
    concurrency: int
    seconds: float
    """Seconds since this start of the sweep."""
    messages: tuple[str, ...] = ()
    """New messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What `tune` returns."""

    name: str
    space: Space
    directory: str
    points: tuple[PointResult, ...]
    """Best first; points without a value last."""
    front: tuple[PointResult, ...]
    """With several objectives: the Pareto front."""
    best: Recipe | None
    """The best point as a plain recipe; None if no trial reached a value."""
    model: Mapping[str, Any]
    tracking: Mapping[str, Any]
    ended: str
    """Why the sweep started no more trials."""
    seconds: float

    @property
    def frame(self) -> "pd.DataFrame":
        """One row per trial: its parameters by dotted name, state, objectives, epochs, seconds and steps."""
        import pandas as pd

        rows = []
        for rank, point in enumerate(self.points, start=1):
            for trial in point.trials:
                values = dict(zip((one.metric for one in self.space.objectives), trial.values or (), strict=False))
                rows.append(
                    {
                        "rank": rank, "trial": trial.id, "state": trial.state, **trial.point, **values,
                        "epochs": trial.reports[-1].epoch if trial.reports else 0, "seconds": trial.seconds,
                        "steps": sum(stage.steps for stage in trial.stages), "reason": trial.reason,
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)

    def document(self) -> dict[str, Any]:
        """The result as JSON values."""
        objectives = [one.metric for one in self.space.objectives]
        return {
            "sweep": self.name,
            "directory": self.directory,
            "ended": self.ended,
            "seconds": self.seconds,
            "objectives": objectives,
            "points": [_point_document(point) for point in self.points],
            "front": [point.number for point in self.front],
            "best": None if self.best is None else self.best.to_dict(),
            "model": dict(self.model),
            "tracking": dict(self.tracking),
        }


def _point_document(point: PointResult) -> dict[str, Any]:
    return {
        "number": point.number,
        "point": point.point,
        "state": point.state,
        "values": point.values,
        "deviations": point.deviations,
        "trials": [{name: value for name, value in asdict(trial).items() if name != "point"} for trial in point.trials],
    }


def sweep_result(
    book: TrialBook, folder: SweepFolder, tracker: Tracker, *, run: str | None, ended: str, seconds: float
) -> SweepResult:
    """Rank the points, and register the model of the best one.

    Args:
        run: MLflow run id of the sweep.
        ended: why the sweep started no more trials.
        seconds: seconds since this start of the sweep.
    """
    space, base = book.space, book.base
    points = book.points
    order = ranked(points, space.objectives)
    rest = [point for point in points if point not in order]
    best = recipe_at(space, base, order[0].point) if order else None
    model: dict[str, Any] = {"folder": None, "name": None, "version": None, "uri": None}
    if order:
        trial = _best_trial(order[0], space)
        name = base.tracking.registered_model or base.name
        model["folder"] = trial.model
        if tracker.enabled and trial.logged_model is not None:
            version = tracker.register(trial.logged_model, name, alias="best", tags={"w3ray.sweep": space.name})
            model.update(name=name, version=version, uri=f"models:/{name}/{version}" if version else None)
    return SweepResult(
        name=space.name,
        space=space,
        directory=str(folder.directory),
        points=(*order, *rest),
        front=tuple(pareto_front(points, space.objectives)) if len(space.objectives) > 1 else (),
        best=best,
        model=model,
        tracking={
            "uri": None if tracker.uri is None else redact(tracker.uri),
            "experiment": tracker.experiment,
            "run": run,
            "command": tracker.ui_command,
        },
        ended=ended,
        seconds=seconds,
    )


def track_result(result: SweepResult, storage: str, parent: StageRun) -> None:
    """Log counts, the best values and the report to the sweep's own run."""
    states = [trial.state for point in result.points for trial in point.trials]
    counts = {f"trials/{state}": float(states.count(state)) for state in sorted(set(states))}
    parent.log_metrics(counts, len(states))
    best = result.points[0] if result.points else None
    if best is not None and best.values is not None:
        named = zip(result.space.objectives, best.values, strict=True)
        parent.log_metrics({f"best/{one.metric}": value for one, value in named}, len(states))
        parent.set_tags({"w3ray.best_trial": best.trials[0].id})
    if result.points:
        files = write_report(storage, result.name)
        for file in files.values():
            if file.name.endswith((".html", ".md")):
                parent.log_text(file.read_text("utf-8"), file.name, "report")
            elif isinstance(file, Path):
                parent.log_artifact(file, "report")


def _best_trial(point: PointResult, space: Space) -> Trial:
    sign = 1 if space.objectives[0].lower_is_better else -1
    done = [trial for trial in point.trials if trial.values is not None]
    return min(done, key=lambda trial: sign * (trial.values or (0.0,))[0])

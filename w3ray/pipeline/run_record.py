"""What is recorded about a run in MLflow? The chain calls only this object, and this object calls the tracker."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from w3ray._redact import redact
from w3ray.cluster.plan import ResourcePlan
from w3ray.events import Overhead, StageState
from w3ray.pipeline.planned import Planned, PlannedStage, PreparedData
from w3ray.pipeline.results import StageResult
from w3ray.pipeline.sweep_part import SweepPart
from w3ray.pipeline.tracked import open_tracker
from w3ray.recipe import Recipe
from w3ray.storage import fetched
from w3ray.tracking import LoggedModel, StageRun, Tracker

_DELIVERY_TIMEOUT_S = 120.0


@contextmanager
def recorded_run(
    recipe: Recipe, data: PreparedData, part: SweepPart | None, notify: Callable[[str], None]
) -> Iterator["RunRecord"]:
    """Begin the record of a run, and end it when the context is left: as FINISHED, or as the exception says.

    Args:
        part: the sweep that the run is a trial of; None: the run is not part of a sweep.
        notify: called with a line when the tracking server goes away, comes back or refuses something.
    """
    name = recipe.name if part is None else part.name
    # For a trial, the sweep has already checked that MLflow answers. A trial starts even if MLflow is away now.
    with open_tracker(recipe, run_name=name, notify=notify, must_answer=part is None) as tracker:
        yield RunRecord(tracker, recipe, data, part)


class RunRecord:
    """A run, a child run for each stage, the stages' models, and the registered model."""

    def __init__(self, tracker: Tracker, recipe: Recipe, data: PreparedData, part: SweepPart | None) -> None:
        self._tracker, self._recipe, self._data, self._part = tracker, recipe, data, part
        self._models: dict[str, LoggedModel] = {}
        self._run = tracker.start_run(
            recipe.to_dict(),
            identity=recipe.fingerprint() if part is None else part.identity,
            parent_run_id=None if part is None else part.parent_run_id,
        )
        if part is not None:
            self._run.log_params(part.params)
            self._run.set_tags(part.tags)

    def begin(self) -> None:
        """Open the tracking store now: a stage is already training, so this delays nothing."""
        self._tracker.begin()

    def check(self) -> None:
        """Raises: InputError if the tracking store cannot be used."""
        self._tracker.check()

    @contextmanager
    def stage(self, item: Planned, state: StageState, plan: ResourcePlan | None) -> Iterator[StageRun]:
        """The child run of a stage. It ends as FINISHED, or by the exception as KILLED or FAILED."""
        params = {"stage": item.determinants, "state": state, "resources": plan.describe() if plan else {}}
        run = self._tracker.stage_run(item.stage.name, item.identity, params)
        run.log_dataset(self._recipe.name, self._data.fingerprint, self._data.location, "training")
        try:
            yield run
        except (KeyboardInterrupt, SystemExit):
            run.finish("KILLED")
            raise
        except BaseException:
            run.finish("FAILED")
            raise
        run.finish("FINISHED")

    def log_stage(
        self, run: StageRun, item: PlannedStage, result: Mapping[str, Any], teacher: StageResult | None
    ) -> None:
        """Give the report and model of a finished stage to the tracker. It delivers them while the next stage starts.

        Args:
            run: from `stage`.
            result: from `complete_stage`.
            teacher: the result of the stage's teacher.
        """
        with fetched(item.store.report) as report:
            for path in sorted(report.iterdir()):
                run.log_artifact(path, "report")
        self.log_ledger(run, item)
        with fetched(item.store.model) as folder:
            self._models[item.stage.name] = run.log_model(
                folder,
                keep_copy=folder != item.store.model,
                metrics={f"best/{name}": value for name, value in result["metrics"].items()},
                step=result["step"],
                dataset=(self._recipe.name, self._data.fingerprint, self._data.location),
                teacher=None if teacher is None else self._models.get(teacher.name, teacher.logged_model),
                teacher_identity=None if teacher is None else teacher.identity,
                example_video=str(self._data.splits["test"]["uri"][0]),
                timeout_s=0.0,
            )

    def log_ledger(self, run: StageRun, item: Planned) -> None:
        """Give the list of what could not be read to the tracker, if there is one."""
        ledger = item.store.ledger
        if not ledger.is_file():
            return
        if isinstance(ledger, Path):
            run.log_artifact(ledger)
        else:
            run.log_text(ledger.read_text(), ledger.name)

    def delivered_models(self) -> dict[str, str]:
        """Stage -> id of its logged model, for the models that this run logged. Waits until they are delivered."""
        self._tracker.flush(_DELIVERY_TIMEOUT_S)
        return {name: model.model_id for name, model in self._models.items() if model.model_id is not None}

    def tell_trial(self, results: Sequence[StageResult]) -> None:
        """Log what a sweep compares to the trial's run, and which run made each stage that this trial reuses."""
        if self._part is None:
            return
        last = results[-1]
        self._run.log_metrics({f"best/{name}": value for name, value in last.validation.items()}, 0)
        self._run.log_metrics({f"evaluation/{name}": value for name, value in last.metrics.items()}, 0)
        for result in results:
            if result.state == "reuse" and result.tracking_run is not None:
                self._run.set_tags({f"w3ray.reused.{result.name}": result.tracking_run})

    def register(self, last: StageResult) -> dict[str, Any]:
        """Register the last stage's model, but not for a trial: the sweep registers the best. Returns: the model."""
        name = self._recipe.tracking.registered_model or self._recipe.name
        model: dict[str, Any] = {"folder": last.model, "name": None, "version": None, "uri": None}
        if self._tracker.enabled and last.logged_model is not None and self._part is None:
            version = self._tracker.register(last.logged_model, name, alias="current")
            model.update(name=name, version=version, uri=f"models:/{name}/{version}" if version else None)
        self._run.set_tags({"w3ray.model": str(model["name"] or model["folder"])})
        return model

    def log_overhead(self, overhead: Overhead) -> None:
        for name in ("to_first_step_s", "outside_steps_s", "total_s"):
            if (value := getattr(overhead, name)) is not None:
                self._run.log_metrics({f"overhead/{name}": value}, 0)

    def describe(self) -> dict[str, Any]:
        """Where the run is recorded."""
        return {
            "uri": None if self._tracker.uri is None else redact(self._tracker.uri),
            "experiment": self._tracker.experiment,
            "run": self._run.wait_run_id(),
            "command": self._tracker.ui_command,
        }

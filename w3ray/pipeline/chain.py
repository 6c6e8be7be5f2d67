"""How does a recipe become a registered model? Which stages run, which are reused, and which events are reported?

    data -> identities -> (reuse | resume | run) each stage in order -> register the last one

Stages are content-addressed: a finished stage is reused, and an unfinished one resumes at its newest checkpoint. If
another process works on a stage, the run waits for it.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from w3ray.cluster.connection import Connection
from w3ray.events import Moment, RunFinished, RunStarted, StageFinished, StageStarted, StageWaits, Warned
from w3ray.pipeline.bank_stage import BankMaker
from w3ray.pipeline.drawing import Drawing
from w3ray.pipeline.heads_of_stage import metric_of
from w3ray.pipeline.listener import Listener
from w3ray.pipeline.plan import loaded, plan_recipe, with_precision_chosen
from w3ray.pipeline.planned import Planned, PlannedBank, PlannedStage, PreparedData, weights_taken
from w3ray.pipeline.prefix import take_prefix, why_not_continued
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.pipeline.recorder import Clock
from w3ray.pipeline.results import RunResult, StageResult, finished_bank, finished_stage
from w3ray.pipeline.run_record import RunRecord, recorded_run
from w3ray.pipeline.stage_processes import OnEvent, StageStarter
from w3ray.pipeline.stage_store import StageStatus
from w3ray.pipeline.sweep_part import SweepPart
from w3ray.pipeline.train_stage import StageTrainer
from w3ray.plugins import shipment
from w3ray.recipe import Recipe
from w3ray.storage import Lock, require_writable, storage_path


def run(
    recipe: Recipe | str | Path,
    *,
    address: str | None = None,
    on_event: OnEvent | None = None,
    overrides: Sequence[str] = (),
    started_s: float | None = None,
    part_of: SweepPart | None = None,
) -> RunResult:
    """Run a recipe's chain of stages. Running it again resumes an unfinished stage and reuses finished stages.

    Args:
        recipe: a `Recipe`, a path of a YAML file, or the name of a recipe in `pipelines/`.
        address: of a running Ray cluster; None: use the cluster that this process is connected to, or start one.
        on_event: called with each event (`w3ray.events`), in order, one at a time. What it raises ends the run and is
            raised here; the same call resumes it. It is called in this thread, but warnings about the tracking server
            come in another one.
        overrides: each `a.b=value`; only if `recipe` is a name or a path.
        started_s: when the user began to wait, in seconds of the system clock; None: now.
        part_of: the sweep that this run is a trial of; None: the run is not part of a sweep.

    Returns:
        Each stage's result, the registered model, and where the time went.

    Raises:
        InputError: the recipe, data, storage, tracking, address or resources that the user gave cannot be used.
        RunError: a stage failed while it was running.
    """
    clock = Clock(time.time() if started_s is None else started_s)
    listener = Listener(on_event)
    resolved = loaded(recipe, overrides)
    return _Chain(resolved, address, listener, clock, part_of).run()


class _Chain:
    """One call of `run`."""

    def __init__(
        self, recipe: Recipe, address: str | None, listener: Listener, clock: Clock, part_of: SweepPart | None
    ) -> None:
        self._recipe, self._clock, self._part = recipe, clock, part_of
        self._tell: OnEvent = listener
        self._connection = Connection(
            address, needs="w3ray.runtime.cluster_stage", needs_later="w3ray.pipeline.complete"
        )
        self._results: dict[str, StageResult] = {}

    def run(self) -> RunResult:
        recipe = self._recipe
        storage = storage_path(recipe.storage)
        require_writable(storage)
        names = tuple(stage.name for stage in recipe.stages)
        metric: str = recipe.train.best_metric
        self._tell(RunStarted(recipe=recipe.name, stages=names, storage=str(storage), metric=metric))
        with ExitStack() as at_end:
            at_end.callback(self._connection.close)
            if self._connection.address is not None:
                self._connection.nodes()  # so that a wrong address fails before anything is written
            # The checks of data and stages come before the first record is written.
            data = prepare_data(recipe)
            metric = metric_of(metric, data.heads)
            for message in data.files.messages():
                self._warn(f"{data.location}: {message}")
            plan = None if self._part is None else self._part.plan
            self._recipe = recipe = with_precision_chosen(recipe, self._connection, plan)
            planned = plan_stages(recipe, data)
            self._tell(Moment(what="the data were read, and the stages planned"))
            for item in planned:
                if (taken := weights_taken(item)) is not None:
                    self._tell(taken)
            starter, drawing = self._starter(planned, data, at_end)
            with recorded_run(recipe, data, self._part, self._warn) as record:
                trainer = maker = None
                if starter is not None:
                    maker = BankMaker(starter, record, drawing, self._tell)
                    trainer = StageTrainer(starter, record, self._connection, drawing, self._clock, self._tell)
                    at_end.callback(trainer.ahead.abandon)
                for item in planned:
                    if isinstance(item, PlannedBank):
                        self._results[item.stage.name] = self._bank(item, maker)
                    else:
                        self._results[item.stage.name] = self._stage(item, trainer)
                result = self._result(planned, record)
        self._tell(RunFinished(summary=result.summary(metric)))
        return result

    def _starter(
        self, planned: Sequence[Planned], data: PreparedData, at_end: ExitStack
    ) -> tuple[StageStarter | None, Drawing | None]:
        """The objects that start the stages' processes and draw their clips; each is None if it has nothing to do."""
        if all(item.status.state == "reuse" for item in planned):
            return None, None
        self._connection.start()
        nodes = self._connection.nodes()
        self._tell(Moment(what="Ray started"))
        if self._part is None:  # for a trial, the sweep has already checked
            self._connection.require(shipment(self._recipe.plugins, *(item.sources for item in planned)))
        starter = StageStarter(
            recipe=self._recipe,
            data=data,
            planned={item.stage.name: item for item in planned},
            plan=plan_recipe(self._recipe, nodes) if self._part is None else self._part.plan,
            part=self._part,
            own_cluster=self._connection.is_own,
        )
        drawing = None
        if data.to_generate is not None and self._recipe.data.synthetic is not None:
            # Not earlier: until here the main thread is busy, and Python runs one thread at a time.
            drawing = Drawing(data.to_generate, self._recipe.data.synthetic.model_dump())
            at_end.callback(drawing.abandon)
        return starter, drawing

    def _stage(self, item: PlannedStage, trainer: StageTrainer | None) -> StageResult:
        """Reuse a stage if it is finished; else train what is left of it."""
        began = time.monotonic()
        ahead = None if trainer is None else trainer.ahead.take(item)
        if trainer is not None and (ahead is not None or item.status.state != "reuse"):
            with self._lock(item) if ahead is None else ahead.lock as lock:
                # Another run may have finished the stage while this run waited for the lock.
                status = self._status(item) if ahead is None else ahead.status
                if status.state != "reuse":
                    self._tell_started(item, status, status.step)
                    trainer.train(
                        item,
                        status.state,
                        lock,
                        started=None if ahead is None else ahead.running,
                        teacher=None if item.teacher is None else self._results[item.teacher],
                    )
                    return self._finished(item, status, began)
        status = item.store.status(item.determinants)
        self._tell_started(item, status, item.schedule.total_steps)
        return self._finished(item, status, began)

    def _bank(self, item: PlannedBank, maker: BankMaker | None) -> StageResult:
        """Reuse a bank if it is finished; else make what is left of it."""
        began = time.monotonic()
        status = item.status
        if maker is not None and status.state != "reuse":
            with self._lock(item) as lock:
                status = item.store.status(item.determinants)
                self._tell_started(item, status, 0)
                if status.state != "reuse":
                    maker.make(item, status.state, lock)
        else:
            self._tell_started(item, status, 0)
        return self._told(finished_bank(item, status.state, status.why, time.monotonic() - began))

    def _lock(self, item: Planned) -> Lock:
        item.store.create(item.determinants)
        name, folder = item.stage.name, item.store.directory.name
        message = f"stage {name}: another run works on {folder}; waiting for it"
        return item.store.wait(lambda: self._tell(StageWaits(stage=name, message=message)))

    def _status(self, item: PlannedStage) -> StageStatus:
        """What is left to do for a stage whose lock is held.

        A stage that has not begun takes over checkpoints of another stage if that stage's training begins the same.
        """
        status = item.store.status(item.determinants)
        if status.state != "run":
            return status
        if (beginning := take_prefix(item)) is not None:
            return replace(item.store.status(item.determinants), why=f"starts from {beginning}")
        if (reason := why_not_continued(item)) is not None:
            return replace(status, why=f"{status.why}; {reason}")
        return status

    def _tell_started(self, item: Planned, status: StageStatus, step: int) -> None:
        self._tell(
            StageStarted(
                stage=item.stage.name,
                state=status.state,
                why=status.why,
                total_steps=item.total_steps,
                epochs=0 if isinstance(item, PlannedBank) else item.schedule.epochs,
                step=step,
            )
        )

    def _finished(self, item: PlannedStage, status: StageStatus, began: float) -> StageResult:
        return self._told(finished_stage(item, status.state, status.why, time.monotonic() - began))

    def _told(self, result: StageResult) -> StageResult:
        self._tell(
            StageFinished(
                stage=result.name,
                metrics=dict(result.metrics),
                checkpoint=result.checkpoint,
                seconds=result.seconds,
            )
        )
        return result

    def _warn(self, message: str) -> None:
        self._tell(Warned(message=message))

    # The end.

    def _result(self, planned: Sequence[Planned], record: RunRecord) -> RunResult:
        """Wait until the tracking store gives the models' ids, write them down, and register the last model."""
        models = record.delivered_models()
        self._tell(Moment(what="MLflow had everything"))
        for item in planned:
            name = item.stage.name
            if (logged := models.get(name)) is not None:
                item.store.add_to_result(logged_model=logged)
                self._results[name] = replace(self._results[name], logged_model=logged)
        stages = tuple(self._results.values())
        record.tell_trial(stages)
        model = record.register(stages[-1])
        tracking = record.describe()
        overhead = self._clock.overhead()
        record.log_overhead(overhead)
        return RunResult(
            recipe=self._recipe.name, stages=stages, model=model, tracking=tracking, overhead=asdict(overhead)
        )

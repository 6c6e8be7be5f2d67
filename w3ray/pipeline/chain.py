"""How does a recipe become a registered model: which stages run, which are reused, and what is told to whom?

    data -> identities -> (reuse | resume | run) each stage in order -> register the last one

Stages are content-addressed: a finished one is reused, an unfinished one goes on at its newest checkpoint, one that
another process works on is waited for.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w3ray._redact import redact, redacted
from w3ray.attention.health import StageHealth, faults, read_health
from w3ray.cluster.connection import Connection
from w3ray.cluster.plan import READ_CPUS, ResourcePlan, plan_resources
from w3ray.errors import InputError
from w3ray.events import (
    Event,
    Restarted,
    RunFinished,
    RunStarted,
    RunSummary,
    StageFinished,
    StageStarted,
    StageSummary,
    StepDone,
    Warned,
)
from w3ray.events import StageState as EventState
from w3ray.pipeline.ahead import AheadStage, nearly_done
from w3ray.pipeline.drawing import Drawing
from w3ray.pipeline.prefix import take_prefix
from w3ray.pipeline.prepare import PlannedStage, PreparedData, plan_stages, prepare_data
from w3ray.pipeline.recorder import Clock, StageRecorder
from w3ray.pipeline.sweep_part import SweepPart
from w3ray.recipe import Recipe, load_recipe
from w3ray.storage import Lock, RemotePath, fetched, require_writable, storage_path
from w3ray.storage.lease import Lease

if TYPE_CHECKING:
    from w3ray.tracking.uri import Chosen

OnEvent = Callable[[Event], None]

_DELIVERY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What a stage ended with. `metrics` are of the evaluation split, `validation` of the best checkpoint.

    `attention` is what the model's gates did in that evaluation (empty without attention, and for stages finished
    before it was measured), `attention_faults` says what is wrong with it.
    """

    name: str
    state: EventState
    why: str
    identity: str
    metrics: Mapping[str, float]
    validation: Mapping[str, float]
    checkpoint: str
    model: str
    tracking_run: str | None
    logged_model: str | None
    seconds: float
    attention: tuple[StageHealth, ...] = ()
    attention_faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What `run` returns; `document()` is the same as JSON values."""

    recipe: str
    stages: tuple[StageResult, ...]
    model: Mapping[str, Any]
    tracking: Mapping[str, Any]
    overhead: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def plan_run(recipe: Recipe | str | Path, *, address: str | None = None) -> dict[str, Any]:
    """What `run` would do, without doing it: the resolved recipe, each stage with its state, the resource plan.

    Raises:
        InputError: as `run`.
    """
    recipe = _loaded(recipe)
    connection = Connection(address)
    try:
        plan = plan_recipe(recipe, connection.nodes())
    finally:
        connection.close()
    data = prepare_data(recipe)
    planned = plan_stages(recipe, data)
    stages = [
        {
            "name": item.stage.name,
            "state": item.status.state,
            "why": item.status.why,
            "identity": item.identity,
            "directory": str(item.store.directory),
            "steps_done": item.status.step,
            "total_steps": item.schedule.total_steps,
        }
        for item in planned
    ]
    return redacted(
        {
            "recipe": recipe.to_dict(),
            "stages": stages,
            "videos": {"changed": list(data.files.changed), "touched": list(data.files.touched)},
            "resources": plan.describe(),
            "tracking": describe_tracking(recipe),
        }
    )


def run(
    recipe: Recipe | str | Path,
    *,
    address: str | None = None,
    on_event: OnEvent | None = None,
    overrides: Sequence[str] = (),
    started_s: float | None = None,
    part_of: SweepPart | None = None,
) -> RunResult:
    """Run a recipe's chain of stages; running it again goes on where it stopped, or reuses what is finished.

    Args:
        recipe: a `Recipe`, a path of a YAML file, or the name of one of `pipelines/`.
        address: of a running Ray cluster; None uses the one this process is connected to, or starts one.
        on_event: called with each event (`w3ray.events`), in order, in this thread.
        overrides: `a.b=value` each, where `recipe` is a name or a path.
        started_s: when the user began to wait, seconds of the system clock; None: now.
        part_of: the sweep whose trial this run is; None: it stands for itself.

    Returns:
        Each stage's result, the registered model, and where the time went.

    Raises:
        InputError: something the user wrote cannot be used (recipe, data, storage, tracking, address, resources).
        RunError: a stage failed while running.
    """
    clock = Clock(time.time() if started_s is None else started_s)
    recipe = _loaded(recipe, overrides)
    return _Chain(recipe, address, on_event or (lambda event: None), clock, part_of).run()


def _loaded(recipe: Recipe | str | Path, overrides: Sequence[str] = ()) -> Recipe:
    if isinstance(recipe, Recipe):
        if overrides:
            raise InputError("overrides need a recipe's name or path: a Recipe object is already resolved")
        return recipe
    return load_recipe(recipe, overrides)


def plan_recipe(recipe: Recipe, nodes: Sequence[Mapping[str, float]], *, read_cpus: float = READ_CPUS) -> ResourcePlan:
    """Who gets what of a cluster's nodes.

    Raises:
        InputError: the run does not fit.
    """
    resources = recipe.resources
    return plan_resources(
        nodes=nodes,
        workers=resources.workers_range,
        use_gpu=resources.use_gpu,
        decoders=resources.decoders,
        cpus_per_worker=resources.cpus_per_worker,
        worker_resources=resources.worker_resources,
        decoder_resources=resources.decoder_resources,
        may_grow=resources.may_grow,
        read_cpus=read_cpus,
    )


class _Chain:
    """One call of `run`."""

    def __init__(
        self, recipe: Recipe, address: str | None, on_event: OnEvent, clock: Clock, part_of: SweepPart | None
    ) -> None:
        self.recipe, self.clock, self.part_of = recipe, clock, part_of
        # What is told is shown, and kept in logs.
        self.on_event: OnEvent = lambda event: on_event(redacted(event))
        self.connection = Connection(
            address, needs="w3ray.runtime.cluster_stage", needs_later="w3ray.pipeline.complete"
        )
        self.plan: ResourcePlan | None = None
        self.results: dict[str, StageResult] = {}
        self.logged: dict[str, Any] = {}
        self.planned: dict[str, PlannedStage] = {}
        self.ahead: AheadStage | None = None
        self.drawing: Drawing | None = None

    def run(self) -> RunResult:
        recipe = self.recipe
        storage = storage_path(recipe.storage)
        require_writable(storage)
        names = tuple(stage.name for stage in recipe.stages)
        self.on_event(
            RunStarted(recipe=recipe.name, stages=names, storage=str(storage), metric=recipe.train.best_metric)
        )
        try:
            if self.connection.address is not None:
                self.connection.nodes()  # a wrong address is said before anything is written
            # What can be wrong is found before the first record is written.
            data = prepare_data(recipe)
            for message in data.files.messages():
                self.on_event(Warned(message=f"{data.location}: {message}"))
            planned = plan_stages(recipe, data)
            self.planned = {item.stage.name: item for item in planned}
            if any(item.status.state != "reuse" for item in planned):
                self.connection.start()
                nodes = self.connection.nodes()
                self.plan = self.part_of.plan if self.part_of is not None else plan_recipe(recipe, nodes)
                # Not earlier: until here this process is busy itself, and Python runs one thread at a time.
                if data.to_generate is not None and recipe.data.synthetic is not None:
                    self.drawing = Drawing(data.to_generate, recipe.data.synthetic.model_dump())
            part = self.part_of
            with open_tracker(
                recipe,
                run_name=recipe.name if part is None else part.name,
                notify=lambda message: self.on_event(Warned(message=message)),
                must_answer=part is None,  # the sweep has looked, and goes on without it
            ) as tracker:
                parent = tracker.start_run(
                    recipe.to_dict(),
                    identity=recipe.fingerprint() if part is None else part.identity,
                    parent_run_id=None if part is None else part.parent_run_id,
                )
                if part is not None:
                    parent.log_params(part.params)
                    parent.set_tags(part.tags)
                for item in planned:
                    self.results[item.stage.name] = self._stage(item, data, tracker)
                self._settle(planned, tracker)
                if part is not None:
                    self._tell_trial(parent)
                model = self._register(planned[-1], tracker)
                result = self._result(model, tracker, parent)
                parent.set_tags({"w3ray.model": str(model["name"] or model["folder"])})
                for name, value in result.overhead.items():
                    if isinstance(value, float):
                        parent.log_metrics({f"overhead/{name}": value}, 0)
        finally:
            self._abandon_ahead()
            if self.drawing is not None:
                self.drawing.abandon()
            self.connection.close()
        self.on_event(RunFinished(summary=self._summary(result)))
        return result

    # Stages.

    def _stage(self, item: PlannedStage, data: PreparedData, tracker: Any) -> StageResult:
        started = time.monotonic()
        ahead, self.ahead = self.ahead, None
        assert ahead is None or ahead.item is item, "only the next stage is started ahead of its turn"
        if ahead is not None or item.status.state != "reuse":
            item.store.create(item.determinants)
            lock = (
                item.store.wait(lambda message: self.on_event(Warned(message=message))) if ahead is None else ahead.lock
            )
            with lock:
                # Another run may have finished it while this one waited.
                status = item.store.status(item.determinants) if ahead is None else ahead.status
                if status.state == "run" and ahead is None and (beginning := take_prefix(item)) is not None:
                    status = replace(item.store.status(item.determinants), why=f"begins as {beginning}")
                if status.state != "reuse":
                    self._tell_started(item, status.state, status.why, status.step)
                    self._train(item, status.state, data, tracker, lock, None if ahead is None else ahead.run)
                    return self._stage_result(item, status.state, status.why, time.monotonic() - started)
        status = item.store.status(item.determinants)
        self._tell_started(item, "reuse", status.why, item.schedule.total_steps)
        return self._stage_result(item, "reuse", status.why, time.monotonic() - started)

    def _start_next(self, item: PlannedStage, data: PreparedData) -> None:
        """Begin to start the stage after `item`, where that can be done: see `w3ray.pipeline.ahead`."""
        following = list(self.planned.values())[item.stage.index + 1 :]
        if self.ahead is not None or self._in_process or not following or following[0].status.state == "reuse":
            return
        following[0].store.create(following[0].determinants)
        lock = following[0].store.take()
        if lock is None:
            return  # another run works on it: its turn will come, and with it the wait
        status = following[0].store.status(following[0].determinants)
        if status.state == "reuse":
            lock.close()
            return
        run = self._stage_run(following[0], data, lock)
        self.ahead = AheadStage(following[0], status, lock, run)

    def _abandon_ahead(self) -> None:
        if self.ahead is not None:
            ahead, self.ahead = self.ahead, None
            ahead.abandon()

    def _tell_started(self, item: PlannedStage, state: EventState, why: str, step: int) -> None:
        self.on_event(
            StageStarted(
                stage=item.stage.name,
                state=state,
                why=why,
                total_steps=item.schedule.total_steps,
                epochs=item.schedule.epochs,
                step=step,
            )
        )

    def _train(
        self, item: PlannedStage, state: EventState, data: PreparedData, tracker: Any, lock: Lock, run_ahead: Any
    ) -> None:
        """Run what is left of a stage, then write its model, its report and, last, its result."""
        params = {"stage": item.determinants, "state": state, "resources": self.plan.describe() if self.plan else {}}
        run = tracker.stage_run(item.stage.name, item.identity, params)
        run.log_dataset(self.recipe.name, data.fingerprint, data.location, "training")
        recorder = StageRecorder(item.store, run, self.clock, self.on_event)

        def hear(event: Event) -> None:
            if isinstance(event, StepDone):
                self.connection.training()
                tracker.begin()
            if isinstance(event, Restarted):
                self._abandon_ahead()  # it holds the very resources that this stage needs to start again
            recorder(event)
            if isinstance(event, StepDone) and nearly_done(event, item):
                self._start_next(item, data)

        def watch() -> None:
            lock.check()
            if self.ahead is not None:
                self.ahead.lock.check()
            tracker.check()
            if self.drawing is not None:
                self.drawing.check()

        try:
            outcome = self._outcome(item, data, lock, run_ahead, hear, watch)
            from w3ray.pipeline.complete import complete_stage  # imported by the connection while the stage trains

            lock.check()
            result = complete_stage(item, data, outcome)
            lock.check()
            item.store.finish({**result, "tracking_run": run.wait_run_id(), "logged_model": None})
            self.logged[item.stage.name] = self._log_result(item, data, result, run)
        except (KeyboardInterrupt, SystemExit):
            run.finish("KILLED")
            raise
        except BaseException:
            run.finish("FAILED")
            raise
        run.finish("FINISHED")

    def _outcome(
        self,
        item: PlannedStage,
        data: PreparedData,
        lock: Lock,
        run_ahead: Any,
        hear: OnEvent,
        watch: Callable[[], None],
    ) -> Any:
        """Follow the stage to its end.

        One that was started too far ahead of its turn is started again, and so is one whose processes are lost.
        """
        from w3ray.runtime.faults import RestartBudget, StageLost, TeacherMissing

        budget = RestartBudget(item.status.step)
        while True:
            run = run_ahead or self._stage_run(item, data, lock)
            try:
                return run.outcome(hear, watch)
            except TeacherMissing:
                if run_ahead is None:
                    raise
            except StageLost as error:
                step = item.store.status(item.determinants).step
                if not budget.spend(step):
                    raise
                self._abandon_ahead()
                self.on_event(Warned(message=f"{error}; starting its processes again, from step {step}"))
            run_ahead = None

    @property
    def _in_process(self) -> bool:
        return self.part_of is not None and self.part_of.in_process

    def _stage_run(self, item: PlannedStage, data: PreparedData, lock: Lock) -> Any:
        spec = self._spec(item, data, lock)
        if self._in_process:
            from w3ray.runtime.in_process_stage import InProcessStage

            return InProcessStage(spec, data.splits)
        from w3ray.runtime.cluster_stage import ClusterStage

        return ClusterStage(spec, data.splits, own_cluster=self.connection.is_own)

    def _spec(self, item: PlannedStage, data: PreparedData, lock: Lock) -> Any:
        from w3ray.data.stream_spec import StreamSpec
        from w3ray.runtime.stage_spec import StageSpec

        assert self.plan is not None
        stage = item.stage
        teacher = None if item.teacher is None else self.planned[item.teacher].store.model
        return StageSpec(
            name=stage.name,
            directory=item.store.directory,
            seed=item.seed,
            model=item.model_arguments(data),
            teacher=teacher,
            loss_weights=dict(stage.loss_weights),
            train=stage.train,
            stream=StreamSpec(
                schedule=item.schedule,
                clip=data.clip,
                flip_map=data.flip_map,
                roots=self.recipe.data.roots,
                clips_ready=None if data.to_generate is None else data.to_generate / "manifest.parquet",
                cache=self.recipe.data.video_cache(),
                shared=None if self.part_of is None else self.part_of.shared,
                clip_timeout_s=self.recipe.resources.clip_timeout_s,
            ),
            heads=data.heads,
            plan=self.plan,
            num_clips=data.num_clips,
            max_failed_share=self.recipe.data.max_failed_share,
            lease=lock.intent if isinstance(lock, Lease) else None,
            stall_timeout_s=self.recipe.resources.stall_timeout_s,
            resize_every_s=self.recipe.resources.resize_every_s,
            explained=data.explained,
            explain_every_epochs=self.recipe.tracking.explain_every_epochs,
        )

    def _log_result(self, item: PlannedStage, data: PreparedData, result: Mapping[str, Any], run: Any) -> Any:
        """Hand report and model to the tracker, which delivers them while the next stage starts."""
        with fetched(item.store.report) as report:
            for path in sorted(report.iterdir()):
                run.log_artifact(path, "report")
        ledger = item.store.ledger
        if ledger.is_file():
            if isinstance(ledger, Path):
                run.log_artifact(ledger)
            else:
                run.log_text(ledger.read_text(), ledger.name)
        with fetched(item.store.model) as model:
            return self._log_model(item, data, result, run, model)

    def _log_model(
        self, item: PlannedStage, data: PreparedData, result: Mapping[str, Any], run: Any, folder: Path
    ) -> Any:
        teacher = None if item.teacher is None else self.results[item.teacher]
        return run.log_model(
            folder,
            keep_copy=folder != item.store.model,
            metrics={f"best/{name}": value for name, value in result["metrics"].items()},
            step=result["step"],
            dataset=(self.recipe.name, data.fingerprint, data.location),
            teacher=None if teacher is None else self.logged.get(teacher.name, teacher.logged_model),
            teacher_identity=None if teacher is None else teacher.identity,
            example_video=str(data.splits["test"]["uri"][0]),
            timeout_s=0.0,
        )

    def _settle(self, planned: Sequence[PlannedStage], tracker: Any) -> None:
        """Wait until the tracker delivered the models, and write their ids down."""
        tracker.flush(_DELIVERY_TIMEOUT_S)
        for item in planned:
            model = self.logged.get(item.stage.name)
            if model is not None and model.model_id is not None:
                item.store.add_to_result(logged_model=model.model_id)
                self.results[item.stage.name] = replace(self.results[item.stage.name], logged_model=model.model_id)

    def _stage_result(self, item: PlannedStage, state: EventState, why: str, seconds: float) -> StageResult:
        stored = item.store.result()
        assert stored is not None, "a stage that was run or reused has a result"
        attention = read_health(item.store.model)
        result = StageResult(
            name=item.stage.name,
            state=state,
            why=why,
            identity=item.identity,
            metrics=stored["metrics"],
            validation=stored["validation"],
            checkpoint=stored["checkpoint"],
            model=str(item.store.model),
            tracking_run=stored["tracking_run"],
            logged_model=stored["logged_model"],
            seconds=seconds,
            attention=attention,
            attention_faults=tuple(faults(attention)),
        )
        self.on_event(
            StageFinished(
                stage=result.name, metrics=dict(result.metrics), checkpoint=result.checkpoint, seconds=seconds
            )
        )
        return result

    # The end.

    def _tell_trial(self, parent: Any) -> None:
        """What a sweep compares, at the trial's own run; and which run made a stage that this trial took over."""
        last = list(self.results.values())[-1]
        parent.log_metrics({f"best/{name}": value for name, value in last.validation.items()}, 0)
        parent.log_metrics({f"evaluation/{name}": value for name, value in last.metrics.items()}, 0)
        for result in self.results.values():
            if result.state == "reuse" and result.tracking_run is not None:
                parent.set_tags({f"w3ray.reused.{result.name}": result.tracking_run})

    def _register(self, last: PlannedStage, tracker: Any) -> dict[str, Any]:
        result = self.results[last.stage.name]
        name = self.recipe.tracking.registered_model or self.recipe.name
        model: dict[str, Any] = {"folder": result.model, "name": None, "version": None, "uri": None}
        if tracker.enabled and result.logged_model is not None and self.part_of is None:
            version = tracker.register(result.logged_model, name, alias="current")
            model.update(name=name, version=version, uri=f"models:/{name}/{version}" if version else None)
        return model

    def _result(self, model: Mapping[str, Any], tracker: Any, parent: Any) -> RunResult:
        tracking = {
            "uri": None if tracker.uri is None else redact(tracker.uri),
            "experiment": tracker.experiment,
            "run": parent.wait_run_id(),
            "command": tracker.ui_command,
        }
        return RunResult(
            recipe=self.recipe.name,
            stages=tuple(self.results.values()),
            model=model,
            tracking=tracking,
            overhead=asdict(self.clock.overhead()),
        )

    def _summary(self, result: RunResult) -> RunSummary:
        model = result.model
        return RunSummary(
            recipe=result.recipe,
            stages=tuple(
                StageSummary(
                    name=stage.name,
                    state=stage.state,
                    metrics=dict(stage.metrics),
                    seconds=stage.seconds,
                    attention=stage.attention,
                )
                for stage in result.stages
            ),
            metric=self.recipe.train.best_metric,
            model=f"{model['name']} version {model['version']}" if model["version"] else None,
            folder=str(model["folder"]),
            mlflow_command=result.tracking["command"] or result.tracking["uri"],
            overhead=self.clock.overhead(),
        )


def open_tracker(recipe: Recipe, *, run_name: str, notify: Callable[[str], None], must_answer: bool = True) -> Any:
    """The MLflow side of a run, or of a sweep of this recipe: see `Tracker.open`."""
    from w3ray.tracking import Tracker

    uri, experiment = tracked(recipe)
    return Tracker.open(
        uri.value if recipe.tracking.enabled else None,
        experiment.value,
        run_name=run_name,
        buffer_dir=tracking_root(recipe.storage) / "tracking",
        artifacts=_artifacts(recipe),
        notify=notify,
        setting=uri.setting,
        must_answer=must_answer,
    )


def tracked(recipe: Recipe) -> "tuple[Chosen, Chosen]":
    """The MLflow and the experiment in which a run of this recipe is recorded."""
    from w3ray.tracking import choose_experiment, choose_uri

    uri = choose_uri(recipe.tracking.uri, tracking_root(recipe.storage))
    return uri, choose_experiment(recipe.tracking.experiment, recipe.name)


def tracked_here(recipe: Recipe) -> Recipe:
    """The recipe for another process, which may find other variables in its environment: recorded where this one is."""
    uri, experiment = tracked(recipe)
    tracking = recipe.tracking.model_copy(update={"uri": uri.value, "experiment": experiment.value})
    return recipe.model_copy(update={"tracking": tracking})


def describe_tracking(recipe: Recipe) -> dict[str, Any]:
    """Where a run is recorded, and why there, for a plan."""
    if not recipe.tracking.enabled:
        return {"uri": None, "uri_from": "tracking.enabled is false", "experiment": None, "experiment_from": None}
    uri, experiment = tracked(recipe)
    return {
        "uri": uri.value, "uri_from": uri.why, "experiment": experiment.value, "experiment_from": experiment.why
    }  # fmt: skip


def tracking_root(storage: str) -> Path:
    """Where a run's tracking lies unless `tracking.uri` says otherwise, and what is on its way to the tracking server.

    A database cannot lie on object storage: there it is `runs` in the current folder, as where no storage is set.
    """
    root = storage_path(storage)
    return root if isinstance(root, Path) else Path(str(Recipe.model_fields["storage"].default)).absolute()


def _artifacts(recipe: Recipe) -> str | None:
    """Where a local tracking database keeps models and reports; None: beside itself."""
    root = storage_path(recipe.storage)
    return (root / "mlartifacts").uri if isinstance(root, RemotePath) and root.uri.startswith("s3://") else None

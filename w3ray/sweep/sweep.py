"""How does a space become a ranking of trials? The driver of a sweep.

    space + recipe -> trials, as many at once as fit the cluster -> ranking, best model registered

Trials are content-addressed chains: the first trial that needs a stage trains it, and the others reuse it. Running the
same sweep again continues it.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from w3ray._digest import digest_of
from w3ray._redact import redact
from w3ray.cluster.connection import Connection
from w3ray.data.shared_clips import SharedClips
from w3ray.errors import InputError, RunError
from w3ray.events import Event, StageWaits, Warned
from w3ray.pipeline.plan import with_precision_chosen
from w3ray.pipeline.prepare import check_network, prepare_data
from w3ray.pipeline.tracked import open_tracker, tracked_here
from w3ray.plugins import shipment, sources_of
from w3ray.recipe import Recipe, load_recipe
from w3ray.storage import require_writable, storage_path
from w3ray.sweep.book import TrialBook, short_names, show_value
from w3ray.sweep.clips import draw_clips, forget_clips
from w3ray.sweep.plan import check_objectives, check_sweep
from w3ray.sweep.records import SweepFolder, Trial, by_point
from w3ray.sweep.replay import replay
from w3ray.sweep.results import SweepResult, SweepStatus, sweep_result, track_result
from w3ray.sweep.schedulers import SCHEDULERS
from w3ray.sweep.searchers import Known
from w3ray.sweep.slots import plan_trials, trains_in_process
from w3ray.sweep.space import Space, load_space, objective_stage, usual_recipe, usual_stage

if TYPE_CHECKING:
    from w3ray.sweep.trial import Task

_POLL_S = 0.5
_MAX_SEARCHES = 5
"""Ray Tune silently drops a trial if the process that it wants to reuse is not free; such trials are searched again."""
_END_TIMEOUT_S = 120.0


def tune(
    space: Space | str | Path,
    recipe: Recipe | str | Path,
    *,
    name: str | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
    on_status: Callable[[SweepStatus], None] | None = None,
) -> SweepResult:
    """Search a space; a second call with the same arguments continues the sweep.

    Args:
        space: a `Space`, a path of a YAML file, or the name of one in `tune_spaces/`.
        recipe: the base of all trials: a `Recipe`, a path, or the name of one in `pipelines/`.
        name: name of the sweep; None: the space's name.
        address: address of a running Ray cluster; None uses the one this process is connected to, or starts one.
        overrides: `a.b=value` each; only if `recipe` is a name or a path.
        on_status: called with a `SweepStatus` about twice a second, in this thread. What it raises ends the sweep.

    Returns:
        The ranking, the best recipe, the registered model.

    Raises:
        InputError: an input cannot be used (space, recipe, name, data, storage, tracking, resources).
        RunError: too many trials failed.
    """
    if on_status is not None and not callable(on_status):
        raise InputError(f"on_status must be a function that takes a status, not {on_status!r}")
    base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    found = space if isinstance(space, Space) else load_space(space)
    found = found if name is None else found.renamed(name)
    sweep = _Sweep(found, base, address, on_status or (lambda status: None))
    with closing(sweep.connection):
        return sweep.run()


class _Sweep:
    """One call of `tune`."""

    def __init__(
        self, space: Space, base: Recipe, address: str | None, on_status: Callable[[SweepStatus], None]
    ) -> None:
        self.space, self.base, self.on_status = space, base, on_status
        self.connection = Connection(address)  # this process does not train; the trials do
        self.started_s = time.time()
        self.messages: list[str] = []
        self.ended = ""
        self.folder = SweepFolder(base.storage, space.name)
        self.short = short_names([*space.parameters])
        self.shared: SharedClips | None = None

    @cached_property
    def epochs(self) -> int:
        """Epochs of the objective's stage."""
        return usual_stage(self.space, self.base).train.epochs

    def run(self) -> SweepResult:
        space, base = self.space, self.base
        check_sweep(space, base)
        require_writable(storage_path(base.storage))
        # Before the base is stored. A trial whose point leaves the precision open chooses itself, in the same way.
        self.base = base = with_precision_chosen(base, self.connection)
        if self.connection.address is not None:
            self.connection.nodes()
        usual = usual_recipe(space, base)  # not the base: the space may set other clips or stages for all trials
        data = prepare_data(usual)  # report problems with the data and the networks before anything is written
        check_objectives(space, data.heads)
        for stage in usual.resolved_stages():
            check_network(stage, data.clip)
        with self.folder.open(space, base):
            book = TrialBook(space, base, self.folder, cost_of=self._cost, warm_start=self._warm_start())
            try:
                return self._run(book)
            finally:
                try:
                    if self.shared is not None:
                        forget_clips(self.shared, own_cluster=self.connection.is_own)
                finally:
                    self.connection.close()

    def _run(self, book: TrialBook) -> SweepResult:
        space = self.space
        self.connection.start()
        with open_tracker(self.base, run_name=f"sweep {space.name}", notify=self.messages.append) as tracker:
            tracker.begin()  # while Ray starts
            nodes = self.connection.nodes()
            plugins = shipment(self.base.plugins, sources_of(self.base.parts()))
            self.connection.require(plugins)
            concurrency, plan = plan_trials(self.base, nodes, space.concurrency, book.most_trials)
            in_process = not self.base.resources.may_grow and trains_in_process(nodes, plan)
            book.set_gpus(plan.workers * plan.worker_gpus)
            draw_clips(space, usual_recipe(space, self.base))
            identity = digest_of({"sweep": space.name, "directory": str(self.folder.directory)})
            self.shared = self.base.data.shared_clips(identity)
            # A finished run is resumed, too: the user may have raised the budget or repeated the command.
            parent = tracker.start_run(
                {"space": space.to_dict(), "recipe": self.base.name}, identity=identity, also_ended=True
            )
            parent.set_tags({"w3ray.sweep": space.name})
            parent_run = parent.wait_run_id(60.0)

            def task_of(trial: Trial) -> "Task":
                from w3ray.sweep.trial import Task

                recipe = tracked_here(book.recipe(trial))
                return Task(
                    trial=trial.id,
                    recipe=recipe.to_dict(),
                    objective_metric=space.objectives[0].metric,
                    lower_is_better=space.objectives[0].lower_is_better,
                    objective_stage=objective_stage(space, recipe).name,
                    epochs=self.epochs,
                    stops_after=book.stops_after(trial),
                    reports=trial.reports,
                    run_name=f"{space.name} {trial.id}",
                    identity=f"{identity}-{trial.id}",
                    parent_run_id=parent_run,
                    params={"sweep": self._shown(trial)},
                    tags={"w3ray.sweep": space.name, "w3ray.trial": trial.id},
                    plan=plan,
                    in_process=in_process,
                    shared=self.shared,
                    folder=os.getcwd(),
                    plugins=plugins,
                )

            self._search(book, task_of, concurrency, plan.worker_cpus if in_process else 0.0)
            result = sweep_result(
                book, self.folder, tracker, run=parent_run, ended=self.ended, seconds=time.time() - self.started_s
            )
            track_result(result, str(storage_path(self.base.storage)), parent)
            tracker.reap()  # trials that were stopped last could not end their runs
        if (failures := book.too_many_failures()) is not None:
            raise RunError(f"sweep {space.name}: {failures}; see {self.folder.directory}/trials")
        if not any(point.state != "skipped" for point in result.points):
            reason = result.points[0].trials[0].reason if result.points else "no point was proposed"
            raise InputError(f"sweep {space.name}: the space has no valid trial; the first point: {reason}")
        return result

    def _search(self, book: TrialBook, task_of: "Callable[[Trial], Task]", concurrency: int, cpus: float) -> None:
        """Run trials until there are no more, the budget is spent, or too many fail."""
        from w3ray.runtime.event_channel import EventChannel
        from w3ray.sweep.ray_tune import run_trials
        from w3ray.sweep.trial import TrialEvent

        lower_is_better = self.space.objectives[0].lower_is_better
        mode = "min" if lower_is_better else "max"
        channel = EventChannel()
        failure: list[BaseException] = []

        def search() -> None:
            try:
                for _ in range(_MAX_SEARCHES):
                    scheduler = SCHEDULERS[self.space.scheduling.scheduler](self.space.scheduling, self.epochs, mode)
                    replay(scheduler, book.trials, lower_is_better=lower_is_better)
                    run_trials(book, task_of, channel.sender(), scheduler, concurrency, cpus)
                    if not book.take_back():
                        return
                raise RunError(f"sweep {self.space.name}: Ray Tune lost trials {_MAX_SEARCHES} times; run it again")
            except BaseException as error:  # pass it to the waiting thread
                failure.append(error)

        thread = threading.Thread(target=search, name="sweep", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                for event in channel.receive(_POLL_S):
                    if isinstance(event, TrialEvent):
                        self._hear(book, event.trial, event.event)
                self._watch_budget(book)
                self._tell(book, concurrency)
        finally:
            book.ending = True
            thread.join(_END_TIMEOUT_S)
            channel.close()
        if failure:
            raise failure[0]
        self.ended = self.ended or "all trials are done"
        self._tell(book, concurrency)

    def _hear(self, book: TrialBook, trial: str, event: Event) -> None:
        if isinstance(event, Warned) and not isinstance(event, StageWaits):
            self.messages.append(f"trial {trial}: {event.message}")
        else:
            book.heard(trial, event)

    def _watch_budget(self, book: TrialBook) -> None:
        budget = self.space.budget
        hours = (time.time() - self.started_s) / 3600
        if book.ending:
            return
        if budget.hours is not None and hours >= budget.hours:
            self.ended = f"budget.hours: {budget.hours:g} h have passed"
        elif budget.gpu_hours is not None and book.gpu_hours() >= budget.gpu_hours:
            self.ended = f"budget.gpu_hours: {budget.gpu_hours:g} GPU hours are used"
        elif (failures := book.too_many_failures()) is not None:
            self.ended = failures
        else:
            return
        book.ending = True

    def _tell(self, book: TrialBook, concurrency: int) -> None:
        messages, self.messages[:] = tuple(map(redact, self.messages)), []
        seconds = time.time() - self.started_s
        self.on_status(SweepStatus(book=book, concurrency=concurrency, seconds=seconds, messages=messages))

    # Before the trials.

    def _cost(self, recipe: Recipe) -> Mapping[str, float]:
        """gmac, if it is an objective.

        Raises:
            InputError: the recipe has no stage that reports the first objective, or a network does not fit its clips.
        """
        stage = objective_stage(self.space, recipe)
        for one in recipe.resolved_stages():
            check_network(one, recipe.data.clip_spec())
        if not any(one.metric == "gmac" for one in self.space.objectives):
            return {}
        from w3ray.models import build_model
        from w3ray.models.profiling import profile

        arguments = {**stage.model.build_arguments(), "weights": None, "num_classes": 2}
        arguments["flow_fields"] = recipe.data.flow_fields
        data = recipe.data
        macs = profile(build_model(**arguments), data.num_frames, data.size, data.boxes_per_frame).macs
        return {"gmac": macs / 1e9}

    def _warm_start(self) -> list[Known]:
        known = []
        for name in self.space.search.warm_start:
            folder = SweepFolder(self.base.storage, name)
            if (document := folder.document()) is None:
                raise InputError(f"search.warm_start: no sweep {name!r} in {folder.sweeps}")
            theirs = [one.metric for one in Space.model_validate(document["space"]).objectives]
            if theirs != (ours := [one.metric for one in self.space.objectives]):
                raise InputError(
                    f"search.warm_start: sweep {name!r} compares {', '.join(theirs)}, this one {', '.join(ours)}"
                )
            known += [Known(point=point.point, values=point.values) for point in by_point(folder.trials())]
        return [one for one in known if one.values is not None]

    # The end.

    def _shown(self, trial: Trial) -> dict[str, str]:
        """The point with short names, for MLflow's plots."""
        named = {self.short.get(name, name): show_value(value) for name, value in trial.point.items()}
        return {**named, "repeat": str(trial.repeat)} if self.space.search.repeats > 1 else named

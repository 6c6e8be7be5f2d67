"""How does Ray Tune run the book's trials, and what does it tell the book?

Ray Tune starts the trials' processes, stops trials when its scheduler says so, and restarts trials whose process died.
Its own files (pickles) are in a temporary folder and are never read.
"""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from w3ray.runtime.event_channel import EventSender
from w3ray.sweep.book import NotYet, TrialBook
from w3ray.sweep.records import Report, Trial
from w3ray.sweep.trial import Task, run_trial

MAX_DEATHS = 2
"""How often a trial whose process died is started again."""

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last report of a failed trial has no metrics
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class _NotKept:
    """Pickles as an empty object. Ray Tune pickles its parts to restore itself later, which w3ray never does."""

    def __reduce__(self) -> Any:
        return object, ()

    def __deepcopy__(self, memo: Any) -> Self:
        return self


class _SearcherOfBook(_NotKept, Searcher):
    """Asks the book for trials. It has no state of its own."""

    def __init__(self, book: TrialBook, task_of: Callable[[Trial], Task]) -> None:
        super().__init__()
        self._book, self._task_of = book, task_of

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        trial = self._book.next()
        if isinstance(trial, NotYet):
            return None
        return Searcher.FINISHED if trial is None else {"task": self._task_of(trial)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep continues from its records")


class _TellBook(_NotKept, tune.Callback):
    """Tells the book about the progress of trials."""

    def __init__(self, book: TrialBook) -> None:
        self._book = book

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        mine = trial.config["task"].trial
        if report := result.get("report"):
            self._book.reported(mine, Report(**report))
        if outcome := result.get("outcome"):
            if outcome["failure"] is not None:
                self._book.failed(mine, outcome["failure"])
            else:
                self._book.finished(mine, outcome["document"])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._book.left(trial.config["task"].trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        mine = trial.config["task"].trial
        if self._book.ending:
            self._book.left(mine)
            return
        text = Path(trial.error_file).read_text() if trial.error_file and Path(trial.error_file).exists() else ""
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no error text")
        self._book.failed(mine, f"its process died {MAX_DEATHS + 1} times ({last})")


class _Ending(_NotKept, tune.Stopper):
    def __init__(self, book: TrialBook) -> None:
        self._book = book

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._book.ending


def run_trials(
    book: TrialBook,
    task_of: Callable[[Trial], Task],
    sender: EventSender,
    scheduler: TrialScheduler,
    concurrency: int,
    cpus: float,
) -> None:
    """Run trials until the book has no more; returns when all have ended. Only one call at a time per process.

    Args:
        concurrency: trials at once.
        cpus: CPUs that a trial's own process requests from Ray.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        with tempfile.TemporaryDirectory(prefix="w3ray-tune-") as folder:
            tune.Tuner(
                # On the driver's node: tracking and a local storage are there.
                tune.with_resources(partial(run_trial, sender=sender), tune.PlacementGroupFactory([_bundle(cpus)])),
                tune_config=tune.TuneConfig(
                    search_alg=_SearcherOfBook(book, task_of),
                    scheduler=scheduler,
                    num_samples=-1,
                    max_concurrent_trials=concurrency,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="sweep",
                    storage_path=folder,
                    stop=_Ending(book),
                    failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
                    callbacks=[_TellBook(book)],
                    verbose=0,
                ),
            ).fit()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _bundle(cpus: float) -> dict[str, float]:
    """The resources of a trial's process: Ray's resource of this node, which places it here, and CPUs."""
    me = ray.get_runtime_context().get_node_id()
    node = next(one for one in ray.nodes() if one["NodeID"] == me)
    here = next(name for name in node["Resources"] if name.startswith("node:") and "internal" not in name)
    return {here: 0.001} | ({"CPU": cpus} if cpus else {})

"""What does each operation do on the MLflow store? Only the delivery thread uses this.

Every handler can be repeated without harm. An operation is delivered twice if the driver is killed between the
delivery and its line in the journal, or if an answer is lost. So runs and models carry our key as a tag and are found
again by it, and metric points at or below a run's highest step are ignored.
"""

import fcntl
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w3ray._address import sqlite_path
from w3ray.storage import remove_tree
from w3ray.tracking import _mlflow, logged_models, owner
from w3ray.tracking.journal import Facts, Operation
from w3ray.tracking.logged_models import IDENTITY_TAG
from w3ray.tracking.outbox import Refused, Unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY_TAG = "w3ray.key"
OWNER_TAG = "w3ray.owner"
SEEN_TAG = "w3ray.last_seen_unix_s"
PARENT_TAG = "mlflow.parentRunId"  # MLflow's own tag: its pages nest runs by it
CHANGED_TAG = "w3ray.changed_params"

MAX_POINTS = 1000
MAX_PARAMS = 100
UNFINISHED = ("KILLED", "FAILED", "RUNNING")


@dataclass(slots=True)
class RunState:
    """What is known about one run of this driver.

    Args:
        run_id: the server's id.
        highest_step: highest step per metric; a metric that this driver has not logged yet is absent.
        may_hold_points: the run existed before, so the highest step of an absent metric is read from the server.
        finished: no more operations are expected.
    """

    run_id: str
    highest_step: dict[str, int] = field(default_factory=dict)
    may_hold_points: bool = False
    finished: bool = False


class MlflowStore:
    """An MLflow tracking store behind the outbox's `Store` protocol.

    Args:
        uri: any URI that MLflow accepts: `sqlite:///...`, `http://...`, `postgresql://...`.
        experiment: name of the experiment; made if it is absent.
        artifact_root: URI below which a new experiment keeps its files; None: the server decides.
        facts: run and model ids that an earlier driver received.
    """

    def __init__(self, uri: str, experiment: str, *, artifact_root: str | None, facts: Facts) -> None:
        self.uri, self.experiment, self.artifact_root = uri, experiment, artifact_root
        self._runs = {key: RunState(run_id, may_hold_points=True) for key, run_id in facts.run_ids.items()}
        self._models = dict(facts.model_ids)
        self._news: dict[str, dict[str, str]] = {}
        self._experiment_ids: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self._handlers: dict[str, Callable[[Operation], Any]] = {
            "reap": self._reap,
            "start": self._start,
            "params": self._params,
            "tags": self._tags,
            "artifact": self._artifact,
            "inputs": self._inputs,
            "model": self._model,
            "register": self._register,
            "finish": self._finish,
        }

    @property
    def client(self) -> "MlflowClient":
        if self._client is None:
            raise Unreachable("the store is not open yet")
        return self._client

    def open(self) -> None:
        """Import MLflow, open the store (for SQLite: make or migrate the tables), find or make the experiment."""
        _mlflow.prepare()
        from mlflow import MlflowClient

        with _mlflow.sorted_errors(), _alone(self.uri):
            client = MlflowClient(tracking_uri=self.uri)
            client.search_experiments(max_results=1)
            self._client = client
            self._experiment_id(self.experiment)

    def healthy(self) -> bool:
        try:
            with _mlflow.sorted_errors(), _alone(self.uri):
                self.client.search_experiments(max_results=1)
        except (Unreachable, Refused):
            return False
        return True

    def take_facts(self) -> dict[str, dict[str, str]]:
        news, self._news = self._news, {}
        return news

    def heartbeat(self) -> None:
        now = str(int(time.time()))
        with _mlflow.sorted_errors(), _alone(self.uri):
            for run in self._runs.values():
                if not run.finished:
                    self.client.set_tag(run.run_id, SEEN_TAG, now)

    def batch_size(self, operations: "deque[Operation]") -> int:
        first = operations[0]
        if first.kind != "metrics":
            return 1
        size = points = 0
        for operation in operations:
            points += len(operation.data["points"]) if operation.kind == "metrics" else 0
            if operation.kind != "metrics" or operation.run != first.run or points > MAX_POINTS:
                break
            size += 1
        return max(size, 1)

    def deliver(self, operations: list[Operation]) -> Any:
        with _mlflow.sorted_errors(), _alone(self.uri):
            if operations[0].kind == "metrics":
                return self._metrics(operations)
            handler = self._handlers.get(operations[0].kind)
            if handler is None:
                raise Refused(f"unknown operation {operations[0].kind!r}: written by another version of w3ray?")
            return handler(operations[0])

    def _run(self, key: str) -> RunState:
        try:
            return self._runs[key]
        except KeyError:
            raise Refused("its run could not be started") from None

    def _experiment_id(self, name: str) -> str:
        if name not in self._experiment_ids:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                location = None if self.artifact_root is None else f"{self.artifact_root}/{_file_name(name)}"
                self._experiment_ids[name] = self.client.create_experiment(name, artifact_location=location)
            elif found.lifecycle_stage != "active":
                raise Refused(
                    f"experiment {name!r} was deleted; restore it (`mlflow experiments restore -x "
                    f"{found.experiment_id}`) or set another tracking.experiment"
                )
            else:
                self._experiment_ids[name] = found.experiment_id
        return self._experiment_ids[name]

    def _search(self, experiment: str, condition: str) -> "Iterator[Run]":
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self._experiment_id(experiment)],
                filter_string=condition,
                order_by=["attributes.start_time DESC"],
                max_results=200,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _reap(self, operation: Operation) -> list[str]:
        """Set runs that a dead driver left RUNNING to KILLED. Returns the run ids."""
        reaped = []
        for run in list(self._search(operation.data["experiment"], "attributes.status = 'RUNNING'")):
            who = owner.Owner.from_tag(run.data.tags.get(OWNER_TAG, ""))
            seen = run.data.tags.get(SEEN_TAG)
            if who is None or owner.state(who, float(seen) if seen else None) != "dead":
                continue
            end_ms = int(seen) * 1000 if seen else int(time.time() * 1000)
            self.client.set_terminated(run.info.run_id, "KILLED", max(end_ms, run.info.start_time))
            reaped.append(run.info.run_id)
        return reaped

    def _start(self, operation: Operation) -> str:
        data = operation.data
        found = self._find(operation)
        tags = {**data["tags"], KEY_TAG: operation.run, OWNER_TAG: data["owner"], SEEN_TAG: str(int(time.time()))}
        parent = data["parent"]
        if parent is not None:
            # A parent run of this driver is named by its key, one of another driver (a sweep) by its run id.
            tags[PARENT_TAG] = self._run(parent).run_id if parent in self._runs else parent
        if found is None:
            run = self.client.create_run(
                self._experiment_id(data["experiment"]), data["started_ms"], tags, run_name=data["name"]
            )
            state = RunState(run.info.run_id)
        else:
            state = RunState(found.info.run_id, may_hold_points=True)
            self.client.update_run(state.run_id, status="RUNNING")
            for name, value in tags.items():
                self.client.set_tag(state.run_id, name, value)
        self._runs[operation.run] = state
        self._news.setdefault("run_ids", {})[operation.run] = state.run_id
        return state.run_id

    def _find(self, operation: Operation) -> "Run | None":
        """The run that this start made before, or the unfinished run that it resumes."""
        data = operation.data
        for run in self._search(data["experiment"], f"tags.`{KEY_TAG}` = '{operation.run}'"):
            return run
        if data["resume_run_id"] is not None:
            return self.client.get_run(data["resume_run_id"])
        if data["identity"] is None:
            return None
        for run in self._search(data["experiment"], f"tags.`{IDENTITY_TAG}` = '{data['identity']}'"):
            if run.info.status not in UNFINISHED and not data.get("also_ended"):
                continue
            who = owner.Owner.from_tag(run.data.tags.get(OWNER_TAG, ""))
            if run.info.status == "RUNNING" and who is not None and owner.state(who, None) == "alive":
                continue  # another process writes to it now; two writers in one run would overwrite each other
            return run
        return None

    def _metrics(self, operations: list[Operation]) -> None:
        from mlflow.entities import Metric

        run = self._run(operations[0].run)
        fresh: list[Metric] = []
        highest = dict(run.highest_step)
        for operation in operations:
            for name, value, step, unix_ms in operation.data["points"]:
                if name not in highest:
                    highest[name] = self._highest_step(run, name)
                if step > highest[name]:
                    highest[name] = step
                    fresh.append(Metric(name, float(value), unix_ms, step))
        try:
            for start in range(0, len(fresh), MAX_POINTS):
                self.client.log_batch(run.run_id, metrics=fresh[start : start + MAX_POINTS], synchronous=True)
        except Exception:
            # Some or all points may have arrived: ask the server again which steps it holds.
            run.highest_step.clear()
            run.may_hold_points = True
            raise
        run.highest_step = highest

    def _highest_step(self, run: RunState, name: str) -> int:
        before_all = -1
        if not run.may_hold_points:
            return before_all
        return max((point.step for point in self.client.get_metric_history(run.run_id, name)), default=before_all)

    def _params(self, operation: Operation) -> None:
        """Log new parameters. MLflow forbids changes: a resumed run keeps its first values, a tag holds the changes."""
        from mlflow.entities import Param

        run = self._run(operation.run)
        params: dict[str, str] = operation.data["params"]
        known = self.client.get_run(run.run_id).data.params if run.may_hold_points else {}
        new = [Param(name, value) for name, value in params.items() if name not in known]
        for start in range(0, len(new), MAX_PARAMS):
            self.client.log_batch(run.run_id, params=new[start : start + MAX_PARAMS], synchronous=True)
        changed = {name: value for name, value in params.items() if known.get(name, value) != value}
        if changed:
            self.client.set_tag(run.run_id, CHANGED_TAG, json.dumps(changed, sort_keys=True)[:5000])

    def _tags(self, operation: Operation) -> None:
        run = self._run(operation.run)
        for name, value in operation.data["tags"].items():
            self.client.set_tag(run.run_id, name, value)

    def _artifact(self, operation: Operation) -> None:
        path = Path(operation.data["path"])
        if not path.exists():
            return  # a copy is removed only after its delivery: the driver ended before it could write that down
        self.client.log_artifact(self._run(operation.run).run_id, str(path), operation.data["folder"] or None)
        remove_tree(path.parent)  # each copy has a folder of its own

    def _inputs(self, operation: Operation) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = operation.data
        dataset = Dataset(data["name"], data["digest"], "local", json.dumps({"uri": data["source"]}))
        tags = [InputTag("mlflow.data.context", data["context"])]
        self.client.log_inputs(self._run(operation.run).run_id, datasets=[DatasetInput(dataset, tags)])

    def _model(self, operation: Operation) -> str:
        data = operation.data
        if data["key"] not in self._models:
            teacher = self._models.get(data["teacher_key"], data["teacher_model_id"])
            run = self._run(operation.run)
            model_id = logged_models.upload(
                self.client, run.run_id, self._experiment_id(data["experiment"]), data, teacher_model_id=teacher
            )
            self._models[data["key"]] = model_id
            self._news.setdefault("model_ids", {})[data["key"]] = model_id
        if data.get("is_copy"):
            remove_tree(Path(data["folder"]).parent)  # each copy has a folder of its own
        return self._models[data["key"]]

    def _register(self, operation: Operation) -> str:
        data = operation.data
        model_id = self._models.get(data["key"], data["model_id"])
        if model_id is None:
            raise Refused("its model could not be logged")
        return logged_models.register(self.client, model_id, data)

    def _finish(self, operation: Operation) -> None:
        run = self._run(operation.run)
        self.client.set_terminated(run.run_id, operation.data["status"], operation.data["ended_ms"])
        run.finished = True


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Let only one driver at a time use a SQLite file.

    Two drivers that make its tables at the same time would both fail. Also, SQLite serves waiting writers in no order
    and gives up after seconds: with 32 trials at once, some could not write for minutes.
    """
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _file_name(name: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return plain if plain.strip(".") else f"_{plain}"  # `..` is another folder

"""How does the driver tell MLflow about a run without ever waiting for it?

    with Tracker.open("sqlite:///runs/mlflow.db", "quickstart", buffer_dir=Path("runs/tracking")) as tracker:
        tracker.start_run(recipe_params, identity=recipe_fingerprint)
        stage = tracker.stage_run("teacher", identity=stage_identity, params=stage_params)
        stage.log_metrics({"train/loss": 0.7}, step=10)   # microseconds: journal and queue
        stage.finish()

All calls return at once except `wait_until_open`, `StageRun.wait_run_id`, `log_model`, `register`, `flush` and `close`,
which have a time limit. Only the driver process may use a tracker.
"""

import atexit
import contextlib
import getpass
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from w3ray._address import file_address, sqlite_path
from w3ray._redact import redact
from w3ray.errors import InputError
from w3ray.tracking import owner
from w3ray.tracking._values import model_name
from w3ray.tracking.journal import Facts, Journal
from w3ray.tracking.logged_models import IDENTITY_TAG, STAGE_TAG, LoggedModel
from w3ray.tracking.operations import OperationQueue
from w3ray.tracking.outbox import Delivery, Notify, Outbox
from w3ray.tracking.stage_run import StageRun, Status, now_ms
from w3ray.tracking.store import MlflowStore
from w3ray.tracking.uri import check_artifacts, check_uri


class Tracker:
    """The MLflow side of one driver. Make it with `open`.

    Args:
        uri: tracking URI; None: nothing is tracked, and every method does nothing.
        experiment: name of the experiment.
        buffer_dir: folder of the journal and of files that wait for delivery; shared by the drivers of one storage.
        run_name: name of the parent run.
        tags: tags of the parent run.
        artifacts: URI below which a new experiment of a local database keeps its files; None: next to the database.
        notify: called with one line when the server goes away, comes back or refuses something; default: a warning.
        setting: the setting that changes the URI, for error messages.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        *,
        buffer_dir: Path,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        artifacts: str | None = None,
        notify: Notify | None = None,
        setting: str = "tracking.uri",
    ) -> None:
        self.uri, self._setting = uri, setting
        self.experiment = experiment
        self.run_name = run_name
        self.tags = dict(tags or {})
        self.buffer_dir = buffer_dir.absolute()
        self.parent: StageRun | None = None
        self._runs: list[StageRun] = []
        self._delivery: Delivery | None = None
        self._queue = OperationQueue(None, experiment, self.buffer_dir)
        if uri is None:
            return
        journal = Journal(self.buffer_dir, uri)
        adopted, facts = journal.adopt(uri)
        database = sqlite_path(uri)
        beside = None if database is None else file_address(database.absolute().parent / "mlartifacts")
        artifact_root = None if database is None else artifacts or beside
        store = MlflowStore(uri, experiment, artifact_root=artifact_root, facts=facts or Facts())
        tell = notify or logging.getLogger("w3ray.tracking").warning
        outbox = Outbox(store, journal, lambda message: tell(redact(message)))
        outbox.start(adopted)
        self._queue = OperationQueue(outbox, experiment, self.buffer_dir)
        self.reap()
        atexit.register(self._at_exit)

    @classmethod
    def open(
        cls,
        uri: str | None,
        experiment: str,
        *,
        buffer_dir: Path,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        artifacts: str | None = None,
        notify: Notify | None = None,
        setting: str = "tracking.uri",
        must_answer: bool = True,
    ) -> "Tracker":
        """Check the URI (seconds at most). `begin` or the first wait opens the store, in the background.

        Operations that a dead driver could not deliver to this store are delivered first, and its runs that are still
        marked RUNNING end as KILLED.

        Args:
            must_answer: a server must answer now; False: it answered before, so wait for it if it is down.

        Raises:
            InputError: the server does not answer, or the database or `buffer_dir` cannot be written.
        """
        if uri is not None:
            if must_answer:
                check_uri(uri, setting)
            if artifacts is not None and sqlite_path(uri) is not None:
                check_artifacts(artifacts)
        try:
            return cls(
                uri,
                experiment,
                buffer_dir=buffer_dir,
                run_name=run_name,
                tags=tags,
                artifacts=artifacts,
                notify=notify,
                setting=setting,
            )
        except OSError as error:
            raise InputError(f"{buffer_dir}: cannot keep tracking data here ({error}); set another storage") from error

    @property
    def enabled(self) -> bool:
        return self._queue.enabled

    @property
    def _outbox(self) -> Outbox | None:
        return self._queue.outbox

    @property
    def ui_command(self) -> str | None:
        """The command that shows the runs; None for a server: its page is at `uri`."""
        if self.uri is None or self.uri.startswith(("http://", "https://")):
            return None
        return f"mlflow ui --backend-store-uri {shlex.quote(redact(self.uri))}"

    def begin(self) -> None:
        """Open the store now, in the background: importing MLflow and making the tables takes seconds of CPU time."""
        if self._outbox is not None:
            self._outbox.open()

    def reap(self) -> None:
        """Set runs of this experiment to KILLED if they are marked RUNNING but their driver is dead."""
        self._queue.put("reap", "", {"experiment": self.experiment})

    def check(self) -> None:
        """Raise the error that prevented opening the store, if it is known already; never waits.

        Raises:
            InputError: as `wait_until_open`.
        """
        if self._outbox is not None and self._outbox.opened.error is not None:
            self.wait_until_open()

    def wait_until_open(self, timeout_s: float = 60.0) -> None:
        """Wait until the store is open.

        Raises:
            InputError: the store cannot be used (no database, wrong password, deleted experiment ...).
        """
        if self._outbox is None:
            return
        opened = self._outbox.wait(self._outbox.opened, timeout_s)
        error = self._outbox.opened.error
        if not opened or error is not None:
            reason = self._outbox.last_failure or f"no answer within {timeout_s:.0f} s"
            raise InputError(f"{self._setting} {self.uri}: {reason}; start the server or set another {self._setting}")

    def start_run(
        self,
        params: Mapping[str, Any],
        *,
        identity: str | None = None,
        parent_run_id: str | None = None,
        also_ended: bool = False,
    ) -> StageRun:
        """Begin the parent run.

        Args:
            params: nested; logged with dotted names.
            identity: an unfinished parent run with this identity is resumed.
            parent_run_id: the run above this one (for a trial: the sweep's run).
            also_ended: a finished run with this identity is resumed, too.
        """
        tags = {**_standard_tags(), **self.tags}
        self.parent = self._begin(self.run_name or self.experiment, identity, parent_run_id, tags, None, also_ended)
        self.parent.log_params(params)
        return self.parent

    def stage_run(
        self,
        stage_name: str,
        identity: str | None,
        params: Mapping[str, Any],
        *,
        resume_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> StageRun:
        """Begin or resume the child run of one stage.

        Args:
            stage_name: name of the run and of its tag `w3ray.stage`.
            identity: an unfinished run with this identity is resumed, unless its driver is alive.
            params: nested; logged with dotted names.
            resume_run_id: resume this run, whatever its state.
            tags: more tags.
        """
        parent = None if self.parent is None else self.parent.key
        all_tags = {**_standard_tags(), **(tags or {}), STAGE_TAG: stage_name}
        run = self._begin(stage_name, identity, parent, all_tags, resume_run_id)
        run.log_params(params)
        return run

    def _begin(
        self,
        name: str,
        identity: str | None,
        parent: str | None,
        tags: dict[str, str],
        resume_run_id: str | None,
        also_ended: bool = False,
    ) -> StageRun:
        run = StageRun(self._queue, name, identity)
        if identity is not None:
            tags[IDENTITY_TAG] = identity
        run.started = self._queue.put(
            "start",
            run.key,
            {
                "name": name,
                "experiment": self.experiment,
                "identity": identity,
                "parent": parent,
                "tags": tags,
                "owner": owner.this_process().to_tag(),
                "resume_run_id": resume_run_id,
                "also_ended": also_ended,
                "started_ms": now_ms(),
            },
        )
        self._runs.append(run)
        return run

    def register(
        self,
        model: LoggedModel | str,
        name: str,
        *,
        alias: str | None = None,
        tags: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> str | None:
        """Make a logged model the newest version of a registered model (if it is a version already, keep that one).

        Args:
            model: the result of `log_model`, the model's id, or `models:/<id>`.
            name: name of the registered model; made if it is absent.
            alias: points to this version from now on.
            tags: tags of the version.
            timeout_s: longest wait.

        Returns:
            The version; None while the server is down (the model is registered when the server is back).
        """
        key = model.key if isinstance(model, LoggedModel) else None
        model_id = None if isinstance(model, LoggedModel) else model.removeprefix("models:/")
        data = {"key": key, "model_id": model_id, "name": model_name(name), "alias": alias, "tags": dict(tags or {})}
        ticket = self._queue.put("register", "", data)
        self._queue.wait(ticket, timeout_s)
        return None if ticket.result is None else str(ticket.result)

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until all operations so far are delivered or refused; False: not in time, or the server is down."""
        return self._outbox is None or self._outbox.flush(timeout_s)

    def close(self, status: Status = "FINISHED", *, timeout_s: float = 30.0) -> Delivery:
        """End all open runs with `status`, deliver what can be delivered, and stop.

        Other operations stay in `Delivery.journal`; the next tracker with the same `uri` and `buffer_dir` delivers
        them.
        """
        if self._delivery is not None:
            return self._delivery
        for run in reversed(self._runs):
            run.finish(status)
        if self._outbox is None:
            self._delivery = Delivery(0, 0, 0, None, None)
        else:
            self._delivery = self._outbox.close(timeout_s)
            atexit.unregister(self._at_exit)
            if self._delivery.waiting:
                self._outbox.notify(
                    f"{self._delivery.waiting} tracking operations could not be delivered to {self.uri}; they are kept "
                    f"in {self._delivery.journal} and delivered by the next run"
                )
        return self._delivery

    def _at_exit(self) -> None:
        # The process exits without `close`: the run did not reach its end.
        self.close("FAILED", timeout_s=5.0)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close("FINISHED")
        elif issubclass(kind, Exception):
            self.close("FAILED")
        else:
            self.close("KILLED")  # KeyboardInterrupt, SystemExit


def _standard_tags() -> dict[str, str]:
    tags = {"mlflow.source.name": "w3ray", "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags

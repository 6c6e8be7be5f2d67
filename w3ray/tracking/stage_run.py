"""One run in MLflow: log its metrics, parameters, files and models, and end it. Calls return at once."""

import json
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from w3ray.tracking._values import flatten, metric_name, model_name
from w3ray.tracking.logged_models import IDENTITY_TAG, STAGE_TAG, LoggedModel
from w3ray.tracking.operations import OperationQueue
from w3ray.tracking.outbox import Ticket

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Status = Literal["FINISHED", "FAILED", "KILLED"]


class StageRun:
    """One MLflow run: a stage, or the parent of the stages. Made by `Tracker.start_run` and `Tracker.stage_run`."""

    def __init__(self, queue: OperationQueue, name: str, identity: str | None) -> None:
        self._queue, self.name, self.identity = queue, name, identity
        self.key = uuid.uuid4().hex
        self.status: Status | None = None
        self.started = Ticket()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the store has made it, and always None without tracking."""
        result = self.started.result
        return None if result is None else str(result)

    def wait_run_id(self, timeout_s: float = 30.0) -> str | None:
        """The run id, or None if the store did not make the run within `timeout_s`."""
        self._queue.wait(self.started, timeout_s)
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log one point per metric at a global step. A step at or below the metric's highest step is ignored."""
        at_ms = now_ms()
        points = [[metric_name(name), float(value), int(step), at_ms] for name, value in metrics.items()]
        if points:
            self._queue.put("metrics", self.key, {"points": points})

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested parameters with dotted names; parameters that the run already has keep their values."""
        if params:
            self._queue.put("params", self.key, {"params": flatten(params)})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        if tags:
            self._queue.put("tags", self.key, {"tags": {name: str(value) for name, value in tags.items()}})

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record the data set that the run read.

        Args:
            name: such as the manifest's file name.
            digest: fingerprint of the content (MLflow keeps the first 36 characters).
            source: path or URI of the manifest.
            context: what the data set was used for: `training`, `validation`, `test`.
        """
        data = {"name": name, "digest": digest[:36], "source": source, "context": context}
        self._queue.put("inputs", self.key, data)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Attach a copy of a file under `folder`; the original may be removed afterwards.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        if self._queue.enabled:
            self._put_staged(Path(shutil.copy2(path, self._queue.new_file(path.name))), folder)

    def log_text(self, text: str, name: str, folder: str = "") -> None:
        """Attach `text` as the file `name`."""
        self.log_bytes(text.encode(), name, folder)

    def log_bytes(self, content: bytes, name: str, folder: str = "") -> None:
        """Attach `content` as the file `name`."""
        if self._queue.enabled:
            path = self._queue.new_file(name)
            path.write_bytes(content)
            self._put_staged(path, folder)

    def log_dict(self, document: Any, name: str, folder: str = "") -> None:
        """Attach a JSON document as the file `name`."""
        self.log_text(json.dumps(document, indent=2) + "\n", name, folder)

    def log_figure(self, figure: "Figure", name: str, folder: str = "") -> None:
        """Attach a matplotlib figure as the file `name` (the suffix sets the format)."""
        if self._queue.enabled:
            path = self._queue.new_file(name)
            figure.savefig(path)
            self._put_staged(path, folder)

    def _put_staged(self, path: Path, folder: str) -> None:
        self._queue.put("artifact", self.key, {"path": str(path), "folder": folder})

    def log_model(
        self,
        folder: Path,
        *,
        metrics: Mapping[str, float],
        step: int,
        dataset: tuple[str, str, str] | None = None,
        teacher: LoggedModel | str | None = None,
        teacher_identity: str | None = None,
        example_video: str = "clip.mp4",
        tags: Mapping[str, str] | None = None,
        keep_copy: bool = False,
        timeout_s: float = 120.0,
    ) -> LoggedModel:
        """Log the model in a folder that `w3ray.models.bundle.write_model` wrote, so that `mlflow.pyfunc` can load it.

        Waits until the model is delivered, but not for a server that is down: then the model has no `model_id` yet and
        is delivered when the server is back. Until then the folder must stay in place.

        Args:
            folder: holds `model.safetensors` and `model.json`.
            metrics: of this model; also logged to the run at `step`, so use names that the run does not use.
            step: global step of the weights.
            dataset: name, digest (the manifest's fingerprint) and source of the data that the metrics describe.
            teacher: the model it was distilled from: the result of `log_model`, or the model's id.
            teacher_identity: stage identity of the teacher, if another driver logged it and its id is unknown; the
                newest model of that stage is looked up.
            example_video: path for the input example.
            tags: more tags of the model.
            keep_copy: keep a copy until the model is delivered, so that the folder may be removed at once.
            timeout_s: longest wait.
        """
        if keep_copy and self._queue.enabled:
            folder = Path(shutil.copytree(folder, self._queue.new_file(folder.name)))
        model = LoggedModel(uuid.uuid4().hex, Ticket())
        data = self._described(folder) | {
            "key": model.key,
            "is_copy": keep_copy,
            "metrics": {metric_name(name): float(value) for name, value in metrics.items()},
            "step": step,
            "dataset": None if dataset is None else _dataset(*dataset),
            "teacher_key": teacher.key if isinstance(teacher, LoggedModel) else None,
            "teacher_model_id": teacher if isinstance(teacher, str) else None,
            "teacher_identity": teacher_identity,
            "example": example_video,
        }
        data["tags"] |= tags or {}
        model.ticket = self._queue.put("model", self.key, data)
        self._queue.wait(model.ticket, timeout_s)
        return model

    def _described(self, folder: Path) -> dict[str, Any]:
        """The facts about a model, from this run and from the model's own description."""
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        return {
            "experiment": self._queue.experiment,
            "name": model_name(self.name),
            "folder": str(folder.absolute()),
            "classes": list(description["classes"]),
            "params": flatten({"model": description["model"], "clip": description["clip"]}),
            "tags": {STAGE_TAG: self.name} | ({} if self.identity is None else {IDENTITY_TAG: self.identity}),
        }

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run; a second call changes nothing."""
        if self.status is None:
            self.status = status
            self._queue.put("finish", self.key, {"status": status, "ended_ms": now_ms()})


def now_ms() -> int:
    """Unix time, milliseconds."""
    return int(time.time() * 1000)


def _dataset(name: str, digest: str, source: str) -> dict[str, str]:
    """MLflow keeps the first 36 characters of a digest."""
    return {"name": name, "digest": digest[:36], "source": json.dumps({"uri": source})}

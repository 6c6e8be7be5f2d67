"""Causes a fault in a run at a given moment, and measures its cost."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from w3ray.data.sample_log import Draw, read_lines, read_samples, steps_done_again
from w3ray.data.schedule import PADDING
from w3ray.events import Warned
from w3ray.pipeline import run
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.recipe import Recipe
from w3ray.storage import StoragePath

# Ray's names for the processes of its actors.
WORKER = "ray::RayTrainWorker"
DECODER = "ray::MapWorker(MapBatches(MicrobatchDecoder))"
COORDINATOR = "ray::SplitCoordinator"
CONTROLLER = "ray::TrainController"


def faulty_recipe(manifest: Path, storage: Path, **changes: Any) -> Recipe:
    """A teacher, with a checkpoint every second step.

    It is so long that its decoders, who work ahead, are still there for a fault in the first third.
    """
    values: dict[str, Any] = {
        "name": "struck",
        "storage": str(storage),
        "data": {"manifest": str(manifest), "num_frames": 4, "size": 32, "test_split": "test"},
        "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
        "train": {
            "epochs": 24, "batch_size": 8, "microbatch_size": 3, "lr": 0.05, "log_samples": True, "log_every_steps": 1,
            "checkpoint_every_steps": 2, "validate_every_epochs": 4,
        },
        "stages": [{"name": "teacher"}],
        "evaluation": {"split": "test"},
        "tracking": {"enabled": False},
    }  # fmt: skip
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(values.get(name), dict) else value
    return Recipe.model_validate(values)


WITH_STUDENT = [{"name": "teacher"}, {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.5}}]
"""`stages` of a recipe whose first stage is that of `faulty_recipe`."""


def stages_to(stage: str) -> list[dict[str, Any]]:
    """`stages` of a recipe that ends with this stage."""
    return WITH_STUDENT if stage == "student" else WITH_STUDENT[:1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a fault: a row of benchmarks/results/faults.json.

    `steps_again`: optimiser steps that were done more than once. `lost`, `doubled`: samples that are missing, or occur
    twice, in the history that counts. `recovery_s`: from the fault to the end of the longest pause after it.
    `identical`: the final weights of all stages are the same bits. None if the number of workers changed: sums then
    differ in their last bits.
    """

    fault: str
    ended: bool
    steps_again: int
    lost: int
    doubled: int
    recovery_s: float | None
    identical: bool | None


class Outcome:
    """The result of a finished run: final weights and histories of its stages, by stage name."""

    def __init__(self, storage: StoragePath) -> None:
        folders = {path.name.rsplit("-", 1)[0]: path for path in (storage / "stages").iterdir()}
        self.folders: dict[str, Any] = dict(sorted(folders.items()))
        self.weights = {
            name: hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
            for name, folder in self.folders.items()
        }
        self.samples = {name: read_samples(folder) for name, folder in self.folders.items()}
        self.steps_again = sum(steps_done_again(folder) for folder in self.folders.values())

    def cost(self, fault: str, undisturbed: "Outcome", recovery_s: float | None) -> Cost:
        mine, theirs = (
            [(stage, row) for stage, rows in one.samples.items() if stage in self.samples for row in rows]
            for one in (self, undisturbed)
        )
        return Cost(
            fault=fault,
            ended=True,
            steps_again=self.steps_again,
            lost=len(set(theirs) - set(mine)),
            doubled=len(mine) - len(set(mine)) + len(set(mine) - set(theirs)),
            recovery_s=recovery_s,
            identical=all(undisturbed.weights[stage] == weights for stage, weights in self.weights.items()),
        )


def expected_history(recipe: Recipe, stage: str) -> list[Draw]:
    """The expected result of `read_samples` for a whole stage, computed only from the schedule."""
    data = prepare_data(recipe)
    planned = next(item for item in plan_stages(recipe, data) if item.stage.name == stage)
    clips = {kind: table["clip_id"].to_pylist() for kind, table in data.splits.items()}
    history = []
    for number in range(planned.schedule.total_items):
        item = planned.schedule.item(number)
        for position, sample in zip(item.positions.tolist(), item.samples.tolist(), strict=True):
            if sample != PADDING:
                draw = planned.schedule.augmentation_key(item.epoch, position) if item.kind == "train" else 0
                history.append(Draw(item.kind, item.epoch, position, clips[item.kind][sample], draw, item.step, True))
    return sorted(history)


def note(cost: Cost) -> None:
    """Add a row to the file that benchmarks/faults.py names."""
    if path := os.environ.get("W3RAY_FAULT_ROWS"):
        with open(path, "a") as file:
            file.write(json.dumps(asdict(cost)) + "\n")


def processes(title: str, root: psutil.Process | None = None) -> list[psutil.Process]:
    """The living descendants of `root` (default: this process) whose title begins with `title`."""
    found = []
    for process in (root or psutil.Process()).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


class Victim:
    """The process to kill. It is searched early, because the search takes longer than writing a checkpoint."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._process: psutil.Process | None = None

    def found(self) -> bool:
        """Whether the process is known and alive. If not, search it."""
        if self._process is None or not self._process.is_running():
            self._process = next(iter(processes(self._title)), None)
        return self._process is not None

    def kill(self) -> bool:
        """kill -9. Returns whether there was a process."""
        assert self._process is not None
        try:
            os.kill(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


class Strike(threading.Thread):
    """Waits for `when`, then does `what` until it succeeds. `at_s` is the time of success, by the system clock."""

    def __init__(self, when: Callable[[], bool], what: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._when, self._what, self._left = when, what, threading.Event()
        self.at_s: float | None = None

    def run(self) -> None:
        while not self._left.is_set():
            if self._when() and self._what() is not False:
                self.at_s = time.time()
                return
            time.sleep(0.003)

    def leave(self) -> None:
        self._left.set()
        self.join()


def struck_run(recipe: Recipe, strike: Strike, address: str | None = None) -> tuple[Outcome, list[str]]:
    """Run the recipe in this process with the strike active. Returns the outcome and the messages to the user."""
    told: list[str] = []

    def on_event(event: Any) -> None:
        if isinstance(event, Warned):
            told.append(event.message)

    strike.start()
    try:
        run(recipe, address=address, on_event=on_event)
    finally:
        strike.leave()
    assert strike.at_s is not None, "the run ended before the fault"
    return Outcome(Path(recipe.storage)), told


def lines(storage: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of the stage's sample logs that are written so far."""
    return [line for folder in storage.glob(f"stages/{stage}-*") for line in read_lines(folder)]


def once(condition: Callable[[], bool]) -> Callable[[], bool]:
    """Whether the condition was ever true. Then it is not checked again: reading the logs takes too long."""
    been: list[bool] = []

    def when() -> bool:
        if not been and condition():
            been.append(True)
        return bool(been)

    return when


def at_step(storage: Path, stage: str, step: int) -> Callable[[], bool]:
    """Whether the stage has read up to this training step."""
    return lambda: any(line["kind"] == "train" and line["step"] >= step for line in lines(storage, stage))


def validating(storage: Path, stage: str, epoch: int) -> Callable[[], bool]:
    """Whether the stage is in the validation after this epoch."""
    return lambda: any(line["kind"] == "val" and line["epoch"] >= epoch for line in lines(storage, stage))


def writing_checkpoint(storage: Path, stage: str, step: int) -> Callable[[], bool]:
    """Whether a checkpoint of at least this step is being copied to the storage now."""

    def when() -> bool:
        for folder in storage.glob(f"stages/{stage}-*/checkpoints/step_*"):
            if int(folder.name.removeprefix("step_")) >= step and not (folder / "checkpoint.json").exists():
                return True
        return False

    return when


MOMENTS: dict[str, tuple[str, Callable[[Path], Callable[[], bool]]]] = {
    "in the teacher": ("teacher", lambda storage: at_step(storage, "teacher", 9)),
    "in the student": ("student", lambda storage: at_step(storage, "student", 9)),
    "during validation": ("teacher", lambda storage: validating(storage, "teacher", 3)),
    "during a checkpoint write": ("teacher", lambda storage: writing_checkpoint(storage, "teacher", 8)),
}
"""The moment of a fault: the stage, and a function that checks the run's storage for this moment."""


def recovery_s(folder: Path, struck_at_s: float) -> float:
    """From a fault (seconds of the system clock) to the end of the longest pause after it, by the sample log."""
    times = [struck_at_s, *sorted(line["time_s"] for line in read_lines(folder) if line["time_s"] > struck_at_s)]
    pauses = [(later - earlier, later) for earlier, later in pairwise(times)]
    return max(pauses)[1] - struck_at_s

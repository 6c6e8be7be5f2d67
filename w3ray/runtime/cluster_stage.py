"""How does one stage run on a Ray cluster: who starts the workers, and what comes back?"""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ActorDiedError, RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util import remove_placement_group

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.microbatch import ClipTables, Microbatch
from w3ray.data.stream import STREAM_NAME, DecoderPool, StreamConfig, read_microbatches
from w3ray.errors import InputError, RunError
from w3ray.events import Warned, WorkerAlive
from w3ray.ray_internals import (
    CHECKPOINT_MANAGER_SNAPSHOT_FILENAME,
    DEFAULT_WORKER_GROUP_START_TIMEOUT_S,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
    WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR,
    without_cleaner,
)
from w3ray.runtime.actor_handles import ControllerStarted, ReportHandles, WorkersPlaced
from w3ray.runtime.driver_watch import EndWithoutDriver
from w3ray.runtime.event_channel import EventChannel
from w3ray.runtime.faults import RestartPolicy, StageLost, TeacherMissing, last_line
from w3ray.runtime.rendezvous import MeetingConfig
from w3ray.runtime.stage_spec import CHECKPOINTS_FOLDER, StageSpec
from w3ray.runtime.watchdog import Watchdog
from w3ray.storage import RemotePath, StoragePath
from w3ray.training.checkpoint_files import is_checkpoint_folder, steps_done

_POLL_S = 0.5
_DRAIN_S = 0.2  # not 0: an asyncio queue gives nothing to who does not wait at all
_KILL_TIMEOUT_S = 10.0
# Ray Train takes an elastic stage's size from what was free up to 20 s ago, on a node that may be gone since: what
# does not find its place soon is asked for anew, in the size of now.
_ELASTIC_START_S = 10.0
_END_TIMEOUT_S = 75.0  # longer than a controller may take to end itself: see `driver_watch`

# A CPU trainer allocates and frees the same large tensors in every step. By default glibc hands them back to the kernel
# each time, and touching them anew costs a page fault for every 4 KiB.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}

# gloo beside NCCL: counts on the CPU are added up without waiting for the GPU.
_BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}


class ClusterStage:
    """One stage on the cluster, from the moment its processes begin to start. Making it starts them.

    A stage may be made while its teacher is still being scored: its workers get everything else ready, then wait for
    the teacher's model. `outcome` stays with the stage to its end; one that is not wanted any more is ended
    with `end`.

    Args:
        spec: the stage; it goes on at its newest good checkpoint.
        splits: rows of `train`, `val` and `test`; see `ClipTables`.
        own_cluster: the cluster was started for this run and ends with it.
    """

    def __init__(self, spec: StageSpec, splits: Mapping[str, pa.Table], *, own_cluster: bool = False) -> None:
        self._spec = spec
        tables = ClipTables.of(splits)
        _forget_missing_checkpoints(spec.checkpoints)
        self._channel = EventChannel()
        self._answer: dict[str, Any] = {}
        self._controller: Any = None
        self._placement_group: Any = None
        try:
            self._stream = _stream(spec, tables)
            try:
                trainer = _trainer(spec, self._stream, self._channel, own_cluster=own_cluster)
            except BaseException:
                self._stream.release()
                raise
        except BaseException:
            self._channel.close()
            raise
        # `fit` has its own thread: the caller's hands events on and stays open to Ctrl-C.
        self._thread = threading.Thread(target=self._fit, args=(trainer,), name=f"fit-{spec.name}", daemon=True)
        self._thread.start()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            self._answer["result"] = trainer.fit()
        except Exception as error:  # whatever it is: it must reach the thread that waits
            self._answer["error"] = error

    def outcome(self, on_event: Callable[[Any], None], watch: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Wait for the stage's end.

        Args:
            on_event: called in this thread with each event of the workers, in order.
            watch: called in this thread about twice a second; what it raises ends the wait.

        Returns:
            `best_checkpoint` (folder name), and of the test split `test` (metrics), `counts` (`Counts.state`).

        Raises:
            TeacherMissing: the workers stopped because the teacher's model was not there in time.
            StageLost: the controller of the workers is gone, or nothing moves any more.
            InputError, RunError: with the cause.
        """
        watchdog = Watchdog(
            self._spec.name,
            self._spec.plan,
            timeout_s=self._spec.stall_timeout_s,
            now=time.monotonic(),
            free=free_resources,
        )
        try:
            while self._thread.is_alive():
                relay(self._channel.receive(_POLL_S), watchdog, self._sift(on_event))
                if message := watchdog.check(time.monotonic()):
                    on_event(Warned(message=message))
                watch()
            while batch := self._channel.receive(_DRAIN_S):
                relay(batch, watchdog, self._sift(on_event))
        except ActorDiedError as error:
            raise StageLost(f"stage {self._spec.name}: the queue of its events is gone ({last_line(error)})") from error
        finally:
            self.end()
        if failure := self._answer.get("error"):
            kind = StageLost if isinstance(failure, RayError) else RunError
            raise kind(f"stage {self._spec.name}: {_cause(failure, self._spec.directory)}") from failure
        return outcome_of(self._answer["result"])

    def _sift(self, on_event: Callable[[Any], None]) -> Callable[[Any], None]:
        """`on_event`, but for what only this class has to know."""

        def hear(event: Any) -> None:
            if isinstance(event, ControllerStarted):
                self._controller = event.actor
            elif isinstance(event, WorkersPlaced):
                self._placement_group = event.placement_group
            else:
                on_event(event)

        return hear

    def end(self) -> None:
        """End what still runs of the stage, and wait for it: see `EndWithoutDriver`.

        The thread must not outlive the connection to the cluster: Ray ends a process that calls it afterwards.
        """
        try:
            self._channel.close()
            self._thread.join(_END_TIMEOUT_S)
            if self._thread.is_alive() and self._controller is not None:
                ray.kill(self._controller)  # it hangs
                self._thread.join(_KILL_TIMEOUT_S)
        finally:  # also where a second Ctrl-C ends the wait
            if self._placement_group is not None:
                remove_placement_group(self._placement_group)  # a controller that ended by itself has done so
            self._stream.release()


def relay(events: Sequence[Any], watchdog: Watchdog, on_event: Callable[[Any], None]) -> None:
    """Hand events on, the workers' signs of life to the watchdog alone."""
    for event in events:
        watchdog.hear(event, time.monotonic())
        if not isinstance(event, WorkerAlive):
            on_event(event)


def outcome_of(result: Any) -> dict[str, Any]:
    """What the first worker's loop returned in Ray Train's result, or the fault that it ended with."""
    answer = result.return_value or {}
    if fault := answer.get("fault"):
        raise _FAULTS[fault["kind"]](fault["message"])
    outcome: dict[str, Any] = answer["outcome"]
    return outcome


_FAULTS: dict[str, type[Exception]] = {"input": InputError, "run": RunError, "teacher": TeacherMissing}


def free_resources() -> dict[str, float]:
    free = ray.available_resources()
    # Without Ray's marks of nodes and placement groups.
    own = (":", "memory", "_group_")
    return {name: amount for name, amount in free.items() if not any(mark in name for mark in own)}


def _worker_env_vars(plan: ResourcePlan) -> dict[str, str]:
    return {} if plan.worker_gpus else KEEP_MEMORY


def _forget_missing_checkpoints(checkpoints: StoragePath) -> None:
    """Ray Train will not start where a checkpoint it knows of was removed; ours are found by looking: let it forget.

    The same where it was made to know of anything but checkpoints: what it knows of, it removes when newer ones come.
    """
    snapshot = checkpoints / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
    if not snapshot.is_file():
        return
    try:
        known = [entry["checkpoint_dir_name"] for entry in json.loads(snapshot.read_text())["checkpoint_results"]]
        good = all(is_checkpoint_folder(checkpoints / name, name) for name in known)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        snapshot.unlink()


def _stream(spec: StageSpec, tables: ClipTables) -> StreamConfig:
    stream = StreamConfig(
        spec.stream,
        tables,
        DecoderPool(size=spec.plan.decoders, cpus=spec.plan.decoder_cpus, resources=spec.plan.decoder_resources),
        steps_done=lambda: steps_done(spec.checkpoints),
    )
    stream.prepare(spec.plan.workers)
    return stream


def _trainer(spec: StageSpec, stream: StreamConfig, channel: EventChannel, *, own_cluster: bool) -> TorchTrainer:
    plan, train = spec.plan, spec.train
    elastic = plan.least_workers < plan.workers
    # The watchdog is first: it can say which worker hangs. These end a wait where there is no driver to do it.
    late_s = 2 * spec.stall_timeout_s
    os.environ[WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR] = str(late_s)
    start_s = _ELASTIC_START_S if elastic else DEFAULT_WORKER_GROUP_START_TIMEOUT_S
    os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(start_s)
    # `ClusterStage.end` clears up after a killed controller. Ray's own process for that would take processor time at a
    # stage's start, where everything waits for it.
    return without_cleaner(TorchTrainer)(
        _work,
        train_loop_config={"stage": spec, "events": channel.sender()},
        scaling_config=ScalingConfig(
            num_workers=(plan.least_workers, plan.workers) if elastic else plan.workers,
            use_gpu=plan.worker_gpus > 0,
            resources_per_worker=plan.worker_bundle(),
            elastic_resize_monitor_interval_s=spec.resize_every_s,
        ),
        run_config=RunConfig(
            name=CHECKPOINTS_FOLDER,
            storage_path=_ray_path(spec.directory),
            storage_filesystem=spec.directory.filesystem if isinstance(spec.directory, RemotePath) else None,
            checkpoint_config=CheckpointConfig(
                num_to_keep=train.keep_checkpoints,
                checkpoint_score_attribute=None if train.best_metric == "last" else train.best_metric,
                checkpoint_score_order="max",
            ),
            failure_config=FailureConfig(max_failures=-1),  # `RestartPolicy` decides
            callbacks=[
                RestartPolicy(spec.name, lambda: steps_done(spec.checkpoints), channel.sender()),
                ReportHandles(channel.sender()),
                EndWithoutDriver(channel.sender(), own_cluster=own_cluster),
            ],
            worker_runtime_env={"env_vars": _worker_env_vars(plan)},
        ),
        datasets={STREAM_NAME: _nothing},
        dataset_config=stream,
        torch_config=MeetingConfig(backend=_BACKENDS[plan.worker_gpus > 0], timeout_s=math.ceil(late_s)),
    )


def _ray_path(directory: StoragePath) -> str:
    return directory.path if isinstance(directory, RemotePath) else str(directory)


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's loop."""
    stream = read_microbatches(ray.train.get_dataset_shard(STREAM_NAME))
    first = _ahead(stream)  # the decoders start while this process imports and builds its model
    from w3ray.runtime.worker import run_worker

    return run_worker(config["stage"], config["events"], _with_first(first, stream))


def _ahead(stream: Iterator[Microbatch]) -> "Future[Microbatch | None]":
    """The first microbatch. Its thread is never waited for: a worker that gives up must not wait for decoders."""
    first: Future[Microbatch | None] = Future()

    def read() -> None:
        try:
            first.set_result(next(stream, None))
        except BaseException as error:
            first.set_exception(error)

    threading.Thread(target=read, name="first-microbatch", daemon=True).start()
    return first


def _with_first(first: "Future[Microbatch | None]", stream: Iterator[Microbatch]) -> Iterator[Microbatch]:
    microbatch = first.result()
    if microbatch is not None:
        yield microbatch
    yield from stream


def _nothing() -> None:
    """Ray Train asks for a data set by name; ours is built by `StreamConfig`, which knows the world size."""


def _cause(error: BaseException, storage: StoragePath) -> str:
    """The first worker's own exception where there is one, in one line."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    if failures:
        rank = min(failures)
        return f"worker {rank}: {last_line(failures[rank])}"
    controller_failure = getattr(error, "controller_failure", None)
    if isinstance(controller_failure, OSError) and controller_failure.errno:  # its record of the checkpoints
        reason = os.strerror(controller_failure.errno)
        return f"{storage}: cannot be written ({reason}); make room and run again: it goes on at its newest checkpoint"
    return last_line(controller_failure if isinstance(controller_failure, BaseException) else error)

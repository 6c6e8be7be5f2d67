"""Runs a stage in processes of a Ray cluster: starts its workers, and ends everything that belongs to them."""

import json
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.microbatch import ClipTables, Microbatch
from w3ray.data.stream import DecoderPool, read_microbatches
from w3ray.errors import RunError
from w3ray.events import Moment
from w3ray.ray_internals import (
    CHECKPOINT_MANAGER_SNAPSHOT_FILENAME,
    DEFAULT_WORKER_GROUP_START_TIMEOUT_S,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
    WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR,
    without_cleaner,
)
from w3ray.runtime.actor_handles import ReportController, remove_placement_groups
from w3ray.runtime.allocator import KEEP_MEMORY
from w3ray.runtime.driver_watch import EndWithoutDriver
from w3ray.runtime.event_channel import EventChannel, EventSender
from w3ray.runtime.faults import RestartPolicy, StageLost, last_line
from w3ray.runtime.handles import ControllerStarted
from w3ray.runtime.rendezvous import MeetingConfig
from w3ray.runtime.stage import Stage
from w3ray.runtime.stage_spec import CHECKPOINTS_FOLDER, StageSpec
from w3ray.runtime.stream_config import STREAM_NAME, StreamConfig, WorkerGroups
from w3ray.storage import RemotePath, StoragePath
from w3ray.training.checkpoint_files import is_checkpoint_folder, steps_done

# Ray Train chooses an elastic stage's size from free resources that may be 20 s old, on a node that may be gone. So the
# wait is short, and the next try uses the size of that moment.
_ELASTIC_START_S = 10.0

_HANDLE_TIMEOUT_S = 10.0
"""For the answer of a controller that has just started."""

# gloo in addition to NCCL: counts on the CPU are summed without waiting for the GPU.
_BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}


class ClusterStage(Stage):
    """A stage with any number of workers, in processes of a Ray cluster.

    Args:
        spec: the stage; it resumes from its newest good checkpoint.
        splits: rows of `train`, `val` and `test`; see `ClipTables`.
        own_cluster: the cluster was started for this run and ends with it.
    """

    poll_s = 0.5
    end_timeout_s = 75.0  # longer than the limit of a controller to end itself: see `driver_watch`

    def __init__(self, spec: StageSpec, splits: Mapping[str, pa.Table], *, own_cluster: bool = False) -> None:
        tables = ClipTables.of(splits)
        _forget_missing_checkpoints(spec.checkpoints)
        self._controller: Any = None
        self._groups = f"w3ray-{spec.name}-{uuid.uuid4().hex}-"
        channel = EventChannel()
        super().__init__(spec, channel)
        self._start(lambda: self._trainer(tables, channel.sender(), own_cluster=own_cluster))

    def _trainer(self, tables: ClipTables, events: EventSender, *, own_cluster: bool) -> DataParallelTrainer:
        spec, plan = self._spec, self._spec.plan
        stream = StreamConfig(
            spec.stream,
            tables,
            DecoderPool(size=plan.decoders, cpus=plan.decoder_cpus, resources=plan.decoder_resources),
            steps_done=lambda: steps_done(spec.checkpoints),
        )
        self._owned.callback(stream.release)
        stream.prepare(plan.workers)
        # If the controller could not. A controller that ended by itself has freed its workers' resources.
        self._owned.callback(remove_placement_groups, self._groups)
        return _trainer(spec, stream, events, self._groups, own_cluster=own_cluster)

    def _keep(self, event: Any) -> bool:
        if not isinstance(event, ControllerStarted):
            return super()._keep(event)
        with suppress(RayError):  # the controller is gone, so nothing of it is left to kill
            self._controller = ray.get(event.handle, timeout=_HANDLE_TIMEOUT_S)
        return True

    def _explained(self, failure: BaseException) -> RunError:
        kind = StageLost if isinstance(failure, RayError) else RunError
        return kind(f"stage {self._spec.name}: {_cause(failure, self._spec.directory)}")

    def _kill(self) -> None:
        if self._controller is not None:
            ray.kill(self._controller)


def _worker_env_vars(plan: ResourcePlan) -> dict[str, str]:
    return {} if plan.worker_gpus else KEEP_MEMORY


def _forget_missing_checkpoints(checkpoints: StoragePath) -> None:
    """Remove Ray Train's list of checkpoints if it names a missing one, because Ray Train would then refuse to start.

    We find checkpoints by listing the folder. The list is also removed if it names anything else than checkpoints:
    Ray Train deletes what it lists when newer checkpoints come.
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


def _trainer(
    spec: StageSpec, stream: StreamConfig, events: EventSender, groups: str, *, own_cluster: bool
) -> DataParallelTrainer:
    plan, train = spec.plan, spec.train
    elastic = plan.least_workers < plan.workers
    # Twice the watchdog's limit. The watchdog comes first, because it can name the hanging worker. These limits end a
    # wait if no driver is left to end it.
    late_s = 2 * spec.stall_timeout_s
    os.environ[WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR] = str(late_s)
    start_s = _ELASTIC_START_S if elastic else DEFAULT_WORKER_GROUP_START_TIMEOUT_S
    os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(start_s)
    # Without Ray's process that cleans up after a killed controller. `Stage.end` does this, and the process would take
    # processor time at a stage's start, when everything else needs it.
    return without_cleaner(DataParallelTrainer)(
        _work,
        train_loop_config={"stage": spec, "events": events},
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
                RestartPolicy(spec.name, lambda: steps_done(spec.checkpoints), events.twin()),
                ReportController(events.twin(), spec.name, groups),
                EndWithoutDriver(events.twin(), own_cluster=own_cluster),
            ],
            worker_runtime_env={"env_vars": _worker_env_vars(plan)},
        ),
        datasets={STREAM_NAME: WorkerGroups()},  # `StreamConfig` builds our stream, because it knows the world size
        dataset_config=stream,
        backend_config=MeetingConfig(backend=_BACKENDS[plan.worker_gpus > 0], timeout_s=math.ceil(late_s)),
    )


def _ray_path(directory: StoragePath) -> str:
    return directory.path if isinstance(directory, RemotePath) else str(directory)


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """The training loop for Ray Train."""
    began_s = time.time()
    stream = read_microbatches(ray.train.get_dataset_shard(STREAM_NAME))
    first = _ahead(stream)  # the decoders start while this process imports and builds its model
    from w3ray.runtime.worker import run_worker

    stage, events = config["stage"], config["events"]
    if ray.train.get_context().get_world_rank() == 0:
        events.send(Moment(what="the first worker began", stage=stage.name, time_s=began_s))
        events.send(Moment(what="the first worker imported its modules", stage=stage.name))
        first.add_done_callback(_teller(stage.name, events.twin()))
    return run_worker(stage, events, _with_first(first, stream))


def _teller(stage: str, events: EventSender) -> "Callable[[Future[Microbatch | None]], None]":
    def tell(first: "Future[Microbatch | None]") -> None:
        if first.exception() is None:
            events.send(Moment(what="the first microbatch was there", stage=stage))
            events.flush()

    return tell


def _ahead(stream: Iterator[Microbatch]) -> "Future[Microbatch | None]":
    """The first microbatch. Nothing waits for its thread: a worker that gives up must not wait for decoders."""
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


def _cause(error: BaseException, storage: StoragePath) -> str:
    """One line: the exception of the first worker that failed, else that of the controller."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    if failures:
        rank = min(failures)
        return f"worker {rank}: {last_line(failures[rank])}"
    controller_failure = getattr(error, "controller_failure", None)
    # An OSError is raised when the controller writes its list of checkpoints.
    if isinstance(controller_failure, OSError) and controller_failure.errno:
        reason = os.strerror(controller_failure.errno)
        return (
            f"{storage}: cannot be written ({reason}); make room and run again: it resumes from its newest checkpoint"
        )
    return last_line(controller_failure if isinstance(controller_failure, BaseException) else error)

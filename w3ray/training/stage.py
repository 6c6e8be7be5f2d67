"""How does one stage run on a Ray cluster: who starts the workers, and what comes back?"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.exceptions
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2.api.exceptions import TrainingFailedError

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.microbatch import ClipTables, Microbatch
from w3ray.data.stream import STREAM_NAME, DecoderPool, StreamConfig, read_microbatches
from w3ray.errors import InputError, RunError
from w3ray.training.checkpoint_files import is_checkpoint_folder, steps_done
from w3ray.training.event_channel import EventChannel
from w3ray.training.faults import StopAtBugs, TeacherMissing, last_line
from w3ray.training.rendezvous import MeetingConfig
from w3ray.training.stage_spec import CHECKPOINTS_FOLDER, StageSpec
from w3ray.training.unheard import EndUnheard

_POLL_S = 0.5
_DRAIN_S = 0.2  # not 0: an asyncio queue gives nothing to who does not wait at all
_MAX_FAILURES = 3
_END_TIMEOUT_S = 75.0  # longer than a controller may take to end itself: see `unheard`

# A CPU trainer allocates and frees the same large tensors in every step. By default glibc hands them back to the kernel
# each time, and touching them anew costs a page fault for every 4 KiB.
_KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}

# gloo beside NCCL: counts on the CPU are added up without waiting for the GPU.
_BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}


class StageRun:
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
        tables = ClipTables(**{kind: ray.put(splits[kind]) for kind in ("train", "val", "test")}, roots=spec.roots)
        _forget_missing_checkpoints(spec.checkpoints)
        self._channel = EventChannel()
        self._answer: dict[str, Any] = {}
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
        except (TrainingFailedError, ray.exceptions.RayError) as error:
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
            InputError, RunError: with the cause.
        """
        try:
            while self._thread.is_alive():
                for event in self._channel.receive(_POLL_S):
                    on_event(event)
                watch()
            while batch := self._channel.receive(_DRAIN_S):
                for event in batch:
                    on_event(event)
        finally:
            self.end()
        if error := self._answer.get("error"):
            raise RunError(f"stage {self._spec.name}: {_cause(error)}") from error
        answer = self._answer["result"].return_value or {}
        if fault := answer.get("fault"):
            raise _FAULTS[fault["kind"]](fault["message"])
        outcome: dict[str, Any] = answer["outcome"]
        return outcome

    def end(self) -> None:
        """End what still runs of the stage, and wait for it: see `EndUnheard`.

        The thread must not outlive the connection to the cluster: Ray ends a process that calls it afterwards.
        """
        try:
            self._channel.close()
            self._thread.join(_END_TIMEOUT_S)
        finally:  # also where a second Ctrl-C ends the wait
            self._stream.release()


_FAULTS: dict[str, type[Exception]] = {"input": InputError, "run": RunError, "teacher": TeacherMissing}


def _worker_env_vars(plan: ResourcePlan) -> dict[str, str]:
    return {} if plan.worker_gpus else _KEEP_MEMORY


def _forget_missing_checkpoints(checkpoints: Path) -> None:
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


class _OwnClusterTrainer(TorchTrainer):
    """Ray Train's, without the process that clears up after a killed controller: the cluster ends with the run.

    That process takes processor time at a stage's start, where everything waits for it.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]


def _stream(spec: StageSpec, tables: ClipTables) -> StreamConfig:
    stream = StreamConfig(
        schedule=spec.schedule,
        tables=tables,
        spec=spec.clip,
        flip_map=dict(spec.flip_map),
        pool=DecoderPool(size=spec.plan.decoders, cpus=spec.plan.decoder_cpus),
        steps_done=lambda: steps_done(spec.checkpoints),
        clips_ready=spec.clips_ready,
    )
    stream.prepare(spec.plan.workers)
    return stream


def _trainer(spec: StageSpec, stream: StreamConfig, channel: EventChannel, *, own_cluster: bool) -> TorchTrainer:
    plan, train = spec.plan, spec.train
    resources = {"CPU": plan.worker_cpus}
    if plan.worker_gpus:
        resources["GPU"] = plan.worker_gpus
    trainer_class = _OwnClusterTrainer if own_cluster else TorchTrainer
    return trainer_class(
        _work,
        train_loop_config={"stage": spec, "events": channel.sender()},
        scaling_config=ScalingConfig(
            num_workers=plan.workers, use_gpu=plan.worker_gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=CHECKPOINTS_FOLDER,
            storage_path=str(spec.directory),
            checkpoint_config=CheckpointConfig(
                num_to_keep=train.keep_checkpoints,
                checkpoint_score_attribute=None if train.best_metric == "last" else train.best_metric,
                checkpoint_score_order="max",
            ),
            failure_config=FailureConfig(max_failures=_MAX_FAILURES),
            callbacks=[StopAtBugs(), EndUnheard(channel.sender(), own_cluster=own_cluster)],
            worker_runtime_env={"env_vars": _worker_env_vars(plan)},
        ),
        datasets={STREAM_NAME: _nothing},
        dataset_config=stream,
        torch_config=MeetingConfig(backend=_BACKENDS[plan.worker_gpus > 0]),
    )


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's loop."""
    stream = read_microbatches(ray.train.get_dataset_shard(STREAM_NAME))
    first = _ahead(stream)  # the decoders start while this process imports and builds its model
    from w3ray.training.worker import run_worker

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


def _cause(error: BaseException) -> str:
    """The first worker's own exception where there is one, in one line."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    if failures:
        rank = min(failures)
        return f"worker {rank}: {last_line(failures[rank])}"
    controller_failure = getattr(error, "controller_failure", None)
    return last_line(controller_failure if isinstance(controller_failure, BaseException) else error)

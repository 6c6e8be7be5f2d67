"""How does one stage run on a Ray cluster: who starts the workers, and what comes back?"""

import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray
import ray.exceptions
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from w3ray.data.stream import STREAM_NAME, ClipTables, DecoderPool, StreamConfig
from w3ray.errors import InputError, RunError
from w3ray.training.event_channel import EventChannel
from w3ray.training.stage_spec import CHECKPOINTS_FOLDER, StageSpec
from w3ray.training.worker import run_worker, steps_done

_POLL_S = 0.2
_MAX_FAILURES = 3

# gloo beside NCCL: counts on the CPU are added up without waiting for the GPU.
_BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}


def run_stage(spec: StageSpec, splits: dict[str, pa.Table], on_event: Callable[[Any], None]) -> dict[str, Any]:
    """Train, validate and test one stage, going on at its newest good checkpoint.

    Args:
        spec: the stage.
        splits: rows of `train`, `val` and `test`; see `ClipTables`.
        on_event: called in this thread with each event of the workers, in order.

    Returns:
        The outcome: `best_checkpoint` (folder name), and of the test split `test` (metrics), `counts` (`Counts.state`).

    Raises:
        InputError, RunError: with the cause.
    """
    tables = ClipTables(**{kind: ray.put(splits[kind]) for kind in ("train", "val", "test")})
    channel = EventChannel()
    try:
        trainer = _trainer(spec, tables, channel)
        result = _fit(trainer, channel, on_event, spec)
    finally:
        channel.close()
    answer = result.return_value or {}
    if fault := answer.get("fault"):
        raise (InputError if fault["kind"] == "input" else RunError)(fault["message"])
    outcome: dict[str, Any] = answer["outcome"]
    return outcome


def _trainer(spec: StageSpec, tables: ClipTables, channel: EventChannel) -> TorchTrainer:
    plan, train = spec.plan, spec.train
    stream = StreamConfig(
        schedule=spec.schedule,
        tables=tables,
        spec=spec.clip,
        flip_map=dict(spec.flip_map),
        pool=DecoderPool(
            size=plan.decoders,
            cpus=plan.decoder_cpus,
            trainer_cpus=plan.workers * plan.worker_cpus,
            trainer_gpus=plan.workers * plan.worker_gpus,
        ),
        steps_done=lambda: steps_done(spec.checkpoints),
    )
    resources = {"CPU": plan.worker_cpus}
    if plan.worker_gpus:
        resources["GPU"] = plan.worker_gpus
    return TorchTrainer(
        run_worker,
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
            callbacks=[_StopAtBugs()],
        ),
        datasets={STREAM_NAME: _nothing},
        dataset_config=stream,
        torch_config=TorchConfig(backend=_BACKENDS[plan.worker_gpus > 0]),
    )


class _StopAtBugs(UserCallback):
    """Ends the stage at an exception that another start of the workers would meet again, instead of retrying it."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in worker_exceptions.items():
            if isinstance(_original(error), _BUGS):
                raise RunError(f"worker {rank}: {_last_line(error)}")


_BUGS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)


def _original(error: BaseException) -> BaseException:
    """What the worker itself raised, inside Ray's wrappers."""
    for name in ("_base_exc", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return _original(inner)
    return error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _nothing() -> None:
    """Ray Train asks for a data set by name; ours is built by `StreamConfig`, which knows the world size."""


def _fit(trainer: TorchTrainer, channel: EventChannel, on_event: Callable[[Any], None], spec: StageSpec) -> Any:
    """`fit` runs in its own thread: this one hands events on and stays open to Ctrl-C."""
    answer: dict[str, Any] = {}

    def fit() -> None:
        try:
            answer["result"] = trainer.fit()
        except (TrainingFailedError, ray.exceptions.RayError) as error:
            answer["error"] = error

    thread = threading.Thread(target=fit, name=f"fit-{spec.name}", daemon=True)
    thread.start()
    while thread.is_alive():
        for event in channel.receive(_POLL_S):
            on_event(event)
    for event in channel.receive(0.0):
        on_event(event)
    if error := answer.get("error"):
        raise RunError(f"stage {spec.name}: {_cause(error)}") from error
    return answer["result"]


def _cause(error: BaseException) -> str:
    """The first worker's own exception where there is one, in one line."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    if failures:
        rank = min(failures)
        return f"worker {rank}: {_last_line(failures[rank])}"
    controller_failure = getattr(error, "controller_failure", None)
    return _last_line(controller_failure if isinstance(controller_failure, BaseException) else error)

"""The one door to what Ray keeps private.

Some things that w3ray promises need names that Ray does not promise to keep. Each is a row of `NAMES`: where Ray has
it, what it is for, and what would take its place. What hangs on attributes of Ray's objects is a function below.
`tests/test_ray_internals.py` tries every one of them on the installed Ray and allows such names nowhere else, so a
new version of Ray (`pyproject.toml` bounds it) is one file to look at.

Names are imported when they are asked for: the driver's connection needs no Ray Data, a controller no torch.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ray._private import ray_constants as ray_constants
    from ray._raylet import AuthenticationTokenLoader as AuthenticationTokenLoader  # type: ignore[attr-defined]
    from ray._raylet import GcsClient as GcsClient  # type: ignore[attr-defined]
    from ray.data._internal.execution.backpressure_policy import (
        ENABLED_BACKPRESSURE_POLICIES as ENABLED_BACKPRESSURE_POLICIES,
    )
    from ray.data._internal.execution.backpressure_policy import (
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY as ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    )
    from ray.data._internal.execution.backpressure_policy.backpressure_policy import (
        BackpressurePolicy as BackpressurePolicy,
    )
    from ray.data._internal.execution.execution_callback import ExecutionCallback as ExecutionCallback
    from ray.train._internal.utils import get_address_and_port as get_address_and_port
    from ray.train.v2._internal.constants import (
        CHECKPOINT_MANAGER_SNAPSHOT_FILENAME as CHECKPOINT_MANAGER_SNAPSHOT_FILENAME,
    )
    from ray.train.v2._internal.constants import (
        DEFAULT_WORKER_GROUP_START_TIMEOUT_S as DEFAULT_WORKER_GROUP_START_TIMEOUT_S,
    )
    from ray.train.v2._internal.constants import (
        WORKER_GROUP_START_TIMEOUT_S_ENV_VAR as WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
    )
    from ray.train.v2._internal.constants import (
        WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR as WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR,
    )
    from ray.train.v2._internal.execution.callback import ControllerCallback as ControllerCallback
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback as WorkerGroupCallback

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PrivateName:
    """A row of the table."""

    place: str
    """ "module:attribute"; a module alone where it is itself what is used."""
    purpose: str
    replacement: str
    """What public name would do, if Ray had it; or what we would do without."""


_TRAIN = "ray.train.v2._internal"
_DATA = "ray.data._internal"

NAMES: dict[str, PrivateName] = {
    "ControllerCallback": PrivateName(
        f"{_TRAIN}.execution.callback:ControllerCallback",
        "tells the driver which actor controls a stage, and ends that actor when the driver is gone",
        "a public handle of a run's controller, and a `fit` that may be interrupted from another thread",
    ),
    "WorkerGroupCallback": PrivateName(
        f"{_TRAIN}.execution.callback:WorkerGroupCallback",
        "tells the driver which placement group holds the workers, to free it after a killed controller",
        "a public handle of a run's placement group",
    ),
    "PlacementGroupCleanerCallback": PrivateName(
        f"{_TRAIN}.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
        "left out of a stage: it costs seconds at the start, and does nothing without a dashboard",
        "a setting of RunConfig that leaves it out",
    ),
    "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME": PrivateName(
        f"{_TRAIN}.constants:CHECKPOINT_MANAGER_SNAPSHOT_FILENAME",
        "removes Ray Train's list of checkpoints where one of them is gone or damaged, which it does not survive",
        "a Ray Train that goes on without a checkpoint that is gone",
    ),
    "DEFAULT_WORKER_GROUP_START_TIMEOUT_S": PrivateName(
        f"{_TRAIN}.constants:DEFAULT_WORKER_GROUP_START_TIMEOUT_S",
        "gives a stage of a fixed size the usual time to start its workers",
        "a timeout in ScalingConfig",
    ),
    "WORKER_GROUP_START_TIMEOUT_S_ENV_VAR": PrivateName(
        f"{_TRAIN}.constants:WORKER_GROUP_START_TIMEOUT_S_ENV_VAR",
        "lets an elastic stage ask again soon, in the size that the cluster has now",
        "a timeout in ScalingConfig",
    ),
    "WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR": PrivateName(
        f"{_TRAIN}.constants:WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR",
        "ends workers that hang where there is no driver left to do it",
        "a timeout in FailureConfig",
    ),
    "get_train_fn_utils": PrivateName(
        f"{_TRAIN}.execution.train_fn_utils:get_train_fn_utils",
        "rank and world size within a trial of Ray Tune, where `ray.train.get_context` refuses to answer",
        "`ray.train.get_context` that answers there",
    ),
    "get_train_context": PrivateName(
        f"{_TRAIN}.execution.context:get_train_context",
        "whether a node is being taken away, without a barrier over all ranks at each step",
        "`ray.train.get_preemption_info` without its barrier",
    ),
    "get_address_and_port": PrivateName(
        "ray.train._internal.utils:get_address_and_port",
        "recognises the question for a meeting place, to answer it with one on the loopback",
        "a TorchConfig that takes the address of the store",
    ),
    "TorchBackend": PrivateName(
        "ray.train.torch.config:_TorchBackend",
        "sets up torch.distributed as Ray Train does, but with a store on the loopback where all workers are there",
        "a TorchConfig that takes the address of the store",
    ),
    "BackpressurePolicy": PrivateName(
        f"{_DATA}.execution.backpressure_policy.backpressure_policy:BackpressurePolicy",
        "reads item numbers no further ahead than decoders need: a number has no bytes that would bound it",
        "a bound on the blocks that wait, beside the one on their bytes",
    ),
    "ENABLED_BACKPRESSURE_POLICIES": PrivateName(
        f"{_DATA}.execution.backpressure_policy:ENABLED_BACKPRESSURE_POLICIES",
        "keeps Ray Data's own policies beside ours",
        "a public way to add a policy",
    ),
    "ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY": PrivateName(
        f"{_DATA}.execution.backpressure_policy:ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY",
        "adds our policy",
        "a public way to add a policy",
    ),
    "InputDataBuffer": PrivateName(
        f"{_DATA}.execution.operators.input_data_buffer:InputDataBuffer",
        "recognises the operator that reads item numbers",
        "a bound on the blocks that wait, beside the one on their bytes",
    ),
    "ExecutionCallback": PrivateName(
        f"{_DATA}.execution.execution_callback:ExecutionCallback",
        "forgets the statistics and queues of blocks that were handed out: a stage has millions of them",
        "a Ray Data that keeps a bounded history",
    ),
    "ReorderingBundleQueue": PrivateName(
        f"{_DATA}.execution.bundle_queue:ReorderingBundleQueue",
        "the queues that are forgotten",
        "a Ray Data that keeps a bounded history",
    ),
    "get_or_create_autoscaling_coordinator": PrivateName(
        f"{_DATA}.cluster_autoscaler.default_autoscaling_coordinator:get_or_create_autoscaling_coordinator",
        "starts an actor that the first stage waits for while all else starts",
        "nothing: the first stage would start later by about a second",
    ),
    "get_or_create_actor_location_tracker": PrivateName(
        f"{_DATA}.execution.node_trackers:get_or_create_actor_location_tracker",
        "as get_or_create_autoscaling_coordinator",
        "nothing: the first stage would start later by about a second",
    ),
    "get_or_create_stats_actor": PrivateName(
        f"{_DATA}.stats:get_or_create_stats_actor",
        "as get_or_create_autoscaling_coordinator",
        "nothing: the first stage would start later by about a second",
    ),
    "ray_constants": PrivateName(
        "ray._private.ray_constants",
        "keeps a local cluster on the loopback: Ray reads its own variable for that when it is imported",
        '`ray.init(node_ip_address="127.0.0.1")` that is not turned into the machine\'s outer address',
    ),
    "get_default_ray_temp_dir": PrivateName(
        "ray._common.utils:get_default_ray_temp_dir",
        "whether the name of Ray's folder is short enough for a socket",
        "a Ray that takes a shorter folder by itself",
    ),
    "AuthenticationTokenLoader": PrivateName(
        "ray._raylet:AuthenticationTokenLoader",
        "makes Ray read a token that was put into the environment after it looked",
        "`ray.init(auth_token=...)`",
    ),
    "GcsClient": PrivateName(
        "ray._raylet:GcsClient",
        "tells at once that a cluster asks for a token, or that what answers is no Ray",
        "`ray.init` with a timeout and an error for each cause",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = NAMES[name].place.partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


# What hangs on attributes.


def stream_coordinator(shard: Any) -> Any:
    """The actor that runs the stream of a shard of `streaming_split`: it goes on after its readers are gone."""
    return shard._coord_actor


def forget_blocks(executor: Any) -> None:
    """Drop what a Ray Data executor keeps of blocks that were handed out: statistics, and an empty queue of each."""
    for op in executor._topology:
        for of_blocks in op.get_stats().values():
            of_blocks.clear()
        queue = getattr(op, "_output_queue", None)
        if isinstance(queue, __getattr__("ReorderingBundleQueue")):
            for key in [key for key in queue._finalized_keys if key < queue._current_key]:
                queue._finalized_keys.remove(key)
                queue._inner.pop(key, None)


def blocks_read_ahead(policy: Any, op: Any) -> int | None:
    """How many blocks of the reading operator `op` wait for the next one; None: `op` does not read."""
    if not op.input_dependencies or not isinstance(op.input_dependencies[0], __getattr__("InputDataBuffer")):
        return None
    return len(policy._topology[op].output_queue)


def policy_setting(policy: Any, key: str) -> Any:
    """A setting of the data context of a backpressure policy."""
    return policy._data_context.get_config(key)


def train_storage() -> Any:
    """What keeps this worker's checkpoints for Ray Train: `persist_current_checkpoint` and `storage_filesystem`."""
    import ray.train

    return ray.train.get_context().get_storage()


def is_preempted() -> bool:
    """Whether Ray announced the end of a node of this worker group, as far as this worker knows."""
    return __getattr__("get_train_context")().preemption_context.preemption_info is not None


def without_cleaner(trainer: type[T]) -> type[T]:
    """A kind of Ray Train's trainers without the process that clears up after a killed controller."""
    cleaner = __getattr__("PlacementGroupCleanerCallback")

    class Trainer(trainer):  # type: ignore[valid-type, misc]
        def _create_default_callbacks(self) -> list[Any]:
            return [one for one in super()._create_default_callbacks() if not isinstance(one, cleaner)]

    return Trainer


@dataclass(frozen=True)
class EndedTrial:
    """Enough of Ray Tune's trial for its schedulers to be told of one that ended before."""

    trial_id: str
    status: str = "TERMINATED"

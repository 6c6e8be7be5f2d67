"""The only module that uses private names of Ray.

w3ray needs some names that Ray does not promise to keep. Each is a row of `NAMES`: where Ray has it, what it is for,
and what would replace it. Each use of a private attribute of Ray's objects is a function below.
`tests/test_ray_internals.py` tries every one of them on the installed Ray and allows private names nowhere else. So
for a new version of Ray (`pyproject.toml` bounds it) only this file has to be checked.

A name is imported when it is asked for: the driver's connection needs no Ray Data, and a controller needs no torch.
"""

from dataclasses import dataclass
from importlib import import_module
from itertools import count
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

T = TypeVar("T")

_OWN_KILL = "The actor is dead because it was killed by `ray.kill`"
"""In Ray's message about a task that was at work then."""


@dataclass(frozen=True, slots=True)
class PrivateName:
    """A row of the table."""

    place: str
    """ "module:attribute", or only a module if the module itself is used."""
    purpose: str
    replacement: str
    """The public feature that would replace the name if Ray had it, or what we would lose without the name."""


_TRAIN = "ray.train.v2._internal"
_DATA = "ray.data._internal"

NAMES: dict[str, PrivateName] = {
    "ControllerCallback": PrivateName(
        f"{_TRAIN}.execution.callback:ControllerCallback",
        "tells the driver which actor controls a stage, and ends that actor when the driver is gone",
        "a public handle of a run's controller, and a `fit` that may be interrupted from another thread",
    ),
    "worker_group": PrivateName(
        f"{_TRAIN}.execution.worker_group.worker_group",
        "names the placement groups of a stage's workers, so that the driver can free them after a killed controller",
        "a name for them in ScalingConfig",
    ),
    "PlacementGroupCleanerCallback": PrivateName(
        f"{_TRAIN}.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
        "left out of a stage: it costs seconds at the start, and does nothing without a dashboard",
        "a setting of RunConfig that leaves it out",
    ),
    "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME": PrivateName(
        f"{_TRAIN}.constants:CHECKPOINT_MANAGER_SNAPSHOT_FILENAME",
        "removes Ray Train's list of checkpoints if one of them is gone or damaged: Ray Train would fail on it",
        "a Ray Train that copes with a missing checkpoint",
    ),
    "DEFAULT_WORKER_GROUP_START_TIMEOUT_S": PrivateName(
        f"{_TRAIN}.constants:DEFAULT_WORKER_GROUP_START_TIMEOUT_S",
        "gives a stage of a fixed size the usual time to start its workers",
        "a timeout in ScalingConfig",
    ),
    "WORKER_GROUP_START_TIMEOUT_S_ENV_VAR": PrivateName(
        f"{_TRAIN}.constants:WORKER_GROUP_START_TIMEOUT_S_ENV_VAR",
        "lets an elastic stage ask again soon, for as many workers as the cluster has room for now",
        "a timeout in ScalingConfig",
    ),
    "WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR": PrivateName(
        f"{_TRAIN}.constants:WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR",
        "ends hanging workers if there is no driver left to do it",
        "a timeout in FailureConfig",
    ),
    "get_train_fn_utils": PrivateName(
        f"{_TRAIN}.execution.train_fn_utils:get_train_fn_utils",
        "gives rank and world size within a trial of Ray Tune, where `ray.train.get_context` refuses to answer",
        "a `ray.train.get_context` that answers there",
    ),
    "get_train_context": PrivateName(
        f"{_TRAIN}.execution.context:get_train_context",
        "tells whether a node is about to be taken away, without a barrier over all ranks at each step",
        "a `ray.train.get_preemption_info` without a barrier",
    ),
    "BackpressurePolicy": PrivateName(
        f"{_DATA}.execution.backpressure_policy.backpressure_policy:BackpressurePolicy",
        "limits how far ahead item numbers are read: Ray Data limits bytes, and a number has next to none",
        "a limit on the number of waiting blocks, besides the one on their bytes",
    ),
    "ENABLED_BACKPRESSURE_POLICIES": PrivateName(
        f"{_DATA}.execution.backpressure_policy:ENABLED_BACKPRESSURE_POLICIES",
        "keeps Ray Data's own policies next to ours",
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
        "a limit on the number of waiting blocks, besides the one on their bytes",
    ),
    "ExecutionCallback": PrivateName(
        f"{_DATA}.execution.execution_callback:ExecutionCallback",
        "drops the statistics and queues of blocks that were handed out: a stage has millions of blocks",
        "a Ray Data that keeps a bounded history",
    ),
    "ReorderingBundleQueue": PrivateName(
        f"{_DATA}.execution.bundle_queue:ReorderingBundleQueue",
        "recognises the queues that are emptied",
        "a Ray Data that keeps a bounded history",
    ),
    "get_or_create_autoscaling_coordinator": PrivateName(
        f"{_DATA}.cluster_autoscaler.default_autoscaling_coordinator:get_or_create_autoscaling_coordinator",
        "starts early an actor that the first stage would wait for",
        "nothing; without it the first stage would start about a second later",
    ),
    "get_or_create_actor_location_tracker": PrivateName(
        f"{_DATA}.execution.node_trackers:get_or_create_actor_location_tracker",
        "as get_or_create_autoscaling_coordinator",
        "nothing; without it the first stage would start about a second later",
    ),
    "get_or_create_stats_actor": PrivateName(
        f"{_DATA}.stats:get_or_create_stats_actor",
        "as get_or_create_autoscaling_coordinator",
        "nothing; without it the first stage would start about a second later",
    ),
    "ray_constants": PrivateName(
        "ray._private.ray_constants",
        "keeps a local cluster on loopback: Ray reads its own variable for that only when it is imported",
        'a `ray.init(node_ip_address="127.0.0.1")` that does not use the machine\'s outer address instead',
    ),
    "get_default_ray_temp_dir": PrivateName(
        "ray._common.utils:get_default_ray_temp_dir",
        "tells whether the path of Ray's folder is short enough for a socket",
        "a Ray that chooses a shorter folder by itself",
    ),
    "AuthenticationTokenLoader": PrivateName(
        "ray._raylet:AuthenticationTokenLoader",
        "makes Ray read a token that was set in the environment after Ray looked",
        "`ray.init(auth_token=...)`",
    ),
    "serve_replica": PrivateName(
        "ray.serve._private.replica",
        "keeps the replicas of a local cluster on loopback: each listens on all addresses for other deployments",
        "an address for the servers between deployments, as `http_options` has one",
    ),
    "ray_worker": PrivateName(
        "ray._private.worker",
        "keeps off the terminal that actors of a stopped stream were killed: Ray prints it whatever `log_to_driver` is",
        "a `ray.init` that leaves the messages of Ray's own processes in its log files",
    ),
    "GcsClient": PrivateName(
        "ray._raylet:GcsClient",
        "tells at once that a cluster asks for a token, or that something other than Ray answers",
        "a `ray.init` with a timeout and an error for each cause",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = NAMES[name].place.partition(":")
    found = _imported(module)
    return getattr(found, attribute) if attribute else found


def _imported(module: str) -> Any:
    """Import a module, its packages first, from the outermost on.

    Another thread may be importing `ray.data` now. An import of the package waits until it is complete. An import of a
    module deep in it does not: both threads would import the packages between, and Python may find a deadlock.
    """
    parts = module.split(".")
    for end in range(1, len(parts)):
        import_module(".".join(parts[:end]))
    return import_module(module)


# Uses of private attributes.


def stream_coordinator(shard: Any) -> Any:
    """The actor that runs the stream of a shard of `streaming_split`. It still runs after its readers are gone."""
    return shard._coord_actor


def forget_blocks(executor: Any) -> None:
    """Drop what a Ray Data executor keeps about blocks that were handed out: statistics, and an empty queue of each."""
    for op in executor._topology:
        for of_blocks in op.get_stats().values():
            of_blocks.clear()
        queue = getattr(op, "_output_queue", None)
        if isinstance(queue, __getattr__("ReorderingBundleQueue")):
            for key in [key for key in queue._finalized_keys if key < queue._current_key]:
                queue._finalized_keys.remove(key)
                queue._inner.pop(key, None)


def blocks_read_ahead(policy: Any, op: Any) -> int | None:
    """How many blocks of the reading operator `op` wait for the next operator; None if `op` does not read."""
    if not op.input_dependencies or not isinstance(op.input_dependencies[0], __getattr__("InputDataBuffer")):
        return None
    return len(policy._topology[op].output_queue)


def blocks_made_ahead(policy: Any, op: Any) -> int | None:
    """How many blocks of the operator `op`, the one after the reading, no consumer has fetched; None for other `op`."""
    if not op.input_dependencies or blocks_read_ahead(policy, op.input_dependencies[0]) is None:
        return None
    operators = list(policy._topology)
    return sum(policy._topology[one].total_enqueued_output_blocks() for one in operators[operators.index(op) :])


def policy_setting(policy: Any, key: str) -> Any:
    """A setting from the data context of a backpressure policy."""
    return policy._data_context.get_config(key)


def buffer_blocks(context: Any, count: int) -> None:
    """Let each task of this data context run ahead by `count` blocks before it waits for Ray Data to look at it.

    Ray Data looks about ten times a second. With its own setting, 2, a task makes at most twenty blocks a second.
    """
    if not hasattr(context, "_max_num_blocks_in_streaming_gen_buffer"):
        raise AttributeError("ray.data.DataContext has no _max_num_blocks_in_streaming_gen_buffer")
    context._max_num_blocks_in_streaming_gen_buffer = count


def train_storage() -> Any:
    """Ray Train's storage for this worker's checkpoints; has `persist_current_checkpoint` and `storage_filesystem`."""
    import ray.train

    return ray.train.get_context().get_storage()


def is_preempted() -> bool:
    """Whether Ray announced the end of a node of this worker group, as far as this worker knows."""
    return __getattr__("get_train_context")().preemption_context.preemption_info is not None


def without_cleaner(trainer: type[T]) -> type[T]:
    """A class of Ray Train's trainers, without the process that cleans up after a killed controller."""
    cleaner = __getattr__("PlacementGroupCleanerCallback")

    class Trainer(trainer):  # type: ignore[valid-type, misc]
        def _create_default_callbacks(self) -> list[Any]:
            return [one for one in super()._create_default_callbacks() if not isinstance(one, cleaner)]

    return Trainer


def name_placement_groups(prefix: str) -> None:
    """Give each placement group that Ray Train makes in this process, a controller's, a name: `prefix` and a number."""
    module, numbers = __getattr__("worker_group"), count()
    make = module.placement_group

    def make_named(*args: Any, **options: Any) -> Any:
        return make(*args, **options, name=f"{prefix}{next(numbers)}")

    module.placement_group = make_named


def hide_own_kills() -> None:
    """Let this process, a driver, print no message that a task failed because its actor was killed on purpose.

    When a stream is stopped early, Ray Data kills decoders that are at work. Other messages stay, such as the one about
    processes that were killed for want of memory.
    """
    module = __getattr__("ray_worker")
    show = module.print_to_stdstream
    if getattr(show, "hides_own_kills", False):
        return

    def show_others(data: dict[str, Any], *args: Any, **options: Any) -> None:
        lines = [line for line in data["lines"] if _OWN_KILL not in line]
        if lines:
            show({**data, "lines": lines}, *args, **options)

    show_others.hides_own_kills = True  # type: ignore[attr-defined]
    module.print_to_stdstream = show_others


def serve_replica_on_loopback() -> None:
    """Let this process, a replica of Ray Serve that is starting, listen for other deployments only on 127.0.0.1."""
    module = __getattr__("serve_replica")
    add_port = module.add_port_to_grpc_server

    def add_port_on_loopback(server: Any, address: str) -> Any:
        return add_port(server, f"127.0.0.1:{address.rpartition(':')[2]}")

    module.add_port_to_grpc_server = add_port_on_loopback


@dataclass(frozen=True)
class EndedTrial:
    """Stands for a trial that ended in an earlier run: the attributes that Ray Tune's schedulers read."""

    trial_id: str
    status: str = "TERMINATED"

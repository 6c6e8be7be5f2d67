"""How does a process join a Ray cluster, or start one of its own, without Ray's noise on the terminal?"""

import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from w3ray.cluster.accelerators import ACCELERATOR_TYPE
from w3ray.errors import InputError, RunError
from w3ray.storage import probe_folder, remove_tree

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 10.0
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What an HTTP/2 client sends first: the preface, and a frame of no settings (RFC 9113, section 3.4)."""
_HTTP2_SETTINGS = 4
_LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"

_LOCAL_ENVIRONMENT = {
    # A local machine is not preempted, and nothing scrapes its metrics. Ray Train's processes for these two would cost
    # each stage seconds of start-up on few cores.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Ray would start workers at niceness 15. Beside two busy processes on two cores, the first step takes minutes then.
    "RAY_worker_niceness": "0",
    # Ray would end a process that has no task for a second. The next trial of a sweep can use it; starting a new one
    # takes seconds.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    # torch.distributed would pick the interface that the host name resolves to.
    "GLOO_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
    "NCCL_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
}
"""Environment variables of a cluster that is started here. A variable that the user has set is kept."""
_set_here: list[str] = []
_folders_made: list[str] = []
"""Folders of local clusters, to be removed when the clusters have ended."""

_TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
_MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
_SOCKET_BYTES = len("/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store.99")
"""Length of what Ray appends to its folder. The kernel allows the whole path of a socket `_MAX_SOCKET_BYTES`."""


def connect(address: str | None = None, *, num_cpus: int | None = None) -> list[dict[str, float]]:
    """Join the cluster at `address`, or start one on this machine. Returns the resources of each of its nodes.

    Args:
        address: `host:port`, `auto`, or `ray://host:port`; None starts a local cluster that ends with the process and
            listens only on loopback. A process that is already connected keeps its connection.
        num_cpus: CPUs of a local cluster; None takes all of the machine.

    Raises:
        InputError: nothing answers at `address`, or there is no folder for the files of a local cluster.
        RunError: Ray cannot be started on this machine.
    """
    quiet()
    import ray

    from w3ray.ray_internals import hide_own_kills

    sigterm = signal.getsignal(signal.SIGTERM)
    if not ray.is_initialized():
        hide_own_kills()
        options = dict(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
        if address is None:
            for name, value in _LOCAL_ENVIRONMENT.items():
                if name not in os.environ:
                    os.environ[name] = value
                    _set_here.append(name)
            _provide_token()
            folder = _ray_folder()
            with _on_loopback():
                try:
                    ray.init(address="local", num_cpus=num_cpus, _temp_dir=folder, **options)
                except Exception as error:  # Ray has no error of its own for this: OSError, RuntimeError, Exception
                    raise RunError(f"Ray cannot be started on this machine: {_first_line(error)}") from error
            _keep_token_private()
        else:
            _check_reachable(address)
            try:
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                raise InputError(f"--address {address}: no Ray cluster answers there ({_first_line(error)})") from error
    keep_sigterm(sigterm)
    return node_resources()


def node_resources() -> list[dict[str, float]]:
    """CPU, GPU, types of GPUs and custom resources of each living node, by Ray's names, without Ray's other markers.

    Memory is left out, too.
    """
    import ray

    return [planned_with(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def planned_with(resources: Mapping[str, float]) -> dict[str, float]:
    """The part of a node's resources that plans are made with."""
    own = ("memory", "object_store_memory")
    return {
        name: float(amount)
        for name, amount in resources.items()
        if name.startswith(ACCELERATOR_TYPE) or (":" not in name and name not in own)
    }


def on_each_node(call: Callable[[], T]) -> list[T]:
    """What `call` returns on each living node that has processors or GPUs, in a process there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(_call)
    answers = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(call)
        for node in ray.nodes()
        if node["Alive"] and any(node["Resources"].get(kind, 0) for kind in ("CPU", "GPU"))
    ]
    return ray.get(answers)


def _call(call: Callable[[], T]) -> T:
    """Ray takes functions alone for tasks; what a caller has may be a method."""
    return call()


def job_address() -> str | None:
    """The cluster that this process was submitted to (`ray job submit`); None for any other process.

    Otherwise a job without `--address` would start a second Ray on the head node, beside the cluster it was sent to.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return None
    return os.environ.get("RAY_ADDRESS")


def keep_sigterm(handler: Any = None) -> None:
    """Let this process handle SIGTERM again. Works in the main thread; does nothing in other threads.

    When Ray's core joins a cluster, it takes over the signal and aborts the process with a stack trace. Then a run that
    is told to stop (`ray job stop`, Slurm, Kubernetes) could end neither its stage nor its record in the tracking.

    Args:
        handler: the handler before Ray took over; None: the handler that Python still knows.
    """
    handler = signal.getsignal(signal.SIGTERM) if handler is None else handler
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster started in this context listens only on 127.0.0.1, because anyone who reaches its ports can run code.

    Ray does this on desktop systems. A variable that Ray reads when it is imported controls it. Giving `ray.init` a
    local address does not help: Ray uses the machine's outer address instead.
    """
    from w3ray.ray_internals import ray_constants

    variable, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    in_environment = os.environ.get(variable)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"  # this process, and those that it starts
    try:
        yield
    finally:  # a later `connect` may join a cluster on other machines
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[variable]
        if in_environment is not None:
            os.environ[variable] = in_environment


def _ray_folder() -> str | None:
    """The folder for the sockets and logs of a local cluster; None: Ray's own choice works.

    Ray takes TMPDIR. Its path may be too long for a socket, or have characters that Ray cannot handle.
    """
    from w3ray.ray_internals import get_default_ray_temp_dir

    if _can_hold_sockets(get_default_ray_temp_dir()):
        return None
    for short in ("/tmp", "/var/tmp", "/dev/shm"):
        with suppress(OSError):
            folder = tempfile.mkdtemp(prefix="w3ray-", dir=short)
            _folders_made.append(folder)
            return folder
    raise InputError(
        "no folder for Ray's sockets: TMPDIR cannot be written, is too long, or has characters other than A-Z a-z 0-9 "
        "_ . -, and /tmp cannot be written; set RAY_TMPDIR to a short folder"
    )


def _can_hold_sockets(folder: str) -> bool:
    if len(folder) + _SOCKET_BYTES > _MAX_SOCKET_BYTES or not re.fullmatch(r"/[A-Za-z0-9_./-]+", folder):
        return False
    try:
        os.makedirs(folder, exist_ok=True)
        probe_folder(Path(folder))
        return True
    except OSError:
        return False


def _provide_token() -> None:
    """Make a token if Ray could not make one. Ray writes it to the user's home, which may be missing or read-only.

    Only the processes of this cluster know such a token, and it ends with the cluster.
    """
    asked = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if not asked or any(name in os.environ for name in (_TOKEN_VARIABLE, "RAY_AUTH_TOKEN_PATH")):
        return
    try:
        token = Path.home() / ".ray" / "auth_token"
        if not os.access(token, os.R_OK):
            token.parent.mkdir(parents=True, exist_ok=True)
            probe_folder(token.parent)
    except (OSError, RuntimeError):  # RuntimeError: the home of this user is not known
        from w3ray.ray_internals import AuthenticationTokenLoader

        os.environ[_TOKEN_VARIABLE] = secrets.token_hex(32)
        _set_here.append(_TOKEN_VARIABLE)
        AuthenticationTokenLoader.instance().reset_cache()


def _keep_token_private() -> None:
    """Make the token readable for this user only. Ray lets everybody on the machine read it, and so use the cluster."""
    # There is no file if the token comes from elsewhere, if no token is used, or if there is no home.
    with suppress(OSError, RuntimeError):
        token = Path.home() / ".ray" / "auth_token"
        token.chmod(token.stat().st_mode & 0o700)


def start_helpers() -> None:
    """Start early some actors that the first stage would otherwise start and wait for.

    Ray Train and Ray Data keep resources, statistics and locations in them. One of each serves the whole cluster.
    """
    from w3ray import ray_internals

    ray_internals.get_or_create_autoscaling_coordinator()
    ray_internals.get_or_create_stats_actor()
    ray_internals.get_or_create_actor_location_tracker()


def disconnect() -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()
    while _set_here:  # the next cluster may be on other machines
        os.environ.pop(_set_here.pop(), None)
    while _folders_made:
        remove_tree(Path(_folders_made.pop()))


def quiet() -> None:
    """Keep Ray's own messages in its log files, and its usage report off unless the user chose otherwise.

    Call it before Ray is imported, because Ray reads its environment then.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # How often Ray Train's controller asks its workers for reports. They wait for it at each checkpoint and validation.
    # Ray's default is two seconds; asking is one small call to each worker.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # A run has about ten helper processes (controller, coordinator, queue ...) that hold no CPU. Ray would start
    # only as many at once as there are cores, and warn that there are more processes than cores.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    logging.getLogger("ray").setLevel(logging.ERROR)


def _check_reachable(address: str) -> None:
    """Raise InputError if nothing listens at an address, or not Ray. One attempt tells; Ray would wait for a minute."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--address {address}: not an address; write host:port, ray://host:port or auto")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S) as connection:
            could_be_ray = _speaks_http2(connection)
    except OSError as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({error}); start one with `ray start --head`"
        ) from error
    if not could_be_ray:
        raise InputError(
            f"--address {address}: no Ray cluster answers there (something listens, but it does not speak Ray's "
            "protocol, or it hangs)"
        )
    if not address.startswith("ray://"):
        _check_token(address)


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a server begins as Ray's do: they speak gRPC, which is HTTP/2. With TLS this cannot be asked simply."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return True
    connection.settimeout(_ANSWER_TIMEOUT_S)
    try:
        connection.sendall(_HTTP2_HELLO)
        with connection.makefile("rb") as answer:
            head = answer.read(9)  # of its first frame: length, type, flags, stream
    except OSError:
        return False
    return len(head) == 9 and head[3] == _HTTP2_SETTINGS


def _check_token(address: str) -> None:
    """Raise InputError if a cluster asks for a token. Ray would try for twenty seconds, then say only that it failed.

    Ray sends its token unasked only to the machine's own cluster (`auto`). The user decides who else may get it.
    """
    from ray.exceptions import AuthenticationError, RayError

    from w3ray.ray_internals import GcsClient

    try:
        GcsClient(address=address)
    except AuthenticationError as error:
        raise InputError(
            f"--address {address}: this Ray cluster asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH "
            "if the token is not in ~/.ray/auth_token (or, on the cluster's own machine, use --address auto)"
        ) from error
    except (RayError, RuntimeError) as error:
        # Something listens there, but it is not Ray. `ray.init` would try again for the same time.
        raise InputError(f"--address {address}: no Ray cluster answers there ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from w3ray.errors import InputError, RunError
from w3ray.storage import probe_folder, remove_tree

_CONNECT_TIMEOUT_S = 5.0
_LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"

_LOCAL_ENVIRONMENT = {
    # Nobody takes a local machine away with notice, and nothing scrapes its metrics: Ray Train's processes for those
    # would cost each stage seconds of start-up on few cores.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Ray would start workers at niceness 15: beside two busy processes on two cores, minutes to a first step.
    "RAY_worker_niceness": "0",
    # Ray would end a process that has no task for a second: a sweep's next trial has one for it, and another to start
    # takes seconds.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    # torch.distributed would pick the interface that the machine's name leads to.
    "GLOO_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
    "NCCL_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
}
"""What a cluster that is started here finds in its environment, unless the user set it."""
_set_here: list[str] = []
_folders_made: list[str] = []
"""Of local clusters, to be removed after them."""

_TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
_MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
_SOCKET_BYTES = len("/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store.99")
"""What Ray puts behind its folder: the kernel allows a socket's whole path no more than the above."""


def connect(address: str | None = None, *, num_cpus: int | None = None) -> list[dict[str, float]]:
    """Joins the cluster at `address`, or starts one on this machine; returns what each of its nodes has.

    Args:
        address: `host:port`, `auto`, or `ray://host:port`; None starts a local cluster that ends with the process and
            listens on loopback alone. A process that is connected already stays where it is.
        num_cpus: of a local cluster; None takes the machine's.

    Raises:
        InputError: nothing answers at `address`, or no folder is there for what a local cluster keeps.
        RunError: Ray does not start on this machine.
    """
    quiet()
    import ray

    sigterm = signal.getsignal(signal.SIGTERM)
    if not ray.is_initialized():
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
    """CPU, GPU and custom resources of each living node, by Ray's names; without Ray's own marks and memory."""
    import ray

    own = ("memory", "object_store_memory")
    return [
        {name: float(amount) for name, amount in node["Resources"].items() if ":" not in name and name not in own}
        for node in ray.nodes()
        if node["Alive"]
    ]


def job_address() -> str | None:
    """The cluster that this process was submitted to (`ray job submit`); None for any other process.

    A job without `--address` would otherwise start a Ray of its own, on the head, beside the cluster it was sent to.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return None
    return os.environ.get("RAY_ADDRESS")


def keep_sigterm(handler: Any = None) -> None:
    """Give SIGTERM back to this process, in the main thread; elsewhere nothing happens.

    Ray's core takes the signal for itself as it joins a cluster, to abort the process with a stack trace: then a run
    that is told to stop (`ray job stop`, Slurm, Kubernetes) would not end its stage, nor its record in the tracking.

    Args:
        handler: whose the signal was; None: whose Python believes it still is.
    """
    handler = signal.getsignal(signal.SIGTERM) if handler is None else handler
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster that is started in here listens on 127.0.0.1 alone: whoever reaches its ports could run anything.

    Ray has this for desktop systems, under a variable that it reads when it is imported. An address given to `ray.init`
    would not do: Ray turns a local one into the machine's outer one.
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
    """The folder of a local cluster's sockets and logs; None: Ray's own choice will do.

    Ray takes TMPDIR, whose name may be too long for a socket, or such that Ray does not find its way back.
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
        "no folder for Ray's sockets: TMPDIR cannot be written, is too long, or has letters other than A-Z a-z 0-9 "
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
    """A token where Ray could not make one: it writes that into the user's home, which may not be there to be written.

    Such a token is known to the processes of this cluster alone, and ends with it.
    """
    asked = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if not asked or any(name in os.environ for name in (_TOKEN_VARIABLE, "RAY_AUTH_TOKEN_PATH")):
        return
    try:
        token = Path.home() / ".ray" / "auth_token"
        if not os.access(token, os.R_OK):
            token.parent.mkdir(parents=True, exist_ok=True)
            probe_folder(token.parent)
    except (OSError, RuntimeError):  # the latter: nobody knows where this user's home is
        from w3ray.ray_internals import AuthenticationTokenLoader

        os.environ[_TOKEN_VARIABLE] = secrets.token_hex(32)
        _set_here.append(_TOKEN_VARIABLE)
        AuthenticationTokenLoader.instance().reset_cache()


def _keep_token_private() -> None:
    """Ray lets a local cluster be used by whoever shows its token, and writes that for all of the machine to read."""
    # None is there where the token comes from elsewhere, or is asked of nobody; or there is no home.
    with suppress(OSError, RuntimeError):
        token = Path.home() / ".ray" / "auth_token"
        token.chmod(token.stat().st_mode & 0o700)


def start_helpers() -> None:
    """Begin to start what the first stage would otherwise start itself, and wait for, while all else waits.

    These are the actors in which Ray Train and Ray Data note resources, statistics and places; one of each serves the
    whole cluster.
    """
    from w3ray import ray_internals

    ray_internals.get_or_create_autoscaling_coordinator()
    ray_internals.get_or_create_stats_actor()
    ray_internals.get_or_create_actor_location_tracker()


def disconnect() -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()
    while _set_here:  # the next cluster may be one of other machines
        os.environ.pop(_set_here.pop(), None)
    while _folders_made:
        remove_tree(Path(_folders_made.pop()))


def quiet() -> None:
    """Ray's own messages go to its log files; its usage report stays off unless the user chose otherwise.

    To be called before Ray is imported: it reads its environment then.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # Ray Train's controller looks so often what its workers report, and they wait for it at each checkpoint and
    # validation. Two seconds unless told otherwise; a look is one small call to each worker.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # A run has some ten helper processes (controller, coordinator, queue ...) that hold no CPU. Ray would start them no
    # faster than one a core, and warn that there are more than cores.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    logging.getLogger("ray").setLevel(logging.ERROR)


def _check_reachable(address: str) -> None:
    """Ray waits a minute for an address where nothing listens; one connection attempt tells at once."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--address {address}: not an address; write host:port, ray://host:port or auto")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({error}); start one with `ray start --head`"
        ) from error
    if not address.startswith("ray://"):
        _check_token(address)


def _check_token(address: str) -> None:
    """Ray tries for twenty seconds to join a cluster that wants a token, then says only that it failed.

    It shows its token unasked to the machine's own cluster (`auto`) alone: whom to trust with it is the user's choice.
    """
    from ray.exceptions import AuthenticationError, RayError

    from w3ray.ray_internals import GcsClient

    try:
        GcsClient(address=address)
    except AuthenticationError as error:
        raise InputError(
            f"--address {address}: this Ray cluster asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH "
            "where the token is not in ~/.ray/auth_token (or, on the cluster's own machine, use --address auto)"
        ) from error
    except (RayError, RuntimeError) as error:
        # Something listens there, but not Ray: `ray.init` would try once more for as long.
        raise InputError(f"--address {address}: no Ray cluster answers there ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""How is a served model started, and how does it end without a trace?"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from w3ray.data.clip import ClipSpec
from w3ray.data.views import parse_protocol
from w3ray.errors import InputError, RunError
from w3ray.models.bundle import ModelDescription, model_folder
from w3ray.plugins import shipment
from w3ray.scoring.model_files import description_of, model_files
from w3ray.scoring.question import require_views
from w3ray.serving.settings import MAX_WAITING, Settings
from w3ray.storage import is_remote

APPLICATION = "w3ray"
_NEEDED = ("fastapi", "grpc_reflection", "prometheus_client", "python_multipart", "starlette", "uvicorn")


def require_serve() -> None:
    """Raises: InputError if Ray Serve or what it needs is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f"w3ray serve needs {', '.join(missing)}: pip install 'w3ray[serve]'")


def require_videos_only(name: str, description: ModelDescription) -> None:
    """Raises: InputError if a model reads more than a video: a request has no place for it."""
    if needed := ClipSpec(**description.clip).side_inputs:
        raise InputError(
            f"{name}: needs {', '.join(needed)} with its videos, and a request has no place for that; use w3ray "
            f"predict --{' --'.join(needed)}"
        )


def check_local(settings: Settings) -> None:
    """Check what only a server on this machine can have: its port, and folders of this machine.

    Raises:
        InputError: the port is taken, or a root is not a folder.
    """
    for root in settings.roots:
        if not is_remote(root) and not os.path.isdir(root):
            raise InputError(f"--root {root}: no such folder")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise InputError(
                f"--port {settings.port}: cannot listen on {settings.host} ({error.strerror or error}); choose another"
            ) from error


def cpus_of_a_replica(nodes: Sequence[Mapping[str, float]], settings: Settings, *, is_own: bool) -> int:
    """The processors that each replica gets: its share of this machine; on another cluster one.

    Raises:
        InputError: the cluster has too few processors or GPUs for the replicas.
    """
    for kind, what in (("CPU", "processors"), ("GPU", "GPUs")):
        count = int(sum(node.get(kind, 0) for node in nodes))
        if (kind == "CPU" or settings.device == "cuda") and count < settings.replicas:
            raise InputError(f"--replicas {settings.replicas}: the cluster has {count} {what}; each replica needs one")
    total = int(sum(node.get("CPU", 0) for node in nodes))
    return total // settings.replicas if is_own else 1


@contextmanager
def served_model(name: str, folder: str, settings: Settings, *, is_own: bool) -> Iterator[None]:
    """Serve a model while the context lasts, on the Ray cluster that this process has joined.

    Args:
        name: of the model, as the user wrote it.
        folder: of the model, or of its stage.
        settings: see there.
        is_own: whether the cluster was started here, and ends afterwards. Then nothing but the server itself can
            listen beyond loopback.

    Raises:
        InputError: the model needs more than videos, or Ray Serve already runs on this cluster.
        RunError: the replicas do not start.
    """
    import ray
    from ray import serve

    from w3ray.serving.application import Application, Served
    from w3ray.serving.meter import Meter

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    files = model_files(model_folder(folder))
    description = description_of(files)
    protocol = parse_protocol(settings.protocol)
    require_videos_only(name, description)
    require_views(name, description, protocol)
    if serve.status().proxies:
        # Its host, port and time limits could not be changed, and it is not ours to end.
        raise InputError("Ray Serve already runs on this cluster; w3ray serve needs one without: use another cluster")
    meter = ray.remote(num_cpus=0)(Meter).remote()
    served = Served(
        name=name, files=files, protocol=protocol, settings=settings, plugins=shipment((), description.sources),
        on_loopback=is_own,
    )  # fmt: skip
    deployment = serve.deployment(
        Application, name="model", num_replicas=settings.replicas, max_ongoing_requests=settings.at_once,
        max_queued_requests=MAX_WAITING, graceful_shutdown_timeout_s=5.0,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": int(settings.device == "cuda")},
    )  # fmt: skip
    try:
        serve.start(
            proxy_location="HeadOnly",
            # Also counts the wait for a replica, which the replica itself cannot.
            http_options={"host": settings.host, "port": settings.port, "request_timeout_s": settings.timeout_s + 5},
            logging_config={"enable_access_log": False},
        )
        try:
            # In a list, because Ray Serve replaces references among the arguments by copies of their values.
            serve.run(deployment.bind([ray.put(served)], meter), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise RunError(f"the model cannot be served: {_last_line(error)}") from error
        yield
    finally:
        serve.delete(APPLICATION)  # lets requests that are being answered end
        if not is_own:
            serve.shutdown()


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()

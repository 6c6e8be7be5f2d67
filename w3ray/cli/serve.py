"""`w3ray serve`: answer questions about videos over HTTP."""

import threading
from dataclasses import replace
from typing import Annotated

import typer

from w3ray.cli._common import run_command
from w3ray.cli._console import write_error, write_out
from w3ray.cli._models import MODEL_HELP, TrackingOption, opened_models
from w3ray.cli._options import AddressOption, AverageOption


@run_command
def serve(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    port: Annotated[int, typer.Option(help="Port of the server.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on. There is no authentication.")] = "127.0.0.1",
    replicas: Annotated[int, typer.Option(help="Copies of the model, in processes of their own.")] = 1,
    batch: Annotated[int, typer.Option(help="Maximum number of videos that go through the network together.")] = 8,
    batch_wait_ms: Annotated[float, typer.Option(help="How long the first video of a batch waits for others.")] = 20,
    root: Annotated[
        list[str] | None, typer.Option(help="Requests may name videos below this folder. Can be repeated.")
    ] = None,
    max_mib: Annotated[float, typer.Option(help="Largest upload, MiB.")] = 200,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="What a request may take, with its upload.")] = 60,
    top: Annotated[int, typer.Option(help="Number of best classes in an answer.")] = 5,
    protocol: Annotated[str, typer.Option(help="Views of a video, as in `w3ray evaluate`.")] = "1clip-center",
    average: AverageOption = "scores",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda if there is a GPU.")] = None,
    address: AddressOption = None,
    tracking: TrackingOption = None,
) -> None:
    """Serve a model over HTTP with Ray Serve, until Ctrl-C or SIGTERM."""
    from w3ray.serving.settings import Settings
    from w3ray.serving.start import check_local, cpus_of_a_replica, require_serve, served_model

    require_serve()
    settings = Settings(
        host=host, port=port, replicas=replicas, batch=batch, batch_wait_ms=batch_wait_ms, roots=tuple(root or ()),
        max_mib=max_mib, timeout_s=timeout, top=top, protocol=protocol, average=average, device=device or "cpu",
    )  # fmt: skip
    from w3ray.cluster.connection import Connection

    connection = Connection(address, needs="ray.serve")
    if connection.address is None:
        check_local(settings)
    if not settings.is_private:
        write_error(f"warning: --host {host}: whoever reaches port {port} can use the model; there is no "
                    "authentication and no encryption")  # fmt: skip
    try:
        with opened_models([model], tracking) as (local,):
            nodes = connection.nodes()
            if device is None and any(node.get("GPU", 0) for node in nodes):
                settings = replace(settings, device="cuda")
            settings = replace(settings, cpus=cpus_of_a_replica(nodes, settings, is_own=connection.is_own))
            with served_model(model, local.folder, settings, is_own=connection.is_own):
                write_out(f"{model} at {settings.url}: POST /predict, GET /health, /model, /metrics; Ctrl-C ends it")
                _wait()
    finally:
        connection.close()
    write_out("stopped")


def _wait() -> None:
    """Returns at Ctrl-C or SIGTERM. For a server that is the usual end, not a failure."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return

"""Every socket of a local cluster and of its training workers listens only on loopback."""

import ipaddress
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def on_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def listening(process: psutil.Process) -> list[tuple[str, str]]:
    """(process, address) of each listening socket of a process and its descendants."""
    found = []
    for member in (process, *process.children(recursive=True)):
        try:
            name = " ".join(member.cmdline())
            found += [(name, at.laddr.ip) for at in member.net_connections("inet") if at.status == psutil.CONN_LISTEN]
        except psutil.NoSuchProcess:
            continue
    return found


def test_local_cluster() -> None:
    import ray

    ray.get(ray.remote(num_cpus=0)(lambda: os.getpid()).remote())  # a worker has its own ports
    found = listening(psutil.Process())
    names = " ".join(name for name, _ in found)
    assert all(part in names for part in ("gcs_server", "raylet", "DashboardAgent", "RuntimeEnvAgent")), names
    assert [(name, address) for name, address in found if not on_loopback(address)] == []


def test_the_environment_is_as_before() -> None:
    """A later connection to a cluster on other machines must not get settings for a single machine."""
    from ray._private import ray_constants

    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR not in os.environ
    assert ray_constants.ENABLE_RAY_CLUSTER


@pytest.mark.slow
def test_two_training_workers(tmp_path: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from w3ray.runtime.rendezvous import MeetingConfig

    def work(config: dict[str, Any]) -> None:
        import ray.train
        import torch
        import torch.distributed as dist

        total = torch.ones(1)
        dist.all_reduce(total)
        rank = ray.train.get_context().get_world_rank()
        sockets = psutil.Process().net_connections("inet")
        addresses = [at.laddr.ip for at in sockets if at.status == psutil.CONN_LISTEN]
        (Path(config["folder"]) / str(rank)).write_text(" ".join([str(int(total)), *addresses]))
        dist.barrier()

    trainer = DataParallelTrainer(
        work,
        train_loop_config={"folder": str(tmp_path)},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="meeting", storage_path=str(tmp_path / "runs")),
        backend_config=MeetingConfig(backend="gloo"),
    )
    with ThreadPoolExecutor(1) as another:  # in the main thread, Ray keeps the controller for its answer to Ctrl-C
        another.submit(trainer.fit).result()
    for rank in range(2):
        total, *addresses = (tmp_path / str(rank)).read_text().split()
        assert total == "2"
        # In each worker: Ray's own port and gloo's. In the first: the store's.
        assert len(addresses) >= (3 if rank == 0 else 2)
        assert [address for address in addresses if not on_loopback(address)] == []


def test_a_stranger_without_the_token_is_sent_away() -> None:
    """Other users of the machine can reach loopback, too. The cluster asks them for a token."""
    import ray
    from ray._raylet import GcsClient

    address = ray.get_runtime_context().gcs_address
    GcsClient(address=address)  # with the token
    token = Path.home() / ".ray" / "auth_token"
    assert not token.exists() or token.stat().st_mode & 0o077 == 0, "only its owner can read the token"
    code = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(
        [sys.executable, "-c", code, address], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "AuthenticationError" in done.stderr

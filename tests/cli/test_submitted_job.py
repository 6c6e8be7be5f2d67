"""`ray job submit -- w3ray run ...` on a running cluster: logs, stop, and the same job again."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from patience import wait_until, wait_while_alive

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

BIN = Path(sys.executable).parent
REPO = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def jobs() -> Iterator[dict[str, str]]:
    """The environment for `ray job`: a real head with two CPUs that asks for a token."""
    port, dashboard = free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, because it holds sockets
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0" * 64,
        "RAY_worker_niceness": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",  # as in cluster/; the default is three seconds
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    command = [BIN / "ray", "start", "--head", "--block", f"--port={port}", f"--temp-dir={folder}", "--num-cpus=2"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    # Ports that another Ray on this machine could use.
    command += [f"--{name}={free_port()}" for name in ("ray-client-server-port", "dashboard-agent-listen-port")]
    command += [f"--metrics-export-port={free_port()}", "--disable-usage-stats"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
        try:
            wait_while_alive(
                head, lambda: ray_job(environment, "list").returncode == 0, every_s=1, what="the job server answers"
            )
            yield environment
        finally:  # leaving the block waits for the process, even if it never answered
            head.terminate()
            head.wait(120)
    shutil.rmtree(folder, ignore_errors=True)


def ray_job(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [BIN / "ray", "job", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )


def statuses(folder: Path) -> list[tuple[str, str]]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return sorted((run.info.run_name, run.info.status) for run in runs)


def test_stopped_job_ends_killed_and_the_same_job_goes_on(jobs, motion_manifest, tmp_path):
    recipe = {
        "name": "tiny",
        "storage": str(tmp_path / "runs"),
        "data": {"manifest": str(motion_manifest), "num_frames": 4, "size": 32, "test_split": "test"},
        "model": {"backbone": "resnet_small"},
        "train": {"epochs": 30, "batch_size": 8, "microbatch_size": 4, "checkpoint_every_steps": 2},
        "stages": [{"name": "teacher"}],
        "evaluation": {"split": "test"},
        "resources": {"workers": 1},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    # No --address: a job runs on the cluster to which it was submitted.
    entrypoint = ("w3ray", "run", str(tmp_path / "tiny.yaml"))
    submitted = ray_job(jobs, "submit", "--submission-id=first", "--no-wait", "--", *entrypoint)
    assert submitted.returncode == 0, submitted.stdout

    def has_checkpoint() -> bool:
        if list((tmp_path / "runs").glob("stages/*/checkpoints/step_*/checkpoint.json")):
            return True
        assert "RUNNING" in ray_job(jobs, "status", "first").stdout, ray_job(jobs, "logs", "first").stdout
        return False

    wait_until(has_checkpoint, what=lambda: ray_job(jobs, "logs", "first").stdout)
    stopped = ray_job(jobs, "stop", "first")  # waits for the end
    logs = ray_job(jobs, "logs", "first").stdout
    assert "stopped" in stopped.stdout, stopped.stdout + logs
    assert "error: interrupted; run the same command again to resume" in logs
    assert statuses(tmp_path) == [("teacher", "KILLED"), ("tiny", "KILLED")]

    again = ray_job(jobs, "submit", "--submission-id=second", "--", *entrypoint)  # follows the log to the end
    assert again.returncode == 0, again.stdout
    assert "teacher: resumes at step" in again.stdout, again.stdout
    assert statuses(tmp_path) == [("teacher", "FINISHED"), ("tiny", "FINISHED")]

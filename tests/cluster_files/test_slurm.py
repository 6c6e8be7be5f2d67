"""The batch script in a real Slurm on one machine: a run, its notice, and the same job queued again.

Needs Debian's slurm-wlm and munge, and root, as slurmd does: `apt-get install slurm-wlm munge`.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from patience import PATIENCE_S, wait_until

REPO = Path(__file__).resolve().parents[2]
SCRIPT = REPO / "cluster" / "slurm.sbatch"
BIN = Path(sys.executable).parent
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, found, *logs: Path, limit_s: float = PATIENCE_S) -> None:
    def said() -> str:
        return what + "".join(f"\n--- {log}\n{log.read_text()[-3000:]}" for log in logs if log.exists())

    wait_until(found, every_s=0.5, what=said, limit_s=limit_s)


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment for `sbatch`: a Slurm on this machine with two CPUs."""
    missing = [name for name in DAEMONS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("slurmd must be started by root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(
        f"""
ClusterName=w3ray
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
MinJobAge=3600
OverTimeLimit=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RAY_"))},
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin",
        "PYTHONPATH": str(REPO),
    }
    munged = {name: f"{folder}/munge.{name}" for name in ("socket", "pid", "seed", "log")}
    options = [f"--{name if name == 'socket' else name + '-file'}={path}" for name, path in munged.items()]
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", *options],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", host],
    ]
    running = []
    with (folder / "daemons.log").open("w") as log:
        try:
            for command in commands:
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                time.sleep(1)
            wait_for(
                "an idle node",
                lambda: (
                    "idle"
                    in subprocess.run(["sinfo", "-h", "-o%t"], env=environment, capture_output=True, text=True).stdout
                ),
                *sorted(folder.glob("*.log")),
            )
            yield environment
        finally:
            # A daemon with a job waits for the job.
            subprocess.run(["scancel", "--user=root"], env=environment, timeout=PATIENCE_S, check=False)
            time.sleep(2)
            for process in reversed(running):
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def sbatch(environment: dict[str, str], folder: Path, *words: str) -> str:
    command = ["sbatch", "--parsable", "--cpus-per-task=2", *words]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state(environment: dict[str, str], job: str) -> str:
    shown = subprocess.run(["scontrol", "show", "job", job], env=environment, capture_output=True, text=True).stdout
    found = re.search(r"JobState=(\w+)", shown)
    return found.group(1) if found else shown


def statuses(folder: Path) -> list[tuple[str, str]]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return sorted((run.info.run_name, run.info.status) for run in runs)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_a_job_with_notice_is_queued_again_and_goes_on(slurm, motion_manifest, tmp_path):
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
    job = sbatch(slurm, tmp_path, str(SCRIPT), "tiny.yaml")
    log = tmp_path / f"w3ray-{job}.log"
    logs = (log, tmp_path / f"w3ray-{job}-head.log")
    wait_for(
        "a checkpoint",
        lambda: (
            state(slurm, job) in ("PENDING", "RUNNING")
            and list((tmp_path / "runs").glob("stages/*/checkpoints/step_*/checkpoint.json"))
        ),
        *logs,
    )
    # --signal=B:USR1 and a preemption with notice send this signal only to the batch script.
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=slurm, check=True)
    wait_for("the notice's end", lambda: "queued again" in log.read_text(), *logs)
    assert "error: interrupted" in log.read_text()
    assert statuses(tmp_path) == [("teacher", "KILLED"), ("tiny", "KILLED")]
    assert not list(tmp_path.glob(".w3ray-token-*"))
    # Slurm delays a requeued job (here by two minutes). Skip the delay.
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=slurm, check=False)
    ends = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")
    wait_for("the job's end", lambda: state(slurm, job) in ends, *logs, limit_s=600)
    text = log.read_text()
    assert state(slurm, job) == "COMPLETED", text
    assert "try 2:" in text
    assert "teacher: resumes at step" in text, text
    assert statuses(tmp_path) == [("teacher", "FINISHED"), ("tiny", "FINISHED")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wrong_recipe_ends_the_job_with_its_exit_code(slurm, tmp_path):
    job = sbatch(slurm, tmp_path, str(SCRIPT), "no-such-recipe")
    log = tmp_path / f"w3ray-{job}.log"
    wait_for("the job's end", lambda: state(slurm, job) in ("COMPLETED", "FAILED"), log)
    shown = subprocess.run(["scontrol", "show", "job", job], env=slurm, capture_output=True, text=True).stdout
    assert "ExitCode=2:0" in shown
    assert "error:" in log.read_text()

"""`w3ray run` as a process: Ctrl-C, SIGTERM, kill -9, and the same command again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from patience import PATIENCE_S, wait_while_alive

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def command(motion_manifest, tmp_path):
    recipe = {
        "name": "tiny",
        "storage": str(tmp_path / "runs"),
        "data": {"manifest": str(motion_manifest), "num_frames": 4, "size": 32, "test_split": "test"},
        "model": {"backbone": "resnet_small"},
        "train": {"epochs": 12, "batch_size": 8, "microbatch_size": 4, "checkpoint_every_steps": 2},
        "stages": [{"name": "teacher"}],
        "evaluation": {"split": "test"},
        "resources": {"workers": 1},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return [str(Path(sys.executable).with_name("w3ray")), "run", str(path), "--json"]


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Enable Ctrl-C: a shell starts background jobs with Ctrl-C ignored, and their children inherit this."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(command, tmp_path):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=(tmp_path / "err").open("a"), text=True)


def wait_for_checkpoint(tmp_path, process):
    def found():
        return list((tmp_path / "runs").glob("stages/*/checkpoints/step_*/checkpoint.json"))

    wait_while_alive(process, found, every_s=0.2, what=(tmp_path / "err").read_text)


def statuses(tmp_path):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return sorted((run.info.run_name, run.info.status) for run in runs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stopped_run_ends_killed_and_the_same_command_goes_on(command, tmp_path, number):
    process = start(command, tmp_path)
    wait_for_checkpoint(tmp_path, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, (tmp_path / "err").read_text()
    document = json.loads(output)
    assert (document["exit_code"], document["error"]["kind"]) == (130, "interrupted")
    assert statuses(tmp_path) == [("teacher", "KILLED"), ("tiny", "KILLED")]
    again = start(command, tmp_path)
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, (tmp_path / "err").read_text()
    assert json.loads(output)["stages"][0]["state"] == "resume"
    assert statuses(tmp_path) == [("teacher", "FINISHED"), ("tiny", "FINISHED")]


def test_kill_9_of_the_driver_leaves_a_run_that_goes_on(command, tmp_path):
    process = start(command, tmp_path)
    wait_for_checkpoint(tmp_path, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    again = start(command, tmp_path)
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, (tmp_path / "err").read_text()
    assert json.loads(output)["stages"][0]["state"] == "resume"
    assert statuses(tmp_path) == [("teacher", "FINISHED"), ("tiny", "FINISHED")]

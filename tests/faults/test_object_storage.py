"""The whole chain on object storage. Each run is the real command, in its own process and with its own Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import yaml
from fault_harness import Outcome, note, recovery_s
from patience import wait_until
from s3_server import S3Server

from w3ray.data.manifest import read_manifest
from w3ray.storage import RemotePath, fetched
from w3ray.training.checkpoint_files import newest_valid_checkpoint, verify_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

COMMAND = [sys.executable, "-c", "import sys; from w3ray.cli import main; sys.exit(main())", "run"]
TEACHER = "teacher-"
INTERVAL = 3
"""Steps between checkpoints: the steps of an epoch."""


@pytest.fixture(scope="module")
def files(s3, motion_manifest) -> str:
    """The motion set in the bucket. Returns the uri of its manifest."""
    folder = motion_manifest.parent
    for path in folder.rglob("*"):
        if path.is_file():
            (RemotePath("s3://bucket/set") / path.relative_to(folder).as_posix()).upload(path)
    return "s3://bucket/set/manifest.parquet"


class Runs:
    """Runs of one recipe, each with its own storage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = folder / "tiny.yaml"
        values = {
            "name": "tiny",
            "data": {"manifest": "set by each run", "num_frames": 4, "size": 32, "test_split": "test"},
            "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
            "train": {"epochs": 2, "batch_size": 8, "microbatch_size": 3, "lr": 0.05, "log_samples": True},
            "stages": [{"name": "teacher"}, {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.5}}],
            "evaluation": {"split": "test"},
        }
        self.recipe.write_text(yaml.safe_dump(values))

    def start(self, storage: str, manifest: str, *changes: str, deadline_s: float = 60) -> "subprocess.Popen[str]":
        settings = [f"storage={storage}", f"data.manifest={manifest}", *changes]
        options = [option for setting in settings for option in ("--set", setting)]
        environment = {**os.environ, "W3RAY_STORAGE_DEADLINE_S": str(deadline_s)}
        return subprocess.Popen(
            [*COMMAND, str(self.recipe), "--json", *options],
            cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, process: "subprocess.Popen[str]") -> tuple[int, dict, str]:
        """Exit code, document and standard error."""
        out, err = process.communicate(timeout=580)
        return process.returncode, json.loads(out), err

    def run(self, *arguments: str, **options: float) -> tuple[int, dict, str]:
        return self.finish(self.start(*arguments, **options))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def undisturbed(runs, motion_manifest, tmp_path_factory) -> Outcome:
    """The outcome of a run on a local disk."""
    storage = tmp_path_factory.mktemp("local")
    code, _, err = runs.run(str(storage), str(motion_manifest), "tracking.enabled=false")
    assert code == 0, err
    return Outcome(storage)


def stage_folder(storage: str, prefix: str = TEACHER) -> RemotePath:
    (found,) = [path for path in (RemotePath(storage) / "stages").iterdir() if path.name.startswith(prefix)]
    return found


def test_a_storage_that_dies_and_one_that_stutters(s3: S3Server, files, runs, undisturbed):
    """It dies during the second checkpoint: the run ends with one line. The same command resumes, despite faults."""
    storage = "s3://bucket/dies"
    s3.fail("dies/.*/step_00000006/", "503", method="PUT|POST")
    code, result, err = runs.run(storage, files, deadline_s=5)
    assert code == 1, (err, s3.requests(key="step_0"))
    line = result["error"]["message"]
    assert "\n" not in line
    assert "checkpoints/step_00000006/" in line
    assert "writing failed" in line
    s3.heal()
    checkpoints = stage_folder(storage) / "checkpoints"
    newest = newest_valid_checkpoint(checkpoints)
    assert newest is not None
    assert newest.name == "step_00000003"
    assert not (checkpoints / "step_00000006" / "checkpoint.json").exists()

    s3.forget()
    s3.fail("bucket", "500", every=6)
    s3.fail("bucket", "cut", every=31)
    s3.fail("mp4", "stall", times=1, method="GET")
    code, result, err = runs.run(storage, files)
    s3.heal()
    assert code == 0, err
    assert {stage["name"]: stage["state"] for stage in result["stages"]} == {"teacher": "resume", "student": "run"}
    cost = Outcome(RemotePath(storage)).cost(
        "object storage dies during a checkpoint (then the same command, among 500s, cut connections and a stall)",
        undisturbed,
        None,
    )
    note(cost)
    assert (cost.lost, cost.doubled, cost.identical) == (0, 0, True)
    assert cost.steps_again <= INTERVAL
    assert not (stage_folder(storage) / "failures.jsonl").exists(), "a failing store is not an unreadable clip"
    # Everything is in the storage, and nowhere else.
    found = {info.path for info in everything(storage)}
    for prefix in (TEACHER, "student-"):
        folder = stage_folder(storage, prefix).path
        names = ("stage.json", "result.json", "model/model.json", "report/confusion.png")
        assert {f"{folder}/{name}" for name in names} <= found
        assert not [path for path in found if path.startswith(f"{folder}/lock/")], "the lock was released"
    assert [path for path in found if "/mlartifacts/tiny/models/" in path and path.endswith("model.safetensors")]
    items = [json.loads(line)["item"] for line in samples(stage_folder(storage, "student-"))]
    assert len(items) == len(set(items)) > 0
    assert not (runs.folder / "runs" / "stages").exists()

    s3.forget()
    code, again, err = runs.run(storage, files)
    assert code == 0, err
    assert [stage["state"] for stage in again["stages"]] == ["reuse", "reuse"]
    assert s3.requests("GET", "mp4") == []


def everything(storage: str) -> list[pafs.FileInfo]:
    root = RemotePath(storage)
    return list(root.filesystem.get_file_info(pafs.FileSelector(root.path, recursive=True, allow_not_found=True)))


def samples(folder: RemotePath) -> list[str]:
    return [
        line for path in folder.iterdir() if path.name.startswith("samples-") for line in path.read_text().splitlines()
    ]


ONE_STAGE = ("stages=[{name: teacher}]", "tracking.enabled=false")


def test_killed_then_two_at_once(s3: S3Server, files, runs, undisturbed):
    """The lease of the killed run expires. Of two new runs, one works, and the other waits and reuses."""
    storage = "s3://bucket/killed"
    first = runs.start(storage, files, *ONE_STAGE)
    wait_until(
        lambda: [info for info in everything(storage) if info.path.endswith("step_00000003/checkpoint.json")],
        every_s=0.1,
        what="the first checkpoint",
    )
    struck_at_s = time.time()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    both = [runs.start(storage, files, *ONE_STAGE) for _ in range(2)]
    finished = [runs.finish(process) for process in both]
    assert [code for code, _, _ in finished] == [0, 0], [err for _, _, err in finished]
    outcome = Outcome(RemotePath(storage))
    seconds = recovery_s(outcome.folders["teacher"], struck_at_s)
    cost = outcome.cost("kill -9: driver, all on object storage (then two commands at once)", undisturbed, seconds)
    note(cost)
    assert (cost.lost, cost.doubled, cost.identical) == (0, 0, True)
    assert cost.steps_again <= INTERVAL
    assert sorted(result["stages"][0]["state"] for _, result, _ in finished) == ["resume", "reuse"]
    for _, _, err in finished:
        assert "another run works on teacher-" in err


def test_a_truncated_newest_checkpoint_falls_back_one_and_says_so(s3: S3Server, files, runs, undisturbed):
    storage = "s3://bucket/truncated"
    code, result, err = runs.run(storage, files, *ONE_STAGE)
    assert code == 0, err
    folder = stage_folder(storage)
    (folder / "result.json").unlink()
    damaged = folder / "checkpoints" / "step_00000006" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with fetched(folder / "checkpoints" / "step_00000003") as copy:
        verify_checkpoint(copy)
    code, result, err = runs.run(storage, files, *ONE_STAGE)
    assert code == 0, err
    assert "step_00000006 is damaged, resuming from the checkpoint before it" in err
    assert result["stages"][0]["state"] == "resume"
    cost = Outcome(RemotePath(storage)).cost("the newest checkpoint is truncated", undisturbed, None)
    note(cost)
    assert (cost.steps_again, cost.lost, cost.doubled, cost.identical) == (INTERVAL, 0, 0, True)


def test_a_slow_store_delays_a_checkpoint_and_nothing_else(s3: S3Server, files, runs, undisturbed):
    storage = "s3://bucket/slow"
    s3.fail("slow/.*/checkpoints/", "slow", method="PUT|POST")
    code, _, err = runs.run(storage, files, *ONE_STAGE)
    s3.heal()
    assert code == 0, err
    cost = Outcome(RemotePath(storage)).cost(
        "object storage three seconds late at each request of a checkpoint", undisturbed, None
    )
    note(cost)
    assert (cost.steps_again, cost.lost, cost.doubled, cost.identical) == (0, 0, 0, True)


def test_two_workers_on_object_storage(s3: S3Server, files, runs, undisturbed):
    storage = "s3://bucket/pair"
    code, _, err = runs.run(storage, files, *ONE_STAGE, "resources.workers=2")
    assert code == 0, err
    outcome = Outcome(RemotePath(storage))
    assert outcome.samples["teacher"] == undisturbed.samples["teacher"]
    logs = [path.name for path in outcome.folders["teacher"].iterdir() if path.name.startswith("samples-")]
    assert {name.split("-")[1] for name in logs} == {"0", "1"}, "both took part"


def test_a_store_that_fails_in_the_middle_ends_the_stage_and_leaves_no_clip_out(s3: S3Server, files, runs):
    storage = "s3://bucket/videos"
    s3.fail("set/.*mp4", "503", method="GET", after=20)
    code, result, _ = runs.run(storage, files, *ONE_STAGE, deadline_s=3)
    s3.heal()
    assert code == 1
    assert "mp4: reading failed" in result["error"]["message"]
    assert "\n" not in result["error"]["message"]
    assert not (stage_folder(storage) / "failures.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["storage=s3://absent/runs"], "storage s3://absent/runs: cannot be written"),
        (["data.manifest=s3://bucket/absent.parquet"], "manifest s3://bucket/absent.parquet: no such file"),
    ],
)
def test_bad_addresses_are_one_line(s3, files, runs, changes, message):
    code, result, _ = runs.run("s3://bucket/bad", files, *changes)
    assert code == 2
    assert message in result["error"]["message"]
    assert "\n" not in result["error"]["message"]


def test_the_number_of_clips_is_what_the_manifest_says(files, motion_manifest):
    assert read_manifest(files).fingerprint() == read_manifest(motion_manifest).fingerprint()

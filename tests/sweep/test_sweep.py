"""Whole sweeps with the real command: teachers trained once, killed and resumed, stopped, failing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml
from patience import wait_until

from w3ray._digest import digest_of
from w3ray.data.sample_log import read_lines
from w3ray.data.shared_clips import default_root
from w3ray.recipe import load_recipe
from w3ray.sweep.records import SweepFolder
from w3ray.sweep.space import load_space, recipe_at

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

COMMAND = [sys.executable, "-c", "import sys; from w3ray.cli import main; sys.exit(main())", "tune"]
MFR = "stages.student.loss_weights.mfr"
RUN_S = 1200
STEPS = 6
"""Of each stage: two epochs of three steps."""


class Sweeps:
    """Sweeps of one recipe in one folder."""

    def __init__(self, folder: Path, manifest: Path, **train) -> None:
        self.folder, self.storage = folder, folder / "runs"
        recipe = {
            "name": "tiny",
            "storage": str(self.storage),
            "data": {"manifest": str(manifest), "num_frames": 4, "size": 32, "test_split": "test"},
            "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
            "train": {"epochs": 2, "batch_size": 8, "microbatch_size": 8, "lr": 0.05, "log_samples": True, **train},
            "stages": [{"name": "teacher"}, {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.5}}],
            "evaluation": {"split": "test"},
        }
        self.recipe = folder / "tiny.yaml"
        self.recipe.write_text(yaml.safe_dump(recipe))

    def space(self, name: str, parameters: dict, **more) -> str:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"parameters": parameters, "search": {"searcher": "grid"}, **more}))
        return str(path)

    def start(self, space: str, *options: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*COMMAND, space, "--pipeline", str(self.recipe), "--json", *options],
            cwd=self.folder, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, space: str, *options: str, code: int = 0, **environment: str) -> dict:
        process = self.start(space, *options, **environment)
        out, err = process.communicate(timeout=RUN_S)
        assert process.returncode == code, err[-4000:]
        return json.loads(out)

    def trials(self, name: str) -> dict:
        return {trial.id: trial for trial in SweepFolder(str(self.storage), name).trials()}

    def teachers(self) -> list[Path]:
        return sorted(self.storage.glob("stages/teacher-*"))

    def steps_trained(self, stage: str) -> int:
        """Optimiser steps that were really done, from the workers' own logs."""
        lines = [line for folder in self.storage.glob(f"stages/{stage}-*") for line in read_lines(folder)]
        return sum(line["kind"] == "train" and line["slot"] == 0 for line in lines)


@pytest.fixture
def sweeps(motion_manifest, tmp_path) -> Sweeps:
    return Sweeps(tmp_path, motion_manifest)


def values(document: dict) -> dict[int, float]:
    return {point["number"]: point["values"][0] for point in document["points"] if point["values"]}


def test_one_teacher_for_all_students_and_the_lineage_in_mlflow(sweeps):
    space = sweeps.space("mfr", {MFR: {"choice": [0.0, 0.1, 0.3, 1.0]}})
    best = sweeps.folder / "best.yaml"
    document = sweeps.run(space, "--write-best", str(best))
    assert [trial.state for trial in sweeps.trials("mfr").values()] == ["finished"] * 4
    assert len(sweeps.teachers()) == 1
    assert (sweeps.steps_trained("teacher"), sweeps.steps_trained("student")) == (STEPS, 4 * STEPS)
    states = [stage.state for trial in sweeps.trials("mfr").values() for stage in trial.stages]
    assert (states.count("run"), states.count("reuse")) == (5, 3)
    clips = default_root() / digest_of({"sweep": "mfr", "directory": document["directory"]})
    assert not clips.exists(), "the clips that trials shared are removed at the end"

    client = mlflow.MlflowClient(document["tracking"]["uri"])
    (experiment,) = [one for one in client.search_experiments() if one.name == "tiny"]
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    children: dict = {}
    for run_id, run in runs.items():
        children.setdefault(run.data.tags.get("mlflow.parentRunId"), []).append(run_id)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    (top,) = children[None]
    assert top == document["tracking"]["run"]
    trials = [runs[run_id] for run_id in children[top]]
    assert sorted(run.info.run_name for run in trials) == [f"mfr {number:04d}" for number in range(4)]
    assert {run.data.params["sweep.mfr"] for run in trials} == {"0", "0.1", "0.3", "1"}
    assert all("best/top1" in run.data.metrics for run in trials), "the plots on MLflow's pages need it"
    stages = [runs[run_id].info.run_name for trial in trials for run_id in children[trial.info.run_id]]
    assert sorted(stages) == ["student"] * 4 + ["teacher"]
    (teacher,) = [run for run in runs.values() if run.info.run_name == "teacher"]
    links = [run.data.tags.get("w3ray.reused.teacher") for run in trials]
    assert sorted(filter(None, links)) == [teacher.info.run_id] * 3
    version = client.get_model_version_by_alias("tiny", "best")
    assert str(version.version) == document["model"]["version"] == "1"

    again = sweeps.run(space)
    assert values(again) == values(document)
    assert sweeps.steps_trained("student") == 4 * STEPS, "nothing is trained twice"
    assert again["tracking"]["run"] == top, "one run per sweep"
    plain = subprocess.run(
        [*COMMAND[:-1], "run", str(best), "--json"], cwd=sweeps.folder, capture_output=True, text=True, timeout=RUN_S
    )
    assert plain.returncode == 0, plain.stderr
    assert [stage["state"] for stage in json.loads(plain.stdout)["stages"]] == ["reuse", "reuse"]

    # Trained by separate workers instead of in the trial's process: the same bits.
    plain = subprocess.run(
        [*COMMAND[:-1], "run", str(best), "--set", f"storage={sweeps.folder / 'plain'}", "--json"],
        cwd=sweeps.folder, capture_output=True, text=True, timeout=RUN_S,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    for stage in json.loads(plain.stdout)["stages"]:
        (mine,) = sweeps.storage.glob(f"stages/{stage['name']}-{stage['identity'][:8]}*/model/model.safetensors")
        theirs = Path(stage["model"]) / "model.safetensors"
        assert mine.read_bytes() == theirs.read_bytes(), stage["name"]
        assert mine != theirs


def wait_for(process: "subprocess.Popen[str]", condition) -> None:
    def found() -> bool:
        if condition():
            return True
        assert process.poll() is None, process.communicate()
        return False

    wait_until(found, limit_s=RUN_S)


def end_group(process: "subprocess.Popen[str]") -> None:
    for one in psutil.Process(process.pid).children(recursive=True):
        one.kill()


def test_the_driver_is_killed_and_the_same_command_goes_on(sweeps, motion_manifest, tmp_path):
    parameters = {MFR: {"choice": [0.0, 0.3, 1.0]}}
    (tmp_path / "other").mkdir()
    undisturbed = Sweeps(tmp_path / "other", motion_manifest)
    expected = values(undisturbed.run(undisturbed.space("mfr", parameters)))

    space = sweeps.space("mfr", parameters)
    first = sweeps.start(space)

    def in_the_middle() -> bool:
        return any(trial.state == "finished" for trial in sweeps.trials("mfr").values())

    wait_for(first, in_the_middle)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    finished = {name for name, trial in sweeps.trials("mfr").items() if trial.state == "finished"}
    before = {name: trial.order for name, trial in sweeps.trials("mfr").items() if name in finished}
    document = sweeps.run(space)
    assert values(document) == expected
    assert {name: sweeps.trials("mfr")[name].order for name in finished} == before, "finished trials are not repeated"
    assert len(sweeps.teachers()) == 1
    client = mlflow.MlflowClient(document["tracking"]["uri"])
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    assert sum(run.info.run_name == "mfr 0000" for run in runs) == 1, "no duplicate run"


def test_a_trial_that_trains_the_teacher_is_killed_and_another_one_takes_over(motion_manifest, tmp_path):
    sweeps = Sweeps(tmp_path, motion_manifest, epochs=12, checkpoint_every_epochs=1)
    space = sweeps.space("mfr", {MFR: {"choice": [0.0, 0.3]}})
    process = sweeps.start(space)

    def trainer():
        """The trial's process that holds the teacher's lock."""
        for folder in sweeps.teachers():
            for path in folder.glob("checkpoints/step_*/checkpoint.json"):
                del path
                for one in psutil.Process(process.pid).children(recursive=True):
                    try:
                        if any(file.path == str(folder / "lock") for file in one.open_files()):
                            return one
                    except psutil.Error:
                        continue
        return None

    holders = []
    wait_for(process, lambda: holders.append(trainer()) or holders[-1] is not None)
    holders[-1].kill()
    out, err = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, err[-4000:]
    document = json.loads(out)
    assert [point["state"] for point in document["points"]] == ["finished", "finished"]
    assert len(sweeps.teachers()) == 1
    assert sweeps.steps_trained("teacher") < 2 * 36, "it did not train again from the start"


def test_asha_stops_trials_and_their_slots_go_on(motion_manifest, tmp_path):
    sweeps = Sweeps(tmp_path, motion_manifest, epochs=9)
    space = sweeps.space(
        "rates",
        {
            "stages.student.train.lr": {"choice": [0.01, 5.0, 6.0, 7.0, 8.0, 9.0]}
        },  # all except the first are far too high
        objective={"metric": "loss"},
        scheduling={"scheduler": "asha", "grace_epochs": 1, "reduction_factor": 2},
    )
    document = sweeps.run(space)
    trials = sweeps.trials("rates")
    states = [trial.state for trial in trials.values()]
    assert set(states) == {"finished", "stopped"}
    assert states.count("stopped") >= 2
    stopped = next(trial for trial in trials.values() if trial.state == "stopped")
    assert "stopped by asha after" in stopped.reason
    assert sum(stage.steps for stage in stopped.stages if stage.name == "student") < 27
    assert document["points"][0]["state"] == "finished"
    client = mlflow.MlflowClient(document["tracking"]["uri"])
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}, "no run stays RUNNING"


@pytest.mark.parametrize(("cpus", "concurrency"), [(1, 1), (2, 8)])
def test_no_wedge_on_a_tight_cluster(sweeps, cpus, concurrency):
    """One trial on the smallest cluster for it, and eight concurrent trials on two CPUs."""
    space = sweeps.space("tight", {MFR: {"choice": [round(0.1 * i, 1) for i in range(max(2, concurrency))]}})
    script = (
        "import json, sys; from w3ray.cluster.connect import connect; from w3ray.sweep import tune, load_space; "
        f"connect(None, num_cpus={cpus}); "
        f"space = load_space(sys.argv[1]).model_copy(update={{'concurrency': {concurrency}}}); "
        "print(json.dumps([point.state for point in tune(space, sys.argv[2]).points]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, space, str(sweeps.recipe)],
        cwd=sweeps.folder, capture_output=True, text=True, timeout=RUN_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert set(json.loads(done.stdout.splitlines()[-1])) == {"finished"}
    assert len(sweeps.teachers()) == 1
    assert sweeps.steps_trained("teacher") == STEPS


def test_a_trial_that_fails_is_recorded_and_the_sweep_goes_on(sweeps):
    space = sweeps.space(
        "odd", {"data.test_split": {"choice": ["test", "absent", "test"]}, MFR: {"choice": [0.5]}},
    )  # fmt: skip
    document = sweeps.run(space)
    states = {point["point"]["data.test_split"]: point["trials"][0] for point in document["points"]}
    assert states["test"]["state"] == "finished"
    assert states["absent"]["state"] == "failed"
    assert "absent" in states["absent"]["reason"]


def test_every_trial_failing_ends_it_early_with_the_common_reason(sweeps):
    space = sweeps.space("bad", {"data.test_split": {"choice": [f"absent{number}" for number in range(9)]}})
    document = sweeps.run(space, code=1)
    assert "trials failed, more than budget.max_failed_share=0.5 allows; most often: " in document["error"]["message"]
    ended = [trial for trial in sweeps.trials("bad").values() if trial.state == "failed"]
    assert 3 <= len(ended) < 9


def test_ctrl_c_twice_leaves_a_sweep_that_goes_on(sweeps):
    space = sweeps.space("mfr", {MFR: {"choice": [0.0, 0.3]}})
    process = sweeps.start(space)
    wait_for(process, lambda: sweeps.steps_trained("teacher") >= 3)
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err[-4000:]
    assert json.loads(out)["error"]["kind"] == "interrupted"
    assert not [one for one in psutil.process_iter() if str(sweeps.folder) in " ".join(_words(one))]
    document = sweeps.run(space)
    assert [point["state"] for point in document["points"]] == ["finished", "finished"]
    assert sweeps.steps_trained("teacher") < 2 * STEPS


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_population_trains_one_history_and_its_best_recipe_comes_to_the_same_bits(sweeps):
    """Also after it was killed in the middle and resumed."""
    space = sweeps.space(
        "population",
        {"stages.student.train.lr": {"loguniform": [0.005, 0.5]}},
        search={"trials": 3, "seed": 1},
        scheduling={"scheduler": "pbt", "interval_epochs": 1, "quantile": 0.34},
        fixed={"train.epochs": 4},
    )
    process = sweeps.start(space)
    wait_for(process, lambda: sum(trial.state == "stopped" for trial in sweeps.trials("population").values()) >= 4)
    end_group(process)
    process.kill()
    process.communicate()
    sweeps.run(space)

    trials = sweeps.trials("population")
    assert [trial.state for trial in trials.values()] == ["stopped"] * 9 + ["finished"] * 3
    assert all(trial.reports[-1].epoch == 1 + trial.number // 3 for trial in trials.values())
    changed = [trial for trial in trials.values() if trial.point.get("stages.student.train.phases")]
    assert changed[-1].state == "finished", "in each generation, one member starts from another member's weights"
    # Each member trains its own epoch of each generation, whatever weights it starts from. After the kill, each running
    # trial repeats at most one epoch.
    steps = 3
    assert len(sweeps.teachers()) == 1
    assert 12 * steps <= sweeps.steps_trained("student") <= (12 + 2) * steps

    recipe = recipe_at(load_space(space), load_recipe(sweeps.recipe), changed[-1].point)
    path = sweeps.folder / "changed.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    plain = subprocess.run(
        [*COMMAND[:-1], "run", str(path), "--set", f"storage={sweeps.folder / 'plain'}", "--json"],
        cwd=sweeps.folder, capture_output=True, text=True, timeout=RUN_S,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    theirs = Path(json.loads(plain.stdout)["stages"][1]["model"]) / "model.safetensors"
    assert theirs.read_bytes() == (Path(changed[-1].model) / "model.safetensors").read_bytes()

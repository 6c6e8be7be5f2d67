"""A sweep survives the death of a node of its cluster, and of its tracking server."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml
from fault_harness import WITH_STUDENT, WORKER, at_step, expected_history, faulty_recipe, processes
from patience import wait_while_alive
from small_cluster import SmallCluster
from tracking_server import Server

from w3ray.data.sample_log import read_samples, steps_done_again
from w3ray.sweep.records import SweepFolder
from w3ray.sweep.space import load_space, recipe_at
from w3ray.tracking import Tracker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

MFR = "stages.student.loss_weights.mfr"
_RUN_S = 1200


class StruckSweep:
    """`w3ray tune` over given MFR weights, in its own process."""

    def __init__(self, recipe, folder: Path, values: list[float], *options: str, env=None) -> None:
        self.recipe, self.storage, self.log = recipe, Path(recipe.storage), folder / "sweep.log"
        path, self.space = folder / "struck.yaml", folder / "space.yaml"
        path.write_text(recipe.model_dump_json())  # JSON is YAML
        space = {"name": "struck", "parameters": {MFR: {"choice": values}}, "search": {"searcher": "grid"}}
        self.space.write_text(yaml.safe_dump(space))
        command = [str(Path(sys.executable).with_name("w3ray")), "tune", str(self.space), "--pipeline", str(path)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--json", *options], env=env, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def wait_until(self, condition) -> None:
        wait_while_alive(
            self.process, condition, every_s=0.02, what=lambda: self.log.read_text()[-4000:], limit_s=_RUN_S
        )

    def document(self) -> dict:
        out, _ = self.process.communicate(timeout=_RUN_S)
        assert self.process.returncode == 0, self.log.read_text()[-4000:]
        return json.loads(out)

    def check(self) -> None:
        """Every trial is finished, with one teacher. Each stage has the history of its schedule, once."""
        trials = SweepFolder(str(self.storage), "struck").trials()
        assert [trial.state for trial in trials] == ["finished"] * len(trials)
        (teacher,) = self.storage.glob("stages/teacher-*")
        assert read_samples(teacher) == expected_history(self.recipe, "teacher")
        for trial in trials:
            recipe = recipe_at(load_space(self.space), self.recipe, trial.point)
            student = next(stage for stage in trial.stages if stage.name == "student")
            (folder,) = self.storage.glob(f"stages/student-{student.identity[:12]}")
            assert read_samples(folder) == expected_history(recipe, "student")

    def steps_again(self) -> int:
        return sum(steps_done_again(folder) for folder in self.storage.glob("stages/*"))


def test_a_node_that_trains_dies_in_a_sweep(motion_manifest, tmp_path):
    """The teacher's worker moves to the other node. The trial that waits for the teacher does not train its own."""
    cluster = SmallCluster(tmp_path)
    try:
        cluster.add(2, decode=2)
        train = [cluster.add(1, trainer=1), cluster.add(1, trainer=1)]
        resources = {"worker_resources": {"trainer": 1}, "decoder_resources": {"decode": 1}}
        recipe = faulty_recipe(motion_manifest, tmp_path / "runs", stages=WITH_STUDENT, resources=resources)
        sweep = StruckSweep(recipe, tmp_path, [0.1, 0.5], "--address", cluster.address, env=cluster.env)
        sweep.wait_until(at_step(tmp_path / "runs", "teacher", 9))
        next(node for node in train if processes(WORKER, psutil.Process(node.process.pid))).kill()
        cluster.add(1, trainer=1)
        document = sweep.document()
        assert [point["state"] for point in document["points"]] == ["finished"] * 2
        sweep.check()
        assert sweep.steps_again() <= 4
    finally:
        cluster.close()


@pytest.mark.parametrize("comes_back", [True, False])
def test_the_tracking_server_vanishes_in_a_sweep(motion_manifest, tmp_path, comes_back):
    (tmp_path / "server").mkdir()
    with Tracker.open(f"sqlite:///{tmp_path / 'empty.db'}", "unused", buffer_dir=tmp_path / "buffer") as tracker:
        tracker.wait_until_open()
    server = Server(tmp_path / "server", tmp_path / "empty.db")
    server.start()
    tracking = {"enabled": True, "uri": server.uri}
    recipe = faulty_recipe(motion_manifest, tmp_path / "runs", stages=WITH_STUDENT, tracking=tracking)
    try:
        sweep = StruckSweep(recipe, tmp_path, [0.1, 0.5, 1.0])
        sweep.wait_until(at_step(tmp_path / "runs", "teacher", 9))
        server.stop()
        if comes_back:
            sweep.wait_until(at_step(tmp_path / "runs", "student", 9))
            server.start()
        document = sweep.document()
        sweep.check()
        assert sweep.steps_again() == 0
        assert "the tracking store does not answer" in sweep.log.read_text()
        if not comes_back:
            assert document["model"]["version"] is None
            return
        client = mlflow.MlflowClient(server.uri)
        experiment = client.get_experiment_by_name("struck")
        runs = client.search_runs([experiment.experiment_id])
        # What a trial could not deliver in time, the next process of the sweep delivers, or the next sweep.
        names = sorted(run.info.run_name for run in runs)
        assert names == ["struck 0000", "struck 0001", "struck 0002", *["student"] * 3, "sweep struck", "teacher"]
        steps = 3 * recipe.train.epochs  # 24 clips, 8 in a step
        for run in runs:
            if run.info.run_name in ("student", "teacher"):
                history = client.get_metric_history(run.info.run_id, "train/lr")
                assert [point.step for point in history] == list(range(1, steps + 1)), "no point is lost or duplicated"
    finally:
        server.stop()

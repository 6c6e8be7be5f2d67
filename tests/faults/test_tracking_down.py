"""The tracking server is absent during training, for a minute or forever."""

import threading

import mlflow
import pytest
from fault_harness import Outcome, Strike, at_step, faulty_recipe, note, recovery_s, struck_run
from patience import PATIENCE_S
from tracking_server import Server

from w3ray.pipeline import run, run_record
from w3ray.tracking import Tracker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

_MINUTE_S = 60.0


@pytest.mark.parametrize("comes_back", [True, False])
def test_tracking_server_goes_away(undisturbed, motion_manifest, tmp_path, monkeypatch, comes_back):
    (tmp_path / "server").mkdir()
    with Tracker.open(f"sqlite:///{tmp_path / 'empty.db'}", "unused", buffer_dir=tmp_path / "buffer") as tracker:
        tracker.wait_until_open()
    server = Server(tmp_path / "server", tmp_path / "empty.db")
    server.start()

    def go_away():
        server.stop()
        if comes_back:
            threading.Timer(_MINUTE_S, server.start).start()

    changes = {}
    if comes_back:  # the run is longer than the outage, or waits for its end: a server starts slowly beside other load
        monkeypatch.setattr(run_record, "_DELIVERY_TIMEOUT_S", PATIENCE_S)
        changes = {"train": {"epochs": 150, "validate_every_epochs": 50, "checkpoint_every_steps": 50}}
        run(faulty_recipe(motion_manifest, tmp_path / "undisturbed", **changes))
        undisturbed = Outcome(tmp_path / "undisturbed")
    storage = tmp_path / "runs"
    recipe = faulty_recipe(motion_manifest, storage, tracking={"enabled": True, "uri": server.uri}, **changes)
    strike = Strike(at_step(storage, "teacher", 9), go_away)
    try:
        outcome, told = struck_run(recipe, strike)
        seconds = recovery_s(outcome.folders["teacher"], strike.at_s)
        how = "for a minute" if comes_back else "for good"
        cost = outcome.cost(f"tracking server down {how}", undisturbed, seconds)
        note(cost)
        assert (cost.steps_again, cost.lost, cost.doubled, cost.identical) == (0, 0, 0, True)
        if comes_back:
            client = mlflow.MlflowClient(server.uri)
            experiment = client.get_experiment_by_name("struck")
            runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
            assert {run.info.status for run in runs.values()} == {"FINISHED"}
            history = client.get_metric_history(runs["teacher"].info.run_id, "train/lr")
            assert [point.step for point in history] == list(range(1, 451)), "no point is lost or duplicated"
        else:
            assert any("tracking" in message for message in told), told
    finally:
        server.stop()

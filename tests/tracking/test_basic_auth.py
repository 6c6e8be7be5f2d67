"""A real MLflow server that asks for user and password, as with `mlflow server --app-name basic-auth`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracking_server import Server

from w3ray.cli import main
from w3ray.errors import InputError
from w3ray.pipeline.tracked import open_tracker
from w3ray.recipe import load_recipe

pytestmark = pytest.mark.slow

USER, PASSWORD = "trainer", "hunter2-of-the-server"


@pytest.fixture(scope="module")
def guarded(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    config = folder / "auth.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder}/auth.db\nadmin_username = {USER}\nadmin_password = {PASSWORD}\n"
    )
    server = Server(
        folder, empty_database, "--app-name", "basic-auth",
        MLFLOW_AUTH_CONFIG_PATH=str(config), MLFLOW_FLASK_SERVER_SECRET_KEY="0" * 32,
    )  # fmt: skip
    server.start()
    yield server
    server.stop()


def test_user_and_password_of_the_environment(
    guarded: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("quickstart", [f"storage={tmp_path / 'runs'}"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", guarded.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gestures")
    said: list[str] = []
    for password in (None, "not-the-password"):
        if password is not None:
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        with pytest.raises(InputError, match=r"^MLFLOW_TRACKING_URI http.*: the server does not let this user in; set"):
            open_tracker(recipe, run_name="x", notify=said.append)
        assert main(["predict", "models:/gestures/1", "x.mp4"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "does not let this user in" in line
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with open_tracker(recipe, run_name="x", notify=said.append) as tracker:
        run = tracker.start_run({"lr": 0.1})
        run.log_text("hello", "note.txt")
    assert said == []
    client = MlflowClient(guarded.uri)
    found = client.get_run(str(run.run_id))
    assert (found.info.status, found.data.params) == ("FINISHED", {"lr": "0.1"})
    assert client.get_experiment(found.info.experiment_id).name == "gestures"
    assert [file.path for file in client.list_artifacts(str(run.run_id))] == ["note.txt"]
    assert main(["predict", "models:/gestures/1", "x.mp4"]) == 2
    assert "no registered model 'gestures'" in capsys.readouterr().err
    assert not any(PASSWORD.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_user_and_password_in_the_address(guarded: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = guarded.uri.replace("://", f"://{USER}:{PASSWORD}@")
    recipe = load_recipe("quickstart", [f"storage={tmp_path / 'runs'}", f"tracking.uri={uri}"])
    with open_tracker(recipe, run_name="x", notify=print) as tracker:
        run = tracker.start_run({})
        assert run.wait_run_id() is not None
    wrong = load_recipe("quickstart", [f"storage={tmp_path / 'runs'}", f"tracking.uri={uri.replace('hunter2', 'h')}"])
    with pytest.raises(InputError, match=r"^tracking\.uri http://\*\*\*@.*does not let this user in"):
        open_tracker(wrong, run_name="x", notify=print)

"""The tracking server with the options of its compose file: real PostgreSQL, a real S3 API, a run and its artifact."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import boto3
import mlflow
import pytest
from patience import PATIENCE_S, wait_while_alive
from postgres_server import PASSWORD, binaries, free_port, postgres

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mlflow-", dir="/tmp"))
    path.chmod(0o755)  # PostgreSQL's user must have access
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[dict[str, str]]:
    """Start a tracking server with the compose file's command. Yields its addresses."""
    if binaries() is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    s3_port, port = free_port(), free_port()

    def start(stack: ExitStack, name: str, command: list, **environment: str) -> "subprocess.Popen[bytes]":
        log = stack.enter_context((folder / f"{name}.log").open("wb"))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PG", "MLFLOW_"))}
        process = subprocess.Popen(command, env={**inherited, **environment}, stdout=log, stderr=log)
        stack.callback(process.wait, PATIENCE_S)
        stack.callback(process.terminate)
        return process

    with ExitStack() as stack:
        database = stack.enter_context(postgres(folder / "database"))
        s3 = start(stack, "s3", [BIN / "moto_server", "--host=127.0.0.1", f"--port={s3_port}"])
        s3_url = f"http://127.0.0.1:{s3_port}"
        wait_while_alive(s3, lambda: answers(f"{s3_url}/moto-api/"), every_s=0.5, what=(folder / "s3.log").read_text)
        bucket(s3_url).create()
        url = f"http://127.0.0.1:{port}"
        mlflow_server = start(
            stack,
            "mlflow",
            command(database.uri, port),
            PATH=f"{BIN}:{os.environ['PATH']}",
            PGPASSWORD=PASSWORD,
            MLFLOW_S3_ENDPOINT_URL=s3_url,
            **KEYS,
        )
        wait_while_alive(
            mlflow_server, lambda: answers(f"{url}/health"), every_s=0.5, what=(folder / "mlflow.log").read_text
        )
        yield {"url": url, "s3": s3_url, "database_port": str(database.port), "psql": str(database.psql)}


def bucket(s3_url: str):
    session = boto3.Session(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
    return session.resource("s3", endpoint_url=s3_url).Bucket("clips")


def command(database_uri: str, port: int) -> list[str]:
    """The compose file's command with other addresses and paths."""
    config = subprocess.run(
        [BIN / "docker-compose", f"--file={REPO / 'cluster' / 'mlflow.compose.yaml'}", "config", "--format=json"],
        env={"PATH": os.environ["PATH"], "HOME": "/", "POSTGRES_PASSWORD": PASSWORD, "S3_BUCKET": "clips"}
        | {"MLFLOW_HOSTS": f"127.0.0.1:{port}"},
        check=True,
        capture_output=True,
        text=True,
    )
    words = json.loads(config.stdout)["services"]["mlflow"]["command"]
    elsewhere = {
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=5000": f"--port={port}",
        "--backend-store-uri=postgresql+psycopg2://mlflow@postgres:5432/mlflow": f"--backend-store-uri={database_uri}",
    }
    assert set(elsewhere) <= set(words)
    return [elsewhere.get(word, word) for word in words]


def test_a_run_and_its_artifact(server: dict[str, str], folder: Path) -> None:
    client = mlflow.MlflowClient(server["url"])
    experiment = client.create_experiment("clips")
    run = client.create_run(experiment)
    client.log_metric(run.info.run_id, "top1", 0.5, step=3)
    artifact = folder / "report.txt"
    artifact.write_text("as it was")
    # Through the server: this process has neither a key nor the address of the object storage.
    assert not any(name in os.environ for name in ("AWS_ACCESS_KEY_ID", "MLFLOW_S3_ENDPOINT_URL"))
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    client.log_artifact(run.info.run_id, str(artifact))
    client.set_terminated(run.info.run_id)

    assert client.get_run(run.info.run_id).data.metrics == {"top1": 0.5}
    downloaded = client.download_artifacts(run.info.run_id, "report.txt", str(folder))
    assert Path(downloaded).read_text() == "as it was"
    stored = [item.key for item in bucket(server["s3"]).objects.all()]
    assert [key for key in stored if key.endswith("report.txt")] == [
        f"mlflow/{experiment}/{run.info.run_id}/artifacts/report.txt"
    ]
    query = [server["psql"], "-h127.0.0.1", f"-p{server['database_port']}", "-Umlflow", "-At", "mlflow"]
    rows = subprocess.run(
        [*query, "-cselect run_uuid, status from runs"],
        env={**os.environ, "PGPASSWORD": PASSWORD},
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert rows.stdout.split() == [f"{run.info.run_id}|FINISHED"]


def test_another_host_name_is_refused(server: dict[str, str]) -> None:
    """A web page that points its own host name at the server (DNS rebinding) gets nothing."""
    request = urllib.request.Request(f"{server['url']}/ajax-api/2.0/mlflow/experiments/search?max_results=1")
    request.add_header("Host", "evil.example.com")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=PATIENCE_S)
    assert refused.value.code == 403

"""32 trials at once write to one tracking store: nothing is lost, refused or duplicated."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import pytest
from many_trackers import run_many
from patience import PATIENCE_S, wait_while_alive
from postgres_server import PASSWORD, binaries, free_port, postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TRIALS = 32


def check(store: str, found: dict) -> None:
    if "W3RAY_FIGURES" in os.environ:  # benchmarks/sweep.py
        with Path(os.environ["W3RAY_FIGURES"]).open("a") as file:
            file.write(json.dumps({"store": store, **found}) + "\n")
    assert found["errors"] == []
    assert (found["lost"], found["doubled"], found["unfinished"]) == (0, 0, 0)


def test_one_sqlite_file(tmp_path):
    check("sqlite", run_many(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, TRIALS))


def test_a_server_on_postgresql(tmp_path):
    if binaries() is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="many-", dir="/tmp"))
    folder.chmod(0o755)
    port = free_port()
    try:
        with postgres(folder / "database") as database, (folder / "mlflow.log").open("wb") as log:
            command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=2"]
            command += [f"--backend-store-uri={database.uri}", f"--artifacts-destination={folder / 'files'}"]
            settings = {"PGPASSWORD": PASSWORD, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            server = subprocess.Popen(
                command, env={**os.environ, **settings}, stdout=log, stderr=log, cwd=folder, start_new_session=True
            )
            try:
                uri = f"http://127.0.0.1:{port}"
                wait_while_alive(
                    server,
                    lambda: answers(uri),
                    every_s=0.5,
                    what=lambda: (folder / "mlflow.log").read_text()[-2000:],
                )
                check("postgresql", run_many(uri, tmp_path, TRIALS))
            finally:
                os.killpg(server.pid, 15)
                server.wait(PATIENCE_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False

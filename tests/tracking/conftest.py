"""A real SQLite store, a copy of the empty one, and a real `mlflow server` that can be stopped and restarted."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracking_server import Server


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_database, path)
    return f"sqlite:///{path}"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture(scope="session")
def one_server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests, because a start takes seconds. Each test has its own experiment."""
    server = Server(tmp_path_factory.mktemp("server"), empty_database)
    yield server
    server.stop()


@pytest.fixture
def server(one_server: Server) -> Server:
    one_server.start()
    return one_server

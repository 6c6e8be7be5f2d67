"""Fixtures for all tests."""

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import S3Server, running

REPO = Path(__file__).resolve().parent.parent


def _forget_tracking() -> None:
    for name in ("TRACKING_URI", "REGISTRY_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "ALLOW_FILE_STORE"):
        os.environ.pop(f"MLFLOW_{name}", None)
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        os.environ.pop(f"MLFLOW_TRACKING_{name}", None)


_forget_tracking()  # tests must not record runs in a developer's own tracking
for name in ("COLUMNS", "LINES"):  # some parallel test runners set a size without a terminal
    os.environ.pop(name, None)


AS_IF_NAMED = {
    "tests/pipeline/test_chain.py": "",
    "tests/runtime/test_cluster_stage.py": "tests/data/",
    "tests/pipeline/test_my_clips.py": "tests/explaining/",
}
"""Where in the order of names some files run. They take long and start many processes, so each runs while the other
half of the tests computes in its own process, and not while that half starts processes, too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> str:
        file = item.nodeid.partition("::")[0]
        return AS_IF_NAMED.get(file, file)

    items.sort(key=place)  # keeps the order within a file


@pytest.fixture(autouse=True)
def _tracking_of_its_own() -> Iterator[None]:
    """Start each test without MLflow's variables, because `mlflow.set_tracking_uri` sets one."""
    yield
    _forget_tracking()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real videos (`W3RAY_REAL_DATA`, else `../shared/data` beside the repository).

    If the variable is set, the folder must exist: a wrong path is an error, not a skip.
    """
    configured = os.environ.get("W3RAY_REAL_DATA")
    folder = Path(configured) if configured else REPO.parent / "shared" / "data"
    if not folder.is_dir():
        if configured:
            raise FileNotFoundError(f"W3RAY_REAL_DATA={configured}: no such folder")
        pytest.skip(f"real videos are absent: put them at {folder} or set W3RAY_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray with two CPUs for all tests of a session, because a start takes seconds."""
    import ray

    from w3ray.cluster.connect import connect, disconnect

    assert not ray.is_initialized(), "another test left a Ray instance behind"
    connect(None, num_cpus=2)
    yield
    gc.collect()  # a leftover stream must end before Ray does: later, it would search for a cluster forever
    disconnect()


@pytest.fixture(scope="session")
def motion_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set: 24 training, 16 validation and 8 test clips of 8 classes."""
    from w3ray.data.synthetic import write_motion_dataset

    root = tmp_path_factory.mktemp("motion")
    write_motion_dataset(root / "set", clips=24, val_clips=16, test_clips=8, size=64)
    return root / "set" / "manifest.parquet"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, to be copied, because MLflow takes seconds to make them."""
    from w3ray.tracking import Tracker

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    with Tracker.open(f"sqlite:///{path}", "unused", buffer_dir=path.parent / "buffer") as tracker:
        tracker.wait_until_open()
    return path


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """A real S3 API with the empty bucket `bucket`. This process and its children get it from their environment."""
    from w3ray.storage import _systems

    with running() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        _systems.inner.cache_clear()
        yield server
    _systems.inner.cache_clear()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes or resizes a disk of a size such as "4m". Returns its folder."""
    folder = tmp_path / "small-disk"

    def make(size: str) -> Path:
        again = folder.exists()
        folder.mkdir(exist_ok=True)
        options = f"remount,size={size}" if again else f"size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode != 0:
            folder.rmdir()
            pytest.skip(f"cannot mount a disk here (needs root): {answer.stderr.strip()}")
        return folder

    yield make
    if folder.exists():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

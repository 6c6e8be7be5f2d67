"""Joining a cluster: if it cannot work, one line says so at once."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_while_alive

from w3ray.cluster.connect import _check_reachable, _ray_folder, job_address, keep_sigterm
from w3ray.errors import InputError

RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def cluster_with_token() -> Iterator[str]:
    """A real cluster that asks for a token which this process does not have. Yields its address."""
    port = free_port()
    # Ray records its newest cluster in its folder, and a later `ray.init()` would join it. So it gets its own folder,
    # with a short path, because it holds sockets.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    command = [RAY, "start", "--head", "--block", f"--port={port}", f"--temp-dir={folder}", "--num-cpus=1"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    with subprocess.Popen(
        [*command, "--include-dashboard=false", "--disable-usage-stats"], env=environment, stdout=subprocess.DEVNULL
    ) as head:
        try:
            wait_while_alive(head, lambda: _answers(port), every_s=0.2, what="the cluster answers")
            yield f"127.0.0.1:{port}"
        finally:  # leaving the block waits for the process, even if it never answered
            head.terminate()
            head.wait(PATIENCE_S)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
def test_cluster_that_asks_for_a_token_is_named(cluster_with_token: str) -> None:
    with pytest.raises(InputError, match="asks for a token; set RAY_AUTH_MODE=token"):
        _check_reachable(cluster_with_token)


def test_nothing_listens() -> None:
    with pytest.raises(InputError, match="no Ray cluster answers there"):
        _check_reachable(f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.0 400 Bad request\r\n\r\n"])
def test_something_else_listens(answer: bytes | None, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing, closes the connection, or speaks HTTP/1. Ray itself would try again for half a minute."""
    monkeypatch.setattr("w3ray.cluster.connect._ANSWER_TIMEOUT_S", 1.0)

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.recv(100)
            if answer is None:
                connection.recv(1)  # until the other side leaves
            else:
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with pytest.raises(InputError, match="something listens, but it does not speak Ray's protocol, or it hangs"):
            _check_reachable(f"{scheme}127.0.0.1:{listener.getsockname()[1]}")
        thread.join(PATIENCE_S)


@pytest.mark.ray
def test_a_cluster_is_reached(cluster_with_token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w3ray.cluster.connect._check_token", lambda address: None)
    _check_reachable(cluster_with_token)


@pytest.mark.parametrize("address", ["nowhere", "host:port", ":6379"])
def test_not_an_address(address: str) -> None:
    with pytest.raises(InputError, match="not an address"):
        _check_reachable(address)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_workers_of_a_local_cluster_have_ordinary_priority() -> None:
    import ray

    niceness = ray.remote(num_cpus=0)(lambda: os.nice(0))
    assert ray.get(niceness.remote()) == os.nice(0)


def test_a_submitted_job_runs_where_it_was_submitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert job_address() is None  # the user's own variable, for other tools
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert job_address() == "10.0.0.1:6379"


def test_sigterm_is_given_back_by_the_main_thread_alone() -> None:
    def ours(number: int, frame: object) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    try:
        thread = threading.Thread(target=keep_sigterm, args=(ours,))
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is before
        keep_sigterm(ours)
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_local_cluster_leaves_the_environment_as_it_was() -> None:
    """Settings for one machine must not reach a cluster of several machines that this process joins later."""
    code = """
import os
from w3ray.cluster.connect import _LOCAL_ENVIRONMENT, connect, disconnect, quiet
quiet()
before = dict(os.environ)
connect(None, num_cpus=1)
assert os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "0"
disconnect()
assert not _LOCAL_ENVIRONMENT.keys() & (os.environ.keys() - before.keys())
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_TRAIN")}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _environment(**changes: str) -> dict[str, str]:
    own = ("RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return {name: value for name, value in os.environ.items() if name not in own} | changes


def test_a_folder_is_ours_where_rays_own_can_hold_no_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("w3ray.cluster.connect._folders_made", made := [])
    for folder in ("/tmp/" + 60 * "x", "/tmp/ä b", "/tmp/a%20b", "relative", str(file / "below"), "/dev/null/x"):
        monkeypatch.setenv("TMPDIR", folder)
        found = _ray_folder()
        assert found == made[-1]
        assert Path(str(found)).stat().st_mode & 0o77 == 0, "no other user can read it"
        assert len(str(found)) < 30
    assert len(made) == len(set(made)) == 6
    for folder in made:
        os.rmdir(folder)
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("TMPDIR", short)
        assert _ray_folder() is None


@pytest.mark.ray
@pytest.mark.slow
def test_long_temporary_folder_and_no_home() -> None:
    """Ray starts twice, and nothing remains of its settings."""
    code = """
import os
from w3ray.cluster.connect import connect, disconnect
before = set(os.environ)
for _ in range(2):
    assert connect(None, num_cpus=1)
    import ray
    assert ray.get(ray.remote(num_cpus=0)(lambda: 42).remote(), timeout=100) == 42
    folder = ray._private.worker.global_worker.node.get_temp_dir_path()
    assert len(folder) < 30
    disconnect()
    assert not os.path.exists(folder)
    assert "RAY_AUTH_TOKEN" not in os.environ
"""
    environment = _environment(TMPDIR="/tmp/" + 60 * "x" + " %20", HOME="/dev/null/x")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_ray_can_not_start_with_is_one_line(tmp_path: Path) -> None:
    """Ray's files see a full disk."""
    code = """
import resource, sys
from w3ray.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(main(["run", "quickstart", "--dry-run"]))
"""
    environment = _environment(HOME=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert done.stderr.startswith("error: Ray cannot be started on this machine: [Errno 27] File too large")

"""What `w3ray serve` refuses before it starts, and how it starts and ends."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from patience import wait_until, wait_while_alive
from served import asked, free_port, path_body, write_small_model
from videos import write_video

from w3ray import InputError
from w3ray.models.bundle import read_description
from w3ray.serving import start
from w3ray.serving.settings import Settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": 0}, "--port must be a number from 1 to 65535, not 0"),
        ({"host": "http://here"}, "--host 'http://here': not an address"),
        ({"host": ""}, "--host '': not an address"),
        ({"replicas": 0}, "--replicas must be at least 1, not 0"),
        ({"batch": -1}, "--batch must be at least 1, not -1"),
        ({"top": 0}, "--top must be at least 1, not 0"),
        ({"batch_wait_ms": float("nan")}, "--batch-wait-ms must be from 0 to 60000, not nan"),
        ({"max_mib": 0.0}, "--max-mib must be a number above 0, not 0"),
        ({"timeout_s": float("inf")}, "--timeout must be a number above 0, not inf"),
        ({"protocol": "7crop"}, "protocol '7crop': no such protocol"),
        ({"average": "median"}, "--average must be scores or logits, not 'median'"),
        ({"device": "tpu"}, "--device must be cpu or cuda, not 'tpu'"),
        ({"roots": ("s3://",)}, "--root s3://: not a plain address"),
    ],
)
def test_settings_that_cannot_be_used(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        Settings(**values)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "is_private"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("here.example.org", False)],
)  # fmt: skip
def test_who_can_reach_it(host: str, is_private: bool) -> None:
    assert Settings(host=host).is_private is is_private


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: cannot listen on 127.0.0.1"):
            start.check_local(Settings(port=port))
    start.check_local(Settings(port=free_port(), roots=(str(tmp_path), "s3://bucket/clips")))
    with pytest.raises(InputError, match=r"--root .*absent: no such folder"):
        start.check_local(Settings(port=free_port(), roots=(str(tmp_path / "absent"),)))


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    start.require_serve()
    monkeypatch.setattr(start, "_NEEDED", ("starlette", "no_such_package"))
    with pytest.raises(InputError, match=r"w3ray serve needs no_such_package: pip install 'w3ray\[serve\]'"):
        start.require_serve()


def test_the_share_of_a_replica() -> None:
    nodes = [{"CPU": 6.0, "GPU": 1.0}]
    assert start.cpus_of_a_replica(nodes, Settings(replicas=2), is_own=True) == 3
    assert start.cpus_of_a_replica(nodes, Settings(replicas=2), is_own=False) == 1
    with pytest.raises(InputError, match="--replicas 7: the cluster has 6 processors"):
        start.cpus_of_a_replica(nodes, Settings(replicas=7), is_own=True)
    with pytest.raises(InputError, match="--replicas 2: the cluster has 1 GPUs"):
        start.cpus_of_a_replica(nodes, Settings(replicas=2, device="cuda"), is_own=True)


def test_a_model_that_reads_more_than_videos(tmp_path: Path) -> None:
    description = read_description(write_small_model(tmp_path / "model"))
    start.require_videos_only("small", description)
    with pytest.raises(InputError, match="small: needs boxes with its videos"):
        start.require_videos_only("small", replace(description, clip={**description.clip, "boxes_per_frame": 4}))


@pytest.mark.slow
@pytest.mark.ray
def test_the_command_ends_at_sigterm_and_leaves_nothing(tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "model")
    video = write_video(tmp_path / "videos" / "clip.mp4", 12)
    port = free_port()
    command = [sys.executable, "-c", "import sys; from w3ray.cli import main; sys.exit(main())", "serve", model]
    command += ["--port", str(port), "--root", str(video.parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        wait_while_alive(process, lambda: is_healthy(port), every_s=0.5)
        assert asked(f"http://127.0.0.1:{port}/predict", *path_body(video))[0] == 200
        started = psutil.Process(process.pid).children(recursive=True)
        assert started
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (0, "")
    first, last = output.splitlines()
    assert first.startswith(f"{model} at http://127.0.0.1:{port}: POST /predict")
    assert last == "stopped"
    wait_until(lambda: not any(one.is_running() and one.status() != "zombie" for one in started), limit_s=30)
    start.check_local(Settings(port=port))  # the port is free


def is_healthy(port: int) -> bool:
    try:
        return asked(f"http://127.0.0.1:{port}/health")[0] == 200
    except OSError:
        return False

"""Credentials work and are not stored anywhere: the real command, a real server, and a search in every file."""

import base64
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from patience import PATIENCE_S

PASSWORD = "hunter2-in-the-address"
KEY = "wJalrXUtnFEMI-of-the-environment"
VIDEO_PASSWORD = "swordfish-of-the-videos"
SECRETS = (PASSWORD, KEY, VIDEO_PASSWORD, base64.b64encode(f"me:{PASSWORD}".encode()).decode())


class _Gate(http.server.BaseHTTPRequestHandler):
    """A proxy before a tracking server: it forwards only requests with the password."""

    behind = ""

    def _pass_on(self) -> None:
        if self.path != "/health":
            given = self.headers.get("Authorization", "")
            if given != "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode():
                self.send_error(401)
                return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name not in ("Host", "Authorization")}
        request = urllib.request.Request(self.behind + self.path, body or None, headers, method=self.command)
        try:
            answer = urllib.request.urlopen(request, timeout=PATIENCE_S)
        except urllib.error.HTTPError as error:
            answer = error
        content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A tracking server behind a password: its address without the password, and its folder."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tracking"))
    from tracking_server import Server

    folder = tmp_path_factory.mktemp("server")
    behind = Server(folder, empty_database)
    behind.start()
    gate = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Gate", (_Gate,), {"behind": behind.uri}))
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{gate.server_address[1]}", folder
    gate.shutdown()
    behind.stop()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A manifest whose video addresses have credentials. One video is missing."""
    from w3ray.data.manifest import build_manifest, read_manifest, write_manifest
    from w3ray.data.synthetic import write_motion_dataset

    root = tmp_path_factory.mktemp("videos")
    write_motion_dataset(root / "set", clips=16, val_clips=8, test_clips=8, size=64)
    made = read_manifest(root / "set" / "manifest.parquet")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(root / "set"))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    rows = made.table.to_pydict()
    first = next(i for i, split in enumerate(rows["split"]) if split == "train")
    rows["uri"][first] = "videos/absent.mp4"
    at = f"http://127.0.0.1:{web.server_address[1]}"
    rows["uri"] = [f"{at}/{uri}?access_token={VIDEO_PASSWORD}" for uri in rows["uri"]]
    path = root / "manifest.parquet"
    write_manifest(build_manifest(rows, made.classes, made.flip_map), path)
    yield path
    web.shutdown()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """The folder of Ray's logs. Its path is short, because it holds sockets."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


def command(words: list[str], folder: Path, ray_folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": KEY, "RAY_TMPDIR": str(ray_folder)}
    return subprocess.run(
        [sys.executable, "-c", "import sys; from w3ray.cli import main; sys.exit(main())", *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def recipe(folder: Path, manifest: Path, uri: str) -> Path:
    values = {
        "name": "secret",
        "storage": str(folder / "runs"),
        "data": {
            "manifest": str(manifest), "num_frames": 2, "size": 32, "test_split": "test", "max_failed_share": 0.5
        },
        "model": {"name": "tsm", "backbone": "resnet_small", "attention": None},
        "train": {"epochs": 1, "batch_size": 8, "microbatch_size": 8},
        "stages": [{"name": "teacher"}],
        "tracking": {"uri": uri},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def found(folder: Path, but: tuple[Path, ...] = ()) -> list[str]:
    """The files in a folder that contain a secret, in their name or content."""
    return [
        f"{path}: {secret}"
        for path in folder.rglob("*")
        if path.is_file() and path not in but
        for secret in SECRETS
        if secret.encode() in path.read_bytes() or secret in str(path)
    ]


def assert_silent(done: "subprocess.CompletedProcess[str]") -> None:
    for secret in SECRETS:
        assert secret not in done.stdout
        assert secret not in done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_dry_run_and_refusals(tmp_path: Path, videos: Path, ray_folder: Path) -> None:
    path = recipe(tmp_path, videos, f"postgresql://me:{PASSWORD}@db.invalid/mlflow")
    shown = command(["run", str(path), "--dry-run", "--json"], tmp_path, ray_folder)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["recipe"]["tracking"]["uri"] == "postgresql://***@db.invalid/mlflow"
    assert_silent(shown)
    for words in (
        ["--set", f"tracking.uri=http://me:{PASSWORD}@127.0.0.1:9"],
        ["--set", f"data.manifest=http://me:{PASSWORD}@127.0.0.1:9/m.parquet", "--json"],
        ["--set", f"data.sizes=http://me:{PASSWORD}@127.0.0.1:9/m.parquet"],
        ["--set", f"storage={KEY}", "--set", "train.epochs=none"],
    ):
        refused = command(["run", str(path), *words], tmp_path, ray_folder)
        assert refused.returncode == 2, refused.stderr
        assert "error: " in refused.stderr
        assert_silent(refused)
    assert found(tmp_path, but=(path,)) == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_whole_run(tmp_path: Path, videos: Path, server: tuple[str, Path], ray_folder: Path) -> None:
    address, server_folder = server
    path = recipe(tmp_path, videos, f"http://me:{PASSWORD}@{address}")
    done = command(["run", str(path), "--json"], tmp_path, ray_folder)
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert document["tracking"]["uri"] == f"http://***@{address}"
    assert document["model"]["version"] == "1", "the password was accepted"
    assert document["stages"][0]["metrics"]["rows"] == 8, "the videos' token was accepted"
    assert "absent.mp4" in done.stderr, "the unreadable video is named"
    assert_silent(done)
    assert list(ray_folder.glob("ray/session_*/logs/*")), "Ray's logs are searched, too"
    assert found(ray_folder) == []
    assert found(tmp_path, but=(path,)) == []
    assert found(server_folder) == []

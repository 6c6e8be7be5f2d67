"""`mlflow models serve` with a registered model gives the same scores as `w3ray predict` for the same videos."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import wait_while_alive
from videos import cut, write_frames

from w3ray.data.manifest import read_manifest
from w3ray.models.bundle import read_description
from w3ray.pipeline import run
from w3ray.recipe import Recipe
from w3ray.scoring.predict import predict

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def trained(ray_session, motion_manifest, tmp_path_factory):
    values = {
        "name": "served",
        "storage": str(tmp_path_factory.mktemp("served") / "runs"),
        "data": {"manifest": str(motion_manifest), "num_frames": 4, "size": 32},
        "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
        "train": {"epochs": 2, "batch_size": 8, "microbatch_size": 4, "lr": 0.1},
        "stages": [{"name": "teacher"}],
    }
    return run(Recipe.model_validate(values))


@pytest.fixture(scope="module")
def address(trained, tmp_path_factory) -> Iterator[str]:
    """The address of a real server, started with the command in the README."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/served@current"]
    command += ["--env-manager", "local", "--port", str(port)]
    path = tmp_path_factory.mktemp("serve") / "log"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": trained.tracking["uri"]}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # MLflow starts `uvicorn` by name
    with path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        wait_while_alive(
            process,
            lambda: answers(f"http://127.0.0.1:{port}/ping"),
            every_s=0.5,
            what=lambda: path.read_text()[-3000:],
        )
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the server is a child of this command
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def posted(address: str, document: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        address, json.dumps(document).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.loads(reply.read(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["predictions"]


@pytest.fixture(scope="module")
def videos(motion_manifest, tmp_path_factory) -> list[str]:
    """Sorted by name, as in `predict`: clips, odd names, a folder of frames, two broken ones."""
    folder = tmp_path_factory.mktemp("videos")
    uris = read_manifest(motion_manifest).resolved_uris()
    for number, uri in enumerate(uris[:10]):
        shutil.copy(uri, folder / f"{number} ü.mp4")
    write_frames(folder / "frames", 12)
    cut(Path(uris[0]), folder / "half.mp4")
    (folder / "zero.mp4").touch()
    return sorted(map(str, folder.iterdir()))


@pytest.mark.parametrize(
    "chosen", [{}, {"protocol": "3crop-2clip"}, {"protocol": "2clip-full-res", "average": "logits"}]
)
def test_the_same_scores_class_by_class(trained, address, videos, chosen):
    classes = read_description(trained.stages[-1].model).classes
    expected = list(predict(trained.stages[-1].model, videos, top=len(classes), **chosen))
    assert [one.video for one in expected] == videos
    params = {"params": chosen} if chosen else {}
    columns = {"columns": ["video"], "data": [[video] for video in videos]}
    for document in ({"inputs": videos, **params}, {"dataframe_split": columns, **params}):
        found = posted(address, document)
        assert len(found) == len(videos)
        for row, one in zip(found, expected, strict=True):
            assert row["reason"] == one.reason
            if one.reason is not None:
                assert (row["scores"], row["label"], row["score"], row["top"]) == ([], None, None, [])
                continue
            by_class = dict(one.top)
            scores = [by_class[name] for name in classes]
            np.testing.assert_allclose(row["scores"], scores, rtol=1e-6, atol=1e-7)
            assert (row["label"], row["score"]) == (one.top[0][0], row["top"][0]["score"])
            assert [each["class"] for each in row["top"]] == [name for name, _ in one.top[:5]]
            np.testing.assert_allclose([each["score"] for each in row["top"]], [each for _, each in one.top[:5]], 1e-6)
    read = [one for one in expected if one.reason is None]
    assert len(read) >= 11
    assert np.ptp([[dict(one.top)[name] for name in classes] for one in read], axis=0).max() > 1e-3, "videos differ"
    assert videos[-1].endswith("zero.mp4")
    assert expected[-1].reason == "the file is empty (0 bytes)"


def test_top_is_asked_for(address, videos):
    (row,) = posted(address, {"inputs": videos[:1], "params": {"top": 2}})
    order = np.argsort(-np.array(row["scores"]), kind="stable")[:2]
    assert [each["score"] for each in row["top"]] == [row["scores"][label] for label in order]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"protocol": "3clips"}, "protocol '3clips': no such protocol"),
        ({"average": "votes"}, "average must be scores or logits, not 'votes'"),
        ({"top": 0}, "top must be at least 1"),
        ({"top": "many"}, "top"),
    ],
)
def test_what_can_not_be_used_is_said(address, videos, params, message):
    with pytest.raises(urllib.error.HTTPError) as refused:
        posted(address, {"inputs": videos[:1], "params": params})
    assert refused.value.code in (400, 500)
    assert message in refused.value.read().decode()

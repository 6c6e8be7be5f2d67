"""How many requests does `w3ray serve` answer in a second, and how long does one wait, beside a plain loop and MLflow?

    python benchmarks/serving.py DATA/tank-state [--requests 40] [--rounds 3] [--replicas 1]

Real clips (H.264, 320x240, 2.6 to 20.5 s), untrained TSM with `resnet_small` at 112 pixels, 8 frames. All read the same
files in the same order. Both servers run as their commands start them, on the same machine as the clients.

- `loop`: `model.read(path)`, then `model.scores(frames)` of `w3ray.load_model`, one clip after the other. No server.
- `serve path`, `serve upload`: `w3ray serve` at concurrency 1, 4 and 16, asked by path and by upload.
- `mlflow path`: `mlflow models serve` (`docs/serve.md`), one video in a request. It takes no uploads.

Each round takes them in another order. `latency_s` are the quantiles of all requests of all rounds; `ratio_to_loop` is
the quotient of requests per second within a round: a server that costs nothing and batches nothing has 1.0 on a
machine that the loop fills, and up to the number of cores on one that it does not.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import REPO, W3RAY, spread, write_result

import w3ray
from w3ray.data.clip import ClipSpec
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model

CLASSES = ("a", "b", "c", "d")
CONCURRENCY = (1, 4, 16)
PORTS = {"serve": 8431, "mlflow": 8432}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--requests", type=int, default=40, help="of each arm, in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=1)
    arguments = parser.parse_args()
    clips = sorted(map(str, arguments.data.resolve().rglob("*.mp4")))
    random.Random(0).shuffle(clips)
    clips = (clips * arguments.requests)[: arguments.requests]
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder), arguments):
        arms = all_arms(str(Path(folder) / "model"))
        for call, at_once in arms.values():  # the first requests load libraries
            measured(call, clips[:at_once], at_once)
        batches = [batch_counts()]
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        latencies: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(arguments.rounds):
            for name in random.Random(number).sample(sorted(arms), len(arms)):
                wall_s, each_s = measured(arms[name][0], clips, arms[name][1])
                seconds[name].append(wall_s)
                latencies[name] += each_s
                load.append(os.getloadavg()[0])
        batches.append(batch_counts())
    figures = {
        "network": "tsm, resnet_small@112, 8 frames", "replicas": arguments.replicas, "requests": arguments.requests,
        "load": {"min": min(load), "max": max(load)},
        "videos_per_batch": (batches[1][0] - batches[0][0]) / (batches[1][1] - batches[0][1]),
        "arms": {name: cell(seconds[name], latencies[name], seconds["loop"], arguments.requests) for name in arms},
    }  # fmt: skip
    command = "python benchmarks/serving.py DATA " + " ".join(sys.argv[2:])
    for name, one in figures["arms"].items():
        print(f"{name:18} {one['requests_per_s']['mean']:7.2f}/s  p50 {one['latency_s']['p50']:.3f} s  "
              f"p95 {one['latency_s']['p95']:.3f} s  {one['ratio_to_loop']['median']:.2f} of the loop")  # fmt: skip
    print(write_result("serving", figures, command.strip(), compact=True))


def cell(seconds: list[float], latencies: list[float], loop: list[float], requests: int) -> dict[str, Any]:
    ratios = [of_loop / own for own, of_loop in zip(seconds, loop, strict=True)]
    p50, p95 = np.quantile(latencies, [0.5, 0.95])
    return {
        "requests_per_s": spread([requests / own for own in seconds]),
        "latency_s": {"p50": float(p50), "p95": float(p95)},
        "ratio_to_loop": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def all_arms(model: str) -> dict[str, tuple[Callable[[str], None], int]]:
    """Name -> what asks about one clip, and how many ask at once."""
    loaded = w3ray.load_model(model)

    def loop(path: str) -> None:
        loaded.best(loaded.scores(loaded.read(path))[0])

    def by_path(path: str) -> None:
        top = posted(f"http://127.0.0.1:{PORTS['serve']}/predict", json.dumps({"path": path}).encode())["top"]
        assert len(top) == len(CLASSES)

    def by_upload(path: str) -> None:
        posted(f"http://127.0.0.1:{PORTS['serve']}/predict", Path(path).read_bytes(), "video/mp4")

    def by_mlflow(path: str) -> None:
        (row,) = posted(
            f"http://127.0.0.1:{PORTS['mlflow']}/invocations", json.dumps({"inputs": [path]}).encode()
        )["predictions"]  # fmt: skip
        assert row["reason"] is None, row

    servers = {"serve path": by_path, "serve upload": by_upload, "mlflow path": by_mlflow}
    return {
        "loop": (loop, 1),
        **{f"{name}, {count}": (call, count) for name, call in servers.items() for count in CONCURRENCY},
    }


def measured(call: Callable[[str], None], clips: list[str], at_once: int) -> tuple[float, list[float]]:
    """Wall-clock seconds of all, and the seconds of each."""

    def timed(path: str) -> float:
        started = time.perf_counter()
        call(path)
        return time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as clients:
        each_s = list(clients.map(timed, clips))
    return time.perf_counter() - started, each_s


def posted(url: str, body: bytes, kind: str = "application/json") -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": kind}, method="POST")
    with urllib.request.urlopen(request, timeout=300) as reply:
        return json.loads(reply.read())


def batch_counts() -> tuple[float, float]:
    """Videos and batches until now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORTS['serve']}/metrics", timeout=60) as reply:
        lines = dict(line.rsplit(" ", 1) for line in reply.read().decode().splitlines() if not line.startswith("#"))
    return float(lines["w3ray_batch_videos_sum"]), float(lines["w3ray_batch_videos_count"])


@contextmanager
def servers(folder: Path, arguments: argparse.Namespace) -> Iterator[None]:
    """Both servers, with the same untrained model in `folder / "model"`."""
    import mlflow

    torch.manual_seed(0)
    network: dict[str, Any] = {"name": "tsm", "backbone": "resnet_small", "num_classes": len(CLASSES)}
    clip = asdict(ClipSpec(num_frames=8, size=112))
    about = ModelDescription(model=network, clip=clip, classes=CLASSES, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    model = str(folder / "model")
    write_model(model, build_model(**network), about)
    code = str(REPO / "w3ray" / "tracking" / "video_model.py")
    mlflow.pyfunc.save_model(str(folder / "logged"), python_model=code, artifacts={"model": model}, pip_requirements=[])
    serve = [str(W3RAY), "serve", model, "--port", str(PORTS["serve"]), "--replicas", str(arguments.replicas)]
    serve += ["--root", str(arguments.data.resolve())]
    mlflow_serve = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(folder / "logged")]
    mlflow_serve += ["--env-manager", "local", "--port", str(PORTS["mlflow"])]
    with (
        running(serve, f"http://127.0.0.1:{PORTS['serve']}/health", folder / "serve.log"),
        running(mlflow_serve, f"http://127.0.0.1:{PORTS['mlflow']}/ping", folder / "mlflow.log"),
    ):
        yield


@contextmanager
def running(command: list[str], url: str, log: Path) -> Iterator[None]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with log.open("w") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=lines, env=environment, start_new_session=True)
    try:
        while not answers(url):
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        with suppress(ProcessLookupError):
            process.wait(timeout=60)
            os.killpg(process.pid, 15)  # MLflow's server is a child of its command


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()

"""How fast is `w3ray predict --window` beside a plain decode loop over the same file?

    python benchmarks/long_video.py DATA/tank-state [--seconds 60] [--rounds 5] [--threads 1]

The files are made of the real clips in DATA, joined and coded again (H.264, x264's defaults, 25 fps): `320x240`, the
clips' own size, and `1280x720`, enlarged. Windows of 2 s every 0.5 s, 8 frames each, segment sampling, untrained TSM.

- `plain`: `for frame in container.decode(video=0): pass`, PyAV's defaults. Nothing is done with the frames.
- `plain-rgb`: the same, with `frame.to_ndarray(format="rgb24")` of every frame.
- `plain-threads`: `plain` with FFmpeg's threads (`thread_type = "AUTO"`). Our reader decodes with one thread.
- `windows`: the clips of all windows, without a network: opening, decoding, cutting out, putting together.
- `predict`: `predict_windows`, from opening the file to the last segment, with loading the model.
- `network`: the network alone, on as many windows as the video has. `predict` cannot be faster.

All run in one process and in turn, in another order in each round. Figures are frames of the video per second.
`ratio_to_plain` is the quotient within a round; `cpu_ratio_to_plain` is that of the CPU seconds of all threads (how
many times as much work it is). The goal was set before the measurement: `predict` reaches 0.8 of `plain` in frames per
second, for small networks. It is the harder of the two readings of "a plain decode loop".
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from _common import spread, write_result
from rich.console import Console
from rich.table import Table

from w3ray.data.clip import ClipSpec
from w3ray.data.decoders import open_video
from w3ray.data.decoders._common import silence_ffmpeg
from w3ray.data.views import parse_protocol
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.evaluation.scorer import VIEWS_AT_ONCE
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, read_description, write_model
from w3ray.scoring.model_files import model_files, scorer_of
from w3ray.scoring.timeline import VideoTimeline, predict_windows
from w3ray.scoring.windows import plan_windows, window_clips
from w3ray.storage import storage_path

GOAL = 0.8
WINDOW_S, STRIDE_S, RATE, CLASSES = 2.0, 0.5, 25, ("a", "b", "c", "d")
SHAPES = ((320, 240), (1280, 720))


@dataclass(frozen=True, slots=True)
class Network:
    backbone: str
    size: int

    @property
    def name(self) -> str:
        return f"{self.backbone}@{self.size}"


NETWORKS = (Network("resnet_small", 64), Network("resnet_small", 112))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=int, default=60, help="length of each file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; default: one for each core")
    arguments = parser.parse_args()
    silence_ffmpeg()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    load = [os.getloadavg()[0]]
    figures: dict[str, Any] = {"goal": GOAL, "threads": torch.get_num_threads(), "cells": {}}
    with tempfile.TemporaryDirectory() as temporary:
        models = {network: made_model(network, Path(temporary) / network.name) for network in NETWORKS}
        for shape in SHAPES:
            file = Path(temporary) / f"{shape[0]}x{shape[1]}.mp4"
            frames = write_long(file, sorted(arguments.data.rglob("*.mp4")), shape, arguments.seconds)
            for network, model in models.items():
                cell = measured(str(file), frames, model, arguments.rounds)
                figures["cells"][f"{shape[0]}x{shape[1]}, {network.name}"] = cell
                load.append(os.getloadavg()[0])
                figures["load"] = {"min": min(load), "max": max(load)}
                command = "python benchmarks/long_video.py DATA " + " ".join(sys.argv[2:])
                path = write_result("long_video", figures, command.strip(), compact=True)  # after every cell
    show(figures)
    print(path)


def made_model(network: Network, folder: Path) -> str:
    arguments: dict[str, Any] = {"name": "tsm", "backbone": network.backbone, "num_classes": len(CLASSES)}
    torch.manual_seed(0)
    clip = asdict(ClipSpec(num_frames=8, size=network.size))
    about = ModelDescription(model=arguments, clip=clip, classes=CLASSES, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    write_model(folder, build_model(**arguments), about)
    return str(folder)


def write_long(path: Path, clips: list[Path], shape: tuple[int, int], seconds: int) -> int:
    """Join clips until the file is long enough. Returns its number of frames."""
    random.Random(0).shuffle(clips)
    count = 0
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *shape, "yuv420p"
        for clip in clips:
            with av.open(str(clip)) as source:
                for frame in source.decode(video=0):
                    if count < seconds * RATE:
                        image = frame.reformat(width=shape[0], height=shape[1], format="yuv420p").to_ndarray()
                        target.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="yuv420p")))
                        count += 1
            if count == seconds * RATE:
                break
        target.mux(stream.encode())
    return count


def plain(file: str, *, rgb: bool = False, threads: bool = False) -> int:
    count = 0
    with av.open(file) as container:
        if threads:
            container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            if rgb:
                frame.to_ndarray(format="rgb24")
            count += 1
    return count


def predicted(file: str, model: str) -> int:
    (one,) = predict_windows(model, [file], window_s=WINDOW_S, stride_s=STRIDE_S)
    assert isinstance(one, VideoTimeline), one
    return one.num_frames


def windows_alone(file: str, model: str) -> None:
    spec, protocol = ClipSpec(**read_description(Path(model)).clip), parse_protocol("1clip-center")
    with open_video(file) as video:
        plan = plan_windows(video, spec, protocol, window_s=WINDOW_S, stride_s=STRIDE_S)
        for _ in window_clips(video, plan, spec, protocol, together=VIEWS_AT_ONCE):
            pass


def network_alone(model: str, windows: int) -> None:
    scorer = scorer_of(model_files(storage_path(model)), parse_protocol("1clip-center"), "scores", {})
    size = scorer.description.clip["size"]
    clips = np.random.default_rng(0).integers(0, 256, (VIEWS_AT_ONCE, 1, 8, size, size, 3), dtype=np.uint8)
    for first in range(0, windows, VIEWS_AT_ONCE):
        scorer(clips[: min(VIEWS_AT_ONCE, windows - first)])


def measured(file: str, frames: int, model: str, rounds: int) -> dict[str, Any]:
    windows = int((frames / RATE - WINDOW_S) / STRIDE_S) + 1
    readers: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(file),
        "plain-rgb": lambda: plain(file, rgb=True),
        "plain-threads": lambda: plain(file, threads=True),
        "windows": lambda: windows_alone(file, model),
        "predict": lambda: predicted(file, model),
        "network": lambda: network_alone(model, windows),
    }
    walls: dict[str, list[float]] = {name: [] for name in readers}
    cpus: dict[str, list[float]] = {name: [] for name in readers}
    predicted(file, model)  # imports, and the file in memory
    for number in range(rounds):
        names = list(readers)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began, cpu = time.perf_counter(), time.process_time()
            count = readers[name]()
            walls[name].append(time.perf_counter() - began)
            cpus[name].append(time.process_time() - cpu)
            assert count in (frames, None), (name, count)
    return {
        "frames": frames,
        "windows": windows,
        "frames_per_s": {name: spread([frames / wall for wall in values]) for name, values in walls.items()},
        "ratio_to_plain": {
            name: median_of([base / wall for base, wall in zip(walls["plain"], values, strict=True)])
            for name, values in walls.items()
        },
        "cpu_ratio_to_plain": {
            name: median_of([cpu / base for base, cpu in zip(cpus["plain"], values, strict=True)])
            for name, values in cpus.items()
        },
    }


def median_of(ratios: list[float]) -> dict[str, float]:
    ordered = sorted(ratios)
    return {"median": ordered[len(ordered) // 2], "min": ordered[0], "max": ordered[-1]}


def show(figures: dict[str, Any]) -> None:
    names = ("plain", "plain-rgb", "plain-threads", "windows", "predict", "network")
    table = Table("cell", *(f"{name}: frames/s, ratio" for name in names))
    for cell, row in figures["cells"].items():
        speeds, ratios = row["frames_per_s"], row["ratio_to_plain"]
        table.add_row(cell, *(f"{speeds[name]['mean']:.0f}, {ratios[name]['median']:.2f}" for name in names))
    Console(markup=False, width=180).print(table)


if __name__ == "__main__":
    main()

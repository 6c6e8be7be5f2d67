"""Which of three readers returns the frames that were asked for, and how much CPU time does it take?

    python benchmarks/decoders.py DATA [--clips 60] [--rounds 5]      # in DATA: tank-state, ut-interaction, egogestar

Readers: `pyav` (ours), and decord and torchcodec (exact mode) as other programs call them, without our check for
correctness. Each opens a file, asks for its number of frames, and reads 8 of them (the centres of 8 equal segments) as
full-size uint8 RGB, with one thread.

- Exactness: on clips whose frames carry their numbers, by codec and container. On the real sets, frames must equal
  those of a decode of the whole file (to 16 levels, for rounding).
- Price: CPU seconds of the process, as a ratio to torchcodec in the same round. In each round the three readers read
  every clip in turn, so all have the same conditions. The target was set before the measurement: the median ratio of
  the rounds on the three real sets is at most 1.05. On the generated clips the ratio is for information.
"""

import argparse
import csv
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from _common import REPO, spread, write_result
from rich.console import Console
from rich.table import Table

sys.path.append(str(REPO / "tests"))
import numbered

from w3ray.data.clip_sampling import segment_indices
from w3ray.data.decoders._common import one_line
from w3ray.data.decoders.prove import decode_whole
from w3ray.data.decoders.pyav import PyavVideo

SETS = ("tank-state", "ut-interaction", "egogestar")
MAX_RATIO = 1.05
ROUNDING = 16  # levels
CELLS = (
    "mpeg1_b.mpg", "mpeg2_b.ts", "mpeg2_b.mxf", "mpeg4.avi", "mpeg4_b.avi", "mpeg4_b.mp4", "h264_default.mp4",
    "h264_default.mkv", "h264_default.avi", "h264_default.ts", "h264_default.flv", "h264_open.mp4", "h264_refresh.mp4",
    "hevc_default.mp4", "hevc_closed.mkv", "vp8_altref.webm", "vp9.webm", "av1.mp4", "wmv2.wmv", "mjpeg.avi",
    "prores.mov", "ffv1.mkv", "flv1.flv", "dv_pal.avi",
)  # fmt: skip

Read = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""Path to (requested frame numbers, frames)."""


def read_pyav(path: str) -> tuple[np.ndarray, np.ndarray]:
    with PyavVideo(path) as video:
        indices = segment_indices(video.info.num_frames, 8, None)
        return indices, video.frames(indices)


def read_decord(path: str) -> tuple[np.ndarray, np.ndarray]:
    import decord

    video = decord.VideoReader(path, num_threads=1)
    indices = segment_indices(len(video), 8, None)
    return indices, video.get_batch(indices.tolist()).asnumpy()


def read_torchcodec(path: str) -> tuple[np.ndarray, np.ndarray]:
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC")
    indices = segment_indices(len(video), 8, None)
    return indices, video.get_frames_at(indices=indices.tolist()).data.numpy()


READERS: dict[str, Read] = {"pyav": read_pyav, "decord": read_decord, "torchcodec": read_torchcodec}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--clips", type=int, default=60, help="clips of each real set")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import decord
    import torch
    from av import logging as av_logging

    torch.set_num_threads(1)
    decord.logging.set_level(decord.logging.QUIET)
    av_logging.set_level(av_logging.PANIC)
    figures: dict[str, Any] = {"max_ratio": MAX_RATIO, "torchcodec": version("torchcodec"), "real": {}, "numbered": {}}
    for name in SETS:
        with (arguments.data / name / "list.csv").open() as lines:
            paths = [str(arguments.data / name / row["path"]) for row in csv.DictReader(lines)]
        random.Random(0).shuffle(paths)
        paths = paths[: arguments.clips]
        wrong = {reader: wrong_frames(read, paths) for reader, read in READERS.items()}
        figures["real"][name] = {"clips": len(paths), "wrong_frames": wrong, **price(paths, arguments.rounds)}
    with tempfile.TemporaryDirectory() as folder:
        for cell in CELLS:
            path = Path(folder) / cell
            codec = numbered.CODECS[path.stem]
            numbered.write(path, codec if codec.width > 160 else replace(codec, height=240, width=320, frames=120))
            figures["numbered"][cell] = {"wrong_of_8": wrong_numbers(path), **price([str(path)], arguments.rounds)}
    show(figures)
    print(write_result("decoders", figures, "python benchmarks/decoders.py DATA " + " ".join(sys.argv[2:])))


def wrong_frames(read: Read, paths: list[str]) -> int | str:
    """The number of frames, over all clips, that differ from those of a whole decode."""
    wrong = 0
    for path in paths:
        whole = list(decode_whole(path))
        indices, frames = read(path)
        for index, frame in zip(indices, frames, strict=True):
            off = index >= len(whole) or np.abs(frame.astype(int) - whole[index]).max() > ROUNDING
            wrong += bool(off)
    return wrong


def wrong_numbers(path: Path) -> dict[str, int | str]:
    """How many of the 8 frames show a wrong number, compared with a whole decode; or why there is no frame."""
    whole = dict(enumerate(numbered.numbers(list(decode_whole(str(path))))))
    found: dict[str, int | str] = {}
    for reader, read in READERS.items():
        try:
            indices, frames = read(str(path))
        except Exception as error:  # the exception is the result
            found[reader] = f"{type(error).__name__}: {one_line(error, str(path), limit=60)}"
            continue
        shown = numbered.numbers(frames)
        found[reader] = sum(whole.get(int(index), -1) != number for index, number in zip(indices, shown, strict=True))
    return found


def price(paths: list[str], rounds: int) -> dict[str, Any]:
    """CPU time of each reader as a ratio to torchcodec's, by rounds, and milliseconds per clip."""
    readers = [(reader, read) for reader, read in READERS.items() if _reads(read, paths[0])]
    times: dict[str, list[float]] = {reader: [] for reader, _ in readers}
    repeats = max(1, 20 // len(paths))
    for number in range(rounds):
        total = dict.fromkeys(times, 0.0)
        for path in paths * repeats:
            for reader, read in _turned(readers, number):
                began = time.process_time()
                read(path)
                total[reader] += time.process_time() - began
        for reader, seconds in total.items():
            times[reader].append(seconds / (len(paths) * repeats))
    price = {"cpu_ms_a_clip": {reader: spread([value * 1e3 for value in values]) for reader, values in times.items()}}
    if "torchcodec" in times:
        ratios = {
            reader: sorted(value / other for value, other in zip(values, times["torchcodec"], strict=True))
            for reader, values in times.items()
        }
        price["ratio_to_torchcodec"] = {
            reader: {"median": values[len(values) // 2], "min": values[0], "max": values[-1]}
            for reader, values in ratios.items()
        }
    return price


def _reads(read: Read, path: str) -> bool:
    try:
        read(path)
    except Exception:
        return False
    return True


def _turned(readers: list[tuple[str, Read]], number: int) -> Iterator[tuple[str, Read]]:
    at = number % len(readers)
    return iter(readers[at:] + readers[:at])


def show(figures: dict[str, Any]) -> None:
    table = Table("clips", *(f"{reader}: wrong, CPU" for reader in READERS))
    for kind, wrong in (("real", "wrong_frames"), ("numbered", "wrong_of_8")):
        for name, row in figures[kind].items():
            ratio = row.get("ratio_to_torchcodec", {})
            cells = []
            for reader in READERS:
                cost = f"{ratio[reader]['median']:.2f}" if reader in ratio else "-"
                cells.append(f"{row[wrong][reader]}, {cost}")
            table.add_row(name, *cells)
    Console(markup=False, width=160).print(table)


if __name__ == "__main__":
    main()

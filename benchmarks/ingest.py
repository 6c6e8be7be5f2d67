"""How fast do clips reach a consumer? Bare loops, torch's DataLoader, Ray Data as its pages show it, our stream.

    python benchmarks/ingest.py [--only h264-320@112 ...] [--rounds 3] [--neighbours 0 2 8]

All of them read the same clips: ten epochs of a schedule, with its order, random frames and crops. The bytes of all
clips are summed up, and must be equal. All decode with the same function (`load_clip`), with two processes.

- `loops`: two processes, each decodes every second microbatch and keeps nothing. This is what the decoder can do.
- `dataloader`: torch's DataLoader with two worker processes, a microbatch each.
- `ray-map`: `ray.data.from_items(...).map_batches(decode)`, then `iter_batches`, with the order kept.
- `ray-read-videos` (one round, one case): `ray.data.read_videos`. It yields every frame of a video as a row, in full
  size, so a whole video is decoded for each clip. Only this is timed: one epoch, no order, no crops, no checksum.
- `stream`: ours, with the decoder pool of a training stage.

With several consumers, each is a process that reads its share of the microbatches; DataLoaders have one worker each
then. One case has more decoders than cores, and four consumers.

Each reader runs in a fresh process, which has imported what it needs. The clock runs from the moment at which that
process asks for clips. So it counts the start of our decoders and of DataLoader's workers, but not that of Ray.
The rounds take the readers in turn. `whole`: clips per second of the first two epochs. `steady`: from a quarter of all
microbatches on. `first_s`: seconds to the first microbatch. The ratios are to the faster of `loops` and `dataloader`
in the same round. Neighbours are processes that compute without end, at ordinary priority.
"""

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, command_of, spread, write_result

READERS = ("loops", "dataloader", "ray-map", "stream")
EPOCHS, MICROBATCH, FRAMES, PROCESSES = 10, 4, 8, 2
EPOCHS_OF_WHOLE = 2
SECONDS, RATE = 5, 25
STEADY_FROM = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is read, and by how many."""

    source: str
    """A name of `SOURCES`."""
    size: int
    consumers: int = 1
    decoders: int = 2
    """Of our stream. The peers always have `PROCESSES`."""
    clips: int = 96

    @property
    def name(self) -> str:
        many = f", {self.decoders} decoders" if self.decoders != PROCESSES else ""
        return f"{self.source}@{self.size}" + (f"x{self.consumers}" if self.consumers > 1 else "") + many


SOURCES: dict[str, tuple[str, int, int, dict[str, str]]] = {
    "h264-320": ("libx264", 320, 240, {}),
    "h264-640": ("libx264", 640, 360, {}),
    "vp9-320": ("libvpx-vp9", 320, 240, {"deadline": "realtime", "cpu-used": "8"}),
    "jpeg-320": ("jpeg", 320, 240, {}),
}
"""Codec, width, height, options. Key frames are as far apart as the encoder's default puts them."""
CASES = {
    case.name: case
    for case in (
        *(Case(source=source, size=112) for source in SOURCES),
        Case(source="h264-320", size=64),
        Case(source="h264-320", size=224),
        Case(source="h264-320", size=112, consumers=2),
        Case(source="h264-320", size=112, consumers=4, decoders=8),
    )
}
VIDEOS_CASE = "h264-320@112"
"""The case in which `ray-read-videos` runs, too."""


# The clips.


def write_clips(folder: Path, source: str, count: int) -> list[str]:
    """Videos of moving textures: as many bits as a hand-held camera's, and other pixels in each frame."""
    import av
    from PIL import Image

    codec, width, height, options = SOURCES[source]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        small = rng.integers(0, 256, (height // 8, width // 4, 3), dtype=np.uint8)
        wide = np.asarray(Image.fromarray(small).resize((2 * width, height), Image.Resampling.BICUBIC))
        frames = (np.roll(wide, -3 * i, axis=1)[:, :width] for i in range(SECONDS * RATE))
        path = folder / (f"{number:04d}" if codec == "jpeg" else f"{number:04d}.mp4")
        paths.append(str(path))
        if path.exists():
            continue
        partial = path.with_name(f"partial-{path.name}")
        if codec == "jpeg":
            partial.mkdir(exist_ok=True)
            for i, frame in enumerate(frames):
                Image.fromarray(frame).save(partial / f"{i + 1:05d}.jpg", quality=90)
        else:
            with av.open(str(partial), "w") as container:
                stream: Any = container.add_stream(codec, rate=RATE, options=options)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                for frame in frames:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                container.mux(stream.encode())
        partial.rename(path)
    return paths


# One reader, in a process of its own.


class Decode:
    """Item number -> clips [M, T, S, S, 3]. A plain loop around `load_clip`."""

    def __init__(self, case: Case, paths: list[str], epochs: int = EPOCHS) -> None:
        from w3ray.data.clip import ClipSpec
        from w3ray.data.schedule import Schedule

        self.spec, self.paths = ClipSpec(num_frames=FRAMES, size=case.size), paths
        self.schedule = Schedule(
            num_train=len(paths), num_val=0, num_test=0, batch_size=MICROBATCH * case.consumers,
            microbatch_size=MICROBATCH,
            epochs=epochs, validate_every_epochs=1, seed=0, world_size=1,
        )  # fmt: skip

    def __len__(self) -> int:
        return self.schedule.total_items

    def __getitem__(self, number: int) -> np.ndarray:
        from w3ray.data.clip import load_clip
        from w3ray.data.schedule import draw_generator

        item = self.schedule.item(number)
        clips = [
            load_clip(self.paths[sample], label=0, spec=self.spec, rng=draw_generator(draw))[0]
            for sample, draw in zip(item.samples, item.draws, strict=True)
        ]
        return np.stack(clips)


@dataclass
class Seen:
    """What a consumer saw: when each microbatch came, and the sum of the checksums of its clips."""

    times_s: list[float]
    checksum: int = 0

    def take(self, clips: np.ndarray) -> None:
        self.times_s.append(time.time())
        for clip in clips:
            self.checksum += zlib.crc32(np.ascontiguousarray(clip).data)


def by_loops(decode: Decode, first: int, step: int) -> Seen:
    seen = Seen([])
    for number in range(first, len(decode), step):
        seen.take(decode[number])
    return seen


def by_dataloader(decode: Decode, first: int, step: int) -> Seen:
    from torch.utils.data import DataLoader

    numbers = list(range(first, len(decode), step))
    data: Any = decode  # a sequence is enough
    loader: Any = DataLoader(data, batch_size=None, sampler=numbers, num_workers=max(1, PROCESSES // step))
    seen = Seen([])
    for clips in loader:
        seen.take(clips.numpy())
    return seen


def by_ray_map(decode: Decode, consumers: int) -> list[Seen]:
    import ray.data
    from ray.data import ActorPoolStrategy

    class Load:
        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"clips": decode[int(batch["item"][0])][None]}

    dataset: Any = ray.data.from_items([{"item": number} for number in range(len(decode))])
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    dataset = dataset.map_batches(Load, batch_size=1, compute=ActorPoolStrategy(size=PROCESSES), num_cpus=0.5)
    if consumers == 1:
        return [consume_rows(dataset)]
    shards = dataset.streaming_split(consumers, equal=False)
    return ray.get([ray.remote(num_cpus=0)(consume_rows).remote(shard) for shard in shards])


def consume_rows(dataset: Any) -> Seen:
    seen = Seen([])
    for batch in dataset.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=2):
        seen.take(batch["clips"][0])
    return seen


def by_read_videos(decode: Decode) -> list[Seen]:
    """One microbatch is counted for as many videos as it holds clips. No clip is cut out."""
    import ray.data

    dataset = ray.data.read_videos(decode.paths)
    dataset.context.enable_progress_bars = False
    seen, frames = Seen([]), 0
    for batch in dataset.iter_batches(batch_size=SECONDS * RATE, batch_format="numpy", prefetch_batches=2):
        frames += len(batch["frame"])
        while frames >= MICROBATCH * SECONDS * RATE:
            frames -= MICROBATCH * SECONDS * RATE
            seen.take(batch["frame"][:0])
    return [seen]


def by_stream(decode: Decode, consumers: int, decoders: int) -> list[Seen]:
    import pyarrow as pa
    import ray

    from w3ray.data.manifest import CLIP_COLUMNS, SCHEMA
    from w3ray.data.microbatch import ClipTables
    from w3ray.data.stream import DecoderPool, build_dataset
    from w3ray.data.stream_spec import StreamSpec

    blank = dict.fromkeys(CLIP_COLUMNS) | {"label": 0, "split": "train", "reversed": False}
    schema = pa.schema([SCHEMA.field(name) for name in CLIP_COLUMNS])
    rows = [blank | {"clip_id": path, "uri": path} for path in decode.paths]
    tables = ClipTables.of({"train": pa.Table.from_pylist(rows, schema=schema)})
    spec = StreamSpec(schedule=decode.schedule.for_world_size(consumers), clip=decode.spec)
    pool = DecoderPool(size=decoders, cpus=round(0.8 * PROCESSES / decoders, 2))
    dataset = build_dataset(spec, tables, pool, first_item=0)
    shards = dataset.streaming_split(consumers, equal=False)
    if consumers == 1:
        return [consume_stream(shards[0])]
    return ray.get([ray.remote(num_cpus=0)(consume_stream).remote(shard) for shard in shards])


def consume_stream(shard: Any) -> Seen:
    from w3ray.data.stream import read_microbatches

    seen = Seen([])
    for microbatch in read_microbatches(shard):
        if not microbatch.valid.all():
            raise SystemExit(f"item {microbatch.number} is not full, so the clips cannot be counted by items")
        seen.take(microbatch.clips)
    return seen


def read(reader: str, case: Case, paths: list[str]) -> None:
    """Run a reader in this process, and print what its consumers saw as JSON."""
    import torch

    torch.set_num_threads(1)
    decode = Decode(case, paths)
    decode[0]  # the imports of the decoder
    if reader in ("loops", "dataloader"):
        count = PROCESSES if reader == "loops" else case.consumers
        run = by_loops if reader == "loops" else by_dataloader
        began = time.time()
        seen = in_processes(run, decode, count)
    else:
        from w3ray.cluster.connect import connect, disconnect

        import_module("w3ray.data.stream")  # this imports Ray Data, before the clock starts
        connect(None, num_cpus=PROCESSES)
        began = time.time()
        if reader == "ray-read-videos":
            seen = by_read_videos(decode)
        else:
            on_stream = reader == "stream"
            seen = by_stream(decode, case.consumers, case.decoders) if on_stream else by_ray_map(decode, case.consumers)
        disconnect()
    checksum = sum(one.checksum for one in seen)
    times = sorted(moment - began for one in seen for moment in one.times_s)
    print(json.dumps({"times_s": times, "checksum": checksum}))


def in_processes(run: Any, decode: Decode, count: int) -> list[Seen]:
    """Run a reader `count` times at once, each in a fork, on every `count`th microbatch."""
    if count == 1:
        return [run(decode, 0, 1)]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def work(first: int) -> None:
        queue.put(run(decode, first, count))

    processes = [context.Process(target=work, args=(first,)) for first in range(count)]
    for process in processes:
        process.start()
    seen = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return seen


# The rounds.


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """This number of processes that compute without end."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run_reader(reader: str, case: Case, paths: list[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--read", reader, json.dumps(asdict(case)), json.dumps(paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, errors = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            raise
    if process.returncode != 0:
        raise SystemExit(f"{reader}: {errors[-2000:]}")
    found = json.loads(out.splitlines()[-1])
    times = found["times_s"]
    start = int(len(times) * STEADY_FROM)
    epochs = 1 if reader == "ray-read-videos" else EPOCHS
    whole = len(times) * min(EPOCHS_OF_WHOLE, epochs) // epochs
    return {
        "whole": whole * MICROBATCH / times[whole - 1],
        "steady": (len(times) - 1 - start) * MICROBATCH / (times[-1] - times[start]),
        "first_s": times[0],
        "checksum": found["checksum"],
    }


def measure(case: Case, paths: list[str], rounds: int) -> dict[str, Any]:
    """Figures of a case: for each reader clips/s, and ratios to the better of the two peers of the same round."""
    found: dict[str, list[dict[str, Any]]] = {reader: [] for reader in READERS}
    for _ in range(rounds):
        for reader in READERS:
            found[reader].append(run_reader(reader, case, paths))
    checksums = {reader: {one["checksum"] for one in runs} for reader, runs in found.items()}
    if len(set.union(*checksums.values())) != 1:
        raise SystemExit(f"{case.name}: the readers did not read the same clips: {checksums}")
    figures: dict[str, Any] = {}
    for reader, runs in found.items():
        row: dict[str, Any] = {key: spread([one[key] for one in runs]) for key in ("whole", "steady", "first_s")}
        for key in ("whole", "steady"):
            ratios = [one[key] / max(found["loops"][i][key], found["dataloader"][i][key]) for i, one in enumerate(runs)]
            row[f"{key}_ratio"] = {"median": statistics.median(ratios), **spread(ratios)}
        figures[reader] = row
    if case.name == VIDEOS_CASE:
        alone = run_reader("ray-read-videos", case, paths)
        figures["ray-read-videos"] = {key: alone[key] for key in ("whole", "steady", "first_s")}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=96, help="videos of a set")
    parser.add_argument("--neighbours", nargs="+", type=int, default=[0])
    parser.add_argument("--keep", action="store_true", help="keep the figures of cases that are not measured now")
    parser.add_argument("--work", type=Path, default=Path("runs/ingest"))
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        reader, case, paths = options.read
        return read(reader, Case(**json.loads(case)), json.loads(paths))

    path = RESULTS / "ingest.json"
    figures: dict[str, Any] = json.loads(path.read_text())["figures"] if options.keep else {}
    for busy in options.neighbours:
        for name in options.only:
            case = replace(CASES[name], clips=options.clips)
            paths = write_clips((options.work / case.source).absolute(), case.source, case.clips)
            key = name if busy == 0 else f"{name}, {busy} neighbours"
            with neighbours(busy):
                figures[key] = measure(case, paths, options.rounds)
            show(key, figures[key])
    figures["load"] = round(os.getloadavg()[1], 1)
    print(write_result("ingest", figures, command_of("ingest", sys.argv[1:]), compact=True))


def show(name: str, figures: dict[str, Any]) -> None:
    for reader, row in figures.items():
        if reader not in READERS:
            print(f"{name:<28}{reader}: {row}", flush=True)
            continue
        print(
            f"{name:<28}{reader:<12} whole {row['whole']['mean']:7.1f}/s ({row['whole_ratio']['median']:.2f})   "
            f"steady {row['steady']['mean']:7.1f}/s ({row['steady_ratio']['median']:.2f})   "
            f"first {row['first_s']['mean']:6.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()

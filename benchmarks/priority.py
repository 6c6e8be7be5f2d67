"""What do decoders of lower priority gain a trainer on the same cores, and what do they lose beside busy neighbours?

    python benchmarks/priority.py [--rounds 3] [--neighbours 0 2 8]

A trainer and a decoder share two cores as the resource plan shares them: one thread and one process. The trainer reads
the stream and takes training steps of TSM with the real `TrainingStep`. Decoders run at ordinary priority, as those of
the package do, at nice 10, or as SCHED_IDLE. Neighbours are processes that compute without end, at ordinary priority.

A round takes the priorities in turn, each in a fresh process with a Ray of its own. After 20 steps, clips are counted
for 12 seconds; 0 means that 20 steps took more than a minute. A figure is the ratio to ordinary priority in the same
round.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from _common import command_of, spread, write_result
from ingest import MICROBATCH, Case, Decode, neighbours, write_clips

NETWORKS = {"resnet_small": 56, "resnet18": 112}
"""Backbone -> pixels. Training the first takes less time than decoding, training the second more."""
EPOCHS = 200
"""More than are trained."""
CLIPS = 96
START_S, WARM_UP, WINDOW_S, PATIENCE_S = 15.0, 20, 12.0, 60.0


def ordinary() -> None:
    pass


def nice() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 10)


def idle() -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


PRIORITIES: dict[str, Callable[[], None]] = {"ordinary": ordinary, "nice-10": nice, "idle": idle}


def train(priority: str, backbone: str, paths: list[str]) -> None:
    """Train on a stream whose decoders have this priority; print when each step was done, until an interrupt."""
    import pyarrow as pa
    import torch

    from w3ray.cluster.connect import connect, disconnect
    from w3ray.data import stream as streams
    from w3ray.data.manifest import CLIP_COLUMNS, SCHEMA
    from w3ray.data.microbatch import ClipTables, MicrobatchDecoder
    from w3ray.data.stream_spec import StreamSpec
    from w3ray.models import build_model
    from w3ray.runtime.allocator import keep_memory
    from w3ray.training.optimizer import build_optimizer, parameter_groups
    from w3ray.training.step import TrainingStep

    class Decoder(MicrobatchDecoder):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            PRIORITIES[priority]()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    torch.set_num_threads(1)
    keep_memory()
    decode = Decode(Case(source="h264-320", size=NETWORKS[backbone]), paths, EPOCHS)
    connect(None, num_cpus=2)
    streams.MicrobatchDecoder = Decoder  # type: ignore[assignment, misc]
    blank = dict.fromkeys(CLIP_COLUMNS) | {"label": 0, "split": "train", "reversed": False}
    schema = pa.schema([SCHEMA.field(name) for name in CLIP_COLUMNS])
    rows = [blank | {"clip_id": path, "uri": path} for path in paths]
    tables = ClipTables.of({"train": pa.Table.from_pylist(rows, schema=schema)})
    spec = StreamSpec(schedule=decode.schedule.for_world_size(1), clip=decode.spec)
    pool = streams.DecoderPool(size=1, cpus=0.8)
    (shard,) = streams.build_dataset(spec, tables, pool, first_item=0).streaming_split(1, equal=False)
    model = build_model("tsm", backbone=backbone, num_classes=10, attention={"kind": "w3"}, weights=None)
    optimizer = build_optimizer("sgd", parameter_groups(model, lr=1e-6, weight_decay=5e-4))
    step = TrainingStep(model, optimizer=optimizer, loss_weights={"cross_entropy": 1.0})
    with suppress(KeyboardInterrupt), closing(streams.read_microbatches(shard)) as microbatches:
        for microbatch in microbatches:
            clips, labels, valid = map(torch.from_numpy, (microbatch.clips, microbatch.labels, microbatch.valid))
            step.accumulate(clips, labels, valid, normalizer=MICROBATCH, seed=0, last=True)
            step.update(1e-6)
            print(time.time(), flush=True)
    disconnect()


def clips_per_second(priority: str, backbone: str, paths: list[str]) -> float:
    """Counted after `WARM_UP` steps; 0 if these take more than `PATIENCE_S` seconds."""
    settings = json.dumps([priority, backbone, paths])
    command = [sys.executable, __file__, "--train", settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        times_s: list[float] = []
        thread = threading.Thread(target=take_times, args=(process.stdout, times_s), daemon=True)
        thread.start()
        until_s = time.time() + START_S + PATIENCE_S
        while len(times_s) < WARM_UP and time.time() < until_s and process.poll() is None:
            time.sleep(0.1)
        if len(times_s) >= WARM_UP:
            time.sleep(max(0.0, times_s[WARM_UP - 1] + WINDOW_S - time.time()))
        if process.poll() is not None:
            raise SystemExit(f"{priority}: ended after {len(times_s)} steps")
        process.send_signal(signal.SIGINT)
        thread.join()
    if len(times_s) < WARM_UP:
        return 0.0
    began_s = times_s[WARM_UP - 1]
    return MICROBATCH * sum(began_s < moment <= began_s + WINDOW_S for moment in times_s) / WINDOW_S


def take_times(lines: Iterable[str], times_s: list[float]) -> None:
    for line in lines:  # Ray writes between them
        with suppress(ValueError):
            times_s.append(float(line))


def measure(backbone: str, paths: list[str], rounds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {priority: [] for priority in PRIORITIES}
    for _ in range(rounds):
        for priority, rates in found.items():
            rates.append(clips_per_second(priority, backbone, paths))
    return {
        priority: {
            "clips_per_s": spread(rates),
            "ratio": statistics.median(ratios(rates, found["ordinary"])),
            "ratios": ratios(rates, found["ordinary"]),
        }
        for priority, rates in found.items()
    }


def ratios(rates: list[float], base: list[float]) -> list[float]:
    return [round(rate / other, 3) for rate, other in zip(rates, base, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--neighbours", nargs="+", type=int, default=[0, 2, 8])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--work", type=Path, default=Path("runs/ingest"))
    parser.add_argument("--train", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return train(*json.loads(options.train))
    paths = write_clips((options.work / "h264-320").absolute(), "h264-320", CLIPS)
    figures: dict[str, Any] = {}
    for busy in options.neighbours:
        for backbone in options.networks:
            name = f"{backbone}, {busy} neighbours"
            with neighbours(busy):
                figures[name] = measure(backbone, paths, options.rounds)
            shown = "  ".join(f"{key} {row['ratio']:.2f} {row['ratios']}" for key, row in figures[name].items())
            print(f"{name:<30}{figures[name]['ordinary']['clips_per_s']['mean']:6.1f}/s  {shown}", flush=True)
    figures["load"] = round(os.getloadavg()[1], 1)
    print(write_result("priority", figures, command_of("priority", sys.argv[1:]), compact=True))


if __name__ == "__main__":
    main()

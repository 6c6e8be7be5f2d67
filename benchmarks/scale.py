"""The cost of the design at sizes that no test reaches. These are the figures of `docs/scale.md`.

    python benchmarks/scale.py [--only PART ...] [--clips N]

Parts:
  driver       a manifest of 10 million clips is read, checked and prepared
  resume       from the start of the stream to its first decoded microbatch, at step 10 and at step 1,000,000; memory of
               coordinator and decoder
  schedule     computing an item
  decode       decoding a clip
  coordinator  blocks per second that one coordinator deals out, with instant decoders
  store        bytes that wait in the object store while nobody reads
  tracking     requests of a real run to a real MLflow server, and how many requests that server can answer

Parts that are not named keep their figures in `results/scale.json`.

The uris of the manifest all lead to a few real clips, so that real videos are decoded. The work folder needs 1 GiB.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from _common import RESULTS, W3RAY, spread, write_result

import w3ray.data.stream as stream
from w3ray.cluster.connect import connect, disconnect
from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.manifest import SCHEMA
from w3ray.data.microbatch import ClipTables, Microbatch, to_row
from w3ray.data.schedule import Schedule
from w3ray.data.stream import (
    DecoderPool,
    ItemNumbers,
    build_dataset,
    read_microbatches,
)
from w3ray.data.stream_spec import StreamSpec
from w3ray.data.synthetic import write_motion_dataset
from w3ray.runtime.stream_config import STREAM_NAME, StreamConfig

# A stream that is abandoned must not start its own Ray to report that.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"

MIB = 2**20
NEAR, FAR = 10, 1_000_000
REPEATS = 4
EPOCHS, BATCH, MICROBATCH = 50, 64, 8


def write_large_manifest(folder: Path, num_clips: int) -> Path:
    """Write a manifest of clips whose uris are different spellings of the paths of a few real videos."""
    small = write_motion_dataset(folder / "clips", clips=8, val_clips=8, test_clips=8, size=64)
    videos = small.resolved_uris()
    path = folder / f"{num_clips}.parquet"
    classes = json.dumps(list(small.classes))
    metadata = {"w3ray.version": "1", "w3ray.classes": classes, "w3ray.flip_map": "{}"}
    with pq.ParquetWriter(path, SCHEMA.with_metadata(metadata), compression="zstd") as writer:
        for start in range(0, num_clips, 1_000_000):
            numbers = np.arange(start, min(start + 1_000_000, num_clips))
            names = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
            uris = pa.array(videos).take(pa.array(numbers % len(videos)))
            splits = pa.DictionaryArray.from_arrays(pa.array((numbers % 200 == 199).astype(np.int32)), ["train", "val"])
            columns = {
                "clip_id": pc.binary_join_element_wise("clip", names, "-"),
                "uri": uris,
                "start_s": pa.nulls(len(numbers), pa.float64()),
                "end_s": pa.nulls(len(numbers), pa.float64()),
                "reversed": pa.array(np.zeros(len(numbers), bool)),
                "label": pa.array(numbers % len(small.classes), pa.int32()),
                "split": splits.cast(pa.string()),
                "group": pc.binary_join_element_wise("group", pa.array(numbers % 5000).cast(pa.string()), "-"),
            }
            writer.write_table(pa.table(columns, schema=SCHEMA))
    return path


# A memory peak belongs to a process, so the work of the driver runs in a process that does nothing else.
PREPARE = """
import json, resource, sys, time
from w3ray.data.manifest import read_manifest
from w3ray.pipeline.prepare import prepare_data
from w3ray.recipe import load_recipe

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = peak_mib()
wall, cpu = time.monotonic(), time.process_time()
manifest = read_manifest(sys.argv[1])
found = {"read_s": time.monotonic() - wall, "read_cpu_s": time.process_time() - cpu}
found |= {"manifest_mib": manifest.table.nbytes / 2**20, "read_peak_mib": peak_mib()}
cpu = time.process_time()
found["fingerprint"] = manifest.fingerprint()
found["fingerprint_cpu_s"] = time.process_time() - cpu
del manifest
wall, cpu = time.monotonic(), time.process_time()
data = prepare_data(load_recipe("tank-state", [f"data.manifest={sys.argv[1]}", "data.test_split=val"]))
found |= {"prepare_s": time.monotonic() - wall, "prepare_cpu_s": time.process_time() - cpu}
splits = {id(table): table for table in data.splits.values()}
found |= {"splits_mib": sum(table.nbytes for table in splits.values()) / 2**20}
found |= {"imports_mib": before, "peak_mib": peak_mib()}
import psutil
found["held_mib"] = psutil.Process().memory_full_info().uss / 2**20
print(json.dumps(found))
"""


def driver(manifest: Path, work: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", PREPARE, str(manifest)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=work).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    found.pop("fingerprint")
    return found


def schedule_for(num_clips: int, world_size: int = 1) -> Schedule:
    return Schedule(
        num_train=num_clips, num_val=0, num_test=0, batch_size=BATCH, microbatch_size=MICROBATCH, epochs=EPOCHS,
        validate_every_epochs=1, seed=0, world_size=world_size,
    )  # fmt: skip


def schedule(manifest: Path, work: Path) -> dict[str, Any]:
    """Microseconds of one item, and of a jump, at the first step and at the last one."""
    figures = {}
    for num_clips in (10**4, 10**6, 10**8):
        one = schedule_for(num_clips)
        for where, step in (("first", 0), ("last", one.total_steps - 1)):
            items = []
            for _ in range(5):
                began = time.process_time()
                for i in range(300):
                    one.item(one.first_item(step) + i % (BATCH // MICROBATCH))
                items.append((time.process_time() - began) / 300 * 1e6)
            figures[f"{num_clips}_clips_{where}_step_us"] = spread(items)
    return figures


def decode(manifest: Path, work: Path) -> dict[str, Any]:
    """Processor time of decoding 8 frames of a 256 x 256 video, for 224 pixels and for the size of the quickstart."""
    small = write_motion_dataset(work / "large", clips=8, val_clips=8, test_clips=8, size=256, gop_frames=12)
    rows = [(uri, label) for uri, label in zip(small.resolved_uris(), small.table["label"].to_pylist(), strict=True)]
    figures = {}
    for side in (40, 224):
        spec = ClipSpec(num_frames=8, size=side)
        times = []
        for repeat in range(4):
            began = time.process_time()
            for i, (uri, label) in enumerate(rows):
                load_clip(uri, label=label, spec=spec, rng=np.random.default_rng(i))
            if repeat:  # the first round imports torch
                times.append((time.process_time() - began) / len(rows) * 1e3)
        figures[f"{side}px_cpu_ms_a_clip"] = spread(times)
    return figures


def processes(name: str) -> list[psutil.Process]:
    """The processes of this process's own Ray with `name` in their title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def uss_mib(process: psutil.Process) -> float:
    return process.memory_full_info().uss / MIB


@contextmanager
def coordinator_of(shards: list[Any]) -> Iterator[None]:
    """End the stream and wait for its processes. Otherwise they would use the processors of the next one."""
    import ray

    try:
        yield
    finally:
        for coordinator in {shard._coord_actor for shard in shards}:
            ray.kill(coordinator)
        deadline = time.monotonic() + 60
        while (processes("MapWorker") or processes("SplitCoordinator")) and time.monotonic() < deadline:
            time.sleep(0.2)


def resume(manifest: Path, work: Path) -> dict[str, Any]:
    from w3ray.pipeline.prepare import prepare_data
    from w3ray.recipe import load_recipe

    data = prepare_data(load_recipe("tank-state", [f"data.manifest={manifest}", "data.test_split=val"]))
    num_train, bytes_a_row = data.splits["train"].num_rows, data.splits["train"].nbytes / data.splits["train"].num_rows
    connect(None, num_cpus=2)
    try:
        began = time.monotonic()
        tables = ClipTables.of(data.splits)
        put_s = time.monotonic() - began
        del data
        one = schedule_for(num_train)
        runs: dict[int, list[dict[str, float]]] = {NEAR: [], FAR: []}
        _first_microbatch(one, tables, NEAR)  # not counted, because no worker has started yet
        for repeat in range(REPEATS):
            for step in (NEAR, FAR) if repeat % 2 else (FAR, NEAR):
                runs[step].append(_first_microbatch(one, tables, step))
                print(step, runs[step][-1], flush=True)
        seconds = {step: [run["seconds"] for run in runs[step]] for step in runs}
        lookups = _lookup_us(tables.fetched()["train"])
        return {
            "clips": num_train,
            "items": one.total_items,
            "put_s": put_s,
            "table_bytes_a_row": bytes_a_row,
            "row_lookup_us": lookups,
            "seconds_to_first_microbatch": {str(step): spread(seconds[step]) for step in seconds},
            "ratio_far_to_near": spread([far / near for near, far in zip(*seconds.values(), strict=True)]),
            "cpu_s_to_first_microbatch": {str(step): spread([run["cpu_s"] for run in runs[step]]) for step in runs},
            "cpu_ratio_far_to_near": spread(
                [far["cpu_s"] / near["cpu_s"] for near, far in zip(*runs.values(), strict=True)]
            ),
            "decoder_uss_mib": {str(step): spread([run["decoder_uss_mib"] for run in runs[step]]) for step in runs},
            "coordinator_uss_mib": {
                str(step): spread([run["coordinator_uss_mib"] for run in runs[step]]) for step in runs
            },
            "read_tasks": {
                str(step): len(ItemNumbers(one.first_item(step), one.total_items).get_read_tasks(1)) for step in runs
            },
        }
    finally:
        disconnect()


def _first_microbatch(one: Schedule, tables: ClipTables, step: int) -> dict[str, float]:
    began = time.monotonic()
    dataset = build_dataset(
        StreamSpec(schedule=one, clip=ClipSpec(num_frames=8, size=40)), tables, DecoderPool(size=1, cpus=0.5),
        first_item=one.first_item(step),
    )  # fmt: skip
    shards = dataset.streaming_split(1, equal=False)
    with coordinator_of(shards):
        microbatches = read_microbatches(shards[0])
        first = next(microbatches)
        seconds = time.monotonic() - began
        (decoder,), (coordinator,) = processes("MapWorker"), processes("SplitCoordinator")
        cpu_s = _cpu_s(decoder) + _cpu_s(coordinator)
        if (first.step, first.number) != (step, one.first_item(step)) or not first.valid.all():
            raise SystemExit(f"step {step}: the stream began with item {first.number} of step {first.step}")
        for _ in range(8):
            next(microbatches)
        memory = {"decoder_uss_mib": uss_mib(decoder), "coordinator_uss_mib": uss_mib(coordinator)}
        microbatches.close()
    return {"seconds": seconds, "cpu_s": cpu_s, **memory}


def _lookup_us(table: pa.Table) -> dict[str, float | int]:
    places = np.random.default_rng(0).integers(table.num_rows, size=2000)
    times = []
    for _ in range(3):
        began = time.process_time()
        for place in places:
            table.slice(int(place), 1).to_pylist()
        times.append((time.process_time() - began) / len(places) * 1e6)
    return spread(times)


class InstantDecoder:
    """Takes the place of `MicrobatchDecoder`: returns the same block at once, with as many bytes as a real one."""

    def __init__(self, spec: StreamSpec, *_: Any, **__: Any) -> None:
        self.one, clip = spec.schedule, spec.clip
        self.clips = np.zeros((self.one.microbatch_size, clip.num_frames, clip.size, clip.size, 3), np.uint8)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for number in batch["items"][0]:
            item = self.one.item(int(number))
            labels = np.zeros(len(item.samples), np.int64)
            yield to_row(
                Microbatch(
                    item.number, item.kind, item.epoch, item.step, item.slot, self.clips, labels, labels == 0,
                    item.positions, item.samples, ("",) * len(labels), labels.astype(np.uint64), (),
                )
            )  # fmt: skip


def coordinator(manifest: Path, work: Path) -> dict[str, Any]:
    """Blocks dealt out per second if decoders and readers take no time, and the coordinator's processor time per block.

    Only the processor time carries over to another machine, because on few cores all processes share them.
    """
    connect(None, num_cpus=2)
    try:
        figures = {}
        for splits, decoders, side, blocks, groups in (
            (1, 1, 40, 300, 1),
            (1, 4, 40, 400, 1),
            (2, 4, 40, 400, 1),
            (8, 4, 40, 400, 1),
            (8, 4, 40, 400, 2),
            (32, 4, 40, 400, 1),
            (32, 4, 40, 400, 4),
            (2, 4, 224, 150, 1),
        ):
            name = f"{splits}_splits_{decoders}_decoders_{side}px" + (f"_{groups}_coordinators" if groups > 1 else "")
            figures[name] = _deal(splits, decoders, side, blocks, groups)
            print(name, figures[name], flush=True)
        return figures
    finally:
        disconnect()


def _deal(splits: int, decoders: int, side: int, blocks: int, groups: int) -> dict[str, Any]:
    real, stream.MicrobatchDecoder = stream.MicrobatchDecoder, InstantDecoder  # type: ignore[assignment, misc]
    try:
        config = StreamConfig(
            StreamSpec(schedule=schedule_for(10_000_000), clip=ClipSpec(num_frames=8, size=side)),
            ClipTables(splits={}),
            DecoderPool(size=decoders, cpus=round(1.6 / decoders, 2)), steps_done=lambda: 0,
            readers_per_coordinator=splits // groups,
        )  # fmt: skip
        shards = [parts[STREAM_NAME] for parts in config.configure({}, splits, None, None)]
    finally:
        stream.MicrobatchDecoder = real  # type: ignore[misc]
    arrivals: list[float] = []
    faults: list[str] = []

    def read(rank: int) -> None:
        due = rank
        try:
            with closing(read_microbatches(shards[rank])) as microbatches:
                for microbatch in microbatches:
                    if microbatch.number != due:
                        raise ValueError(f"item {microbatch.number} came, {due} was due")
                    arrivals.append(time.monotonic())
                    due += splits
                    if due >= splits * 4 + blocks:
                        return
        except Exception as error:
            faults.append(f"reader {rank}: {error}")  # the other thread would wait for its microbatches forever

    with coordinator_of(shards):
        readers = [threading.Thread(target=read, args=(rank,)) for rank in range(splits)]
        for reader in readers:
            reader.start()
        while len(arrivals) < splits * 4 and not faults:
            time.sleep(0.01)
        coordinators = processes("SplitCoordinator")
        assert len(coordinators) == groups, f"{len(coordinators)} coordinators instead of {groups}"
        dealt, began = len(arrivals), time.monotonic()
        cpu, memory = sum(map(_cpu_s, coordinators)), sum(map(uss_mib, coordinators))
        for reader in readers:
            reader.join()
        dealt, wall, cpu = len(arrivals) - dealt, time.monotonic() - began, sum(map(_cpu_s, coordinators)) - cpu
        memory = sum(map(uss_mib, coordinators)) - memory
    if faults:
        raise SystemExit("; ".join(faults))
    return {
        "block_bytes": MICROBATCH * 8 * side * side * 3,
        "blocks": dealt,
        "blocks_per_s": dealt / wall,
        "coordinator_cpu_ms_a_block": cpu / dealt * 1e3,
        "coordinator_growth_kib_a_block": memory * 1024 / dealt,
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def store(manifest: Path, work: Path) -> dict[str, Any]:
    """Bytes in the object store while nobody reads (decoders run ahead), for two sizes of the store."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    figures = {}
    for store_mib in (128, 256):
        ray.init(
            address="local", num_cpus=2, object_store_memory=store_mib * MIB, log_to_driver=False,
            include_dashboard=False,
        )  # fmt: skip
        try:
            state = get_state_from_address(ray.get_runtime_context().gcs_address)

            def used(state: Any = state) -> float:
                return get_memory_info_reply(state).store_stats.object_store_bytes_used / MIB

            one = schedule_for(10_000_000)
            real, stream.MicrobatchDecoder = stream.MicrobatchDecoder, InstantDecoder  # type: ignore[assignment, misc]
            try:
                dataset = build_dataset(
                    StreamSpec(schedule=one, clip=ClipSpec(num_frames=8, size=112)), ClipTables(splits={}),
                    DecoderPool(size=2, cpus=0.5), first_item=0,
                )  # fmt: skip
            finally:
                stream.MicrobatchDecoder = real  # type: ignore[misc]
            before = used()
            shards = dataset.streaming_split(1, equal=False)
            with coordinator_of(shards):
                microbatches = read_microbatches(shards[0])
                next(microbatches)
                seen = [0.0]
                while len(seen) < 8 or max(seen[-6:]) > max(seen[:-6]):  # until it has not grown for six seconds
                    time.sleep(1.0)
                    seen.append(used() - before)
                microbatches.close()
            figures[f"store_{store_mib}_mib"] = {
                "store_mib": store_mib,
                "block_mib": MICROBATCH * 8 * 112 * 112 * 3 / MIB,
                "waiting_mib": max(seen),
                "share_of_store": max(seen) / store_mib,
            }
        finally:
            disconnect()
    return figures


@contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """A real server over SQLite: its address, and its log with one line per request."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--serve-artifacts"]
    command += ["--artifacts-destination", str(folder / "files")]
    log = folder / "server.log"
    settings = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=settings, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"mlflow server did not start: {log.read_text()[-2000:]}") from None
                time.sleep(0.3)
        yield uri, log
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def requests_in(text: str) -> Counter[str]:
    """The requests in the log of a server, counted by path, without the names of runs."""
    found: Counter[str] = Counter()
    for method, path in re.findall(r'"(GET|POST|PUT|PATCH|DELETE) (\S+) HTTP', text):
        path = path.split("?")[0].removeprefix("/api/2.0/mlflow")
        path = re.sub(r"[0-9a-f]{32}|m-[0-9a-f]+|/mlflow-artifacts/.*|/\d+(?=/|$)", "*", path)
        found[f"{method} {path}"] += 1
    return found


def tracking(manifest: Path, work: Path) -> dict[str, Any]:
    with mlflow_server(work) as (uri, log):
        command = [str(W3RAY), "run", "quickstart", "--storage", str(work / "runs"), "--json"]
        for setting in (
            f"tracking.uri={uri}",
            "train.epochs=2",
            "train.log_every_steps=1",
            "data.synthetic.clips=64",
            "data.synthetic.val_clips=16",
            "data.synthetic.test_clips=16",
        ):
            command += ["--set", setting]
        began = time.monotonic()
        with (work / "run.log").open("w") as errors:
            output = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, check=True).stdout
        wall = time.monotonic() - began
        found = requests_in(log.read_text())
        document = json.loads(output)
        capacity = {str(clients): _capacity(uri, clients) for clients in (1, 4)}
    batches = sum(count for request, count in found.items() if "log-batch" in request)
    return {
        "run": {
            "stages": len(document["stages"]),
            "steps": 2 * 2 * 64 // 8,
            "wall_s": wall,
            "requests": sum(found.values()),
            "log_batch_requests": batches,
            "requests_per_s": sum(found.values()) / wall,
            "by_request": dict(found.most_common(12)),
        },
        "server_log_batch_per_s": capacity,
    }


def _capacity(uri: str, clients: int) -> dict[str, float]:
    """Calls of `log-batch` per second that one server answers: the metrics of a step, from several drivers."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(uri)
    runs = [client.create_run("0").info.run_id for _ in range(clients)]
    answered = [0] * clients
    end = time.monotonic() + 8.0

    def call(i: int) -> None:
        mine, step = MlflowClient(uri), 0
        while time.monotonic() < end:
            points = [Metric(f"train/{name}", 0.5, 1, step) for name in range(7)]
            mine.log_batch(runs[i], metrics=points)
            step += 1
            answered[i] += 1

    threads = [threading.Thread(target=call, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"calls_per_s": sum(answered) / 8.0, "points_a_call": 7}


PARTS = {part.__name__: part for part in (driver, resume, schedule, decode, coordinator, store, tracking)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--clips", type=int, default=10_000_000)
    parser.add_argument("--work", type=Path, default=None, help="where the work folder is made (else the system's)")
    options = parser.parse_args()
    path = RESULTS / "scale.json"
    work = Path(tempfile.mkdtemp(prefix="w3ray-scale-", dir=options.work))
    try:
        needs = {"driver", "resume"} & set(options.only)
        manifest = write_large_manifest(work, options.clips) if needs else work
        for name in options.only:
            began = time.monotonic()
            load = os.getloadavg()[0]
            found = PARTS[name](manifest, work) | {"load_before": load}
            found["took_s"] = time.monotonic() - began
            print(name, json.dumps(found, indent=1), flush=True)
            figures = json.loads(path.read_text())["figures"] if path.is_file() else {}
            figures[name] = found
            write_result("scale", figures, "python benchmarks/scale.py")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()

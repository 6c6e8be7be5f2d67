"""What does one GPU do with TSM, plain and with W3, and does it compute what a CPU computes?

    python benchmarks/gpu.py [--minutes 10] [--tiny] [--first-half] [--out FOLDER]

The first half needs torch and torchvision, and neither Ray nor MLflow nor a decoder:

- `checks`: gradients of the GPU against those of the CPU, plain, with Triton kernels, and compiled; training in fp16;
  DDP with one rank (NCCL) against no DDP. If one fails, the script ends with exit code 1.
- `throughput`: clips/s of whole training steps of ResNet-50 with 8 and 16 frames, in fp32, TF32 and bf16, compiled and
  not, and W3 with Triton kernels, on clips that are on the GPU already; seconds of the first step, which compiles; peak
  of GPU memory.
- `share_of_w3`: the part of a step that W3 and AFR take: 1 - seconds of plain TSM / seconds with W3.
- `transfer`: the part of a step that waits for clips in ordinary memory, by how they travel.

The second half, `stage`, is a short training by `w3ray.run` on generated clips: clips/s and the share of data wait. It
is left out where Ray is not installed.

Parts are measured in the order of their worth, until `--minutes` have passed. What was not reached is listed in
`left_out`. Writes `results/gpu.json`. `--tiny` is for tests: a small network on small clips, also on a CPU.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _common import RESULTS, spread, write_result
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from w3ray.attention.gating import triton_kernels
from w3ray.models import build_model
from w3ray.training.on_gpu import compiled, tf32, weights_channels_last
from w3ray.training.optimizer import build_optimizer, parameter_groups
from w3ray.training.step import Precision, TrainingStep
from w3ray.training.transfer import Transfer

NETWORKS = {"tsm": None, "tsm_w3": {"kind": "w3"}}
ARITHMETIC: dict[str, tuple[Precision, bool]] = {
    "fp32": ("fp32", False),
    "tf32": ("fp32", True),
    "bf16": ("bf16", False),
}
"""Name -> autocast type, and whether TF32 is allowed."""
CLASSES = 174
WARM_UP_STEPS = 3
RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large everything is."""

    backbone: str
    pixels: int
    frames: tuple[int, ...]
    clips: int
    """Of a microbatch."""
    microbatches: int
    """Of a step in which clips travel."""
    run_s: float
    """Least seconds of one of the runs that are timed."""
    backend: str
    """Of the compiler."""
    compiled: tuple[str, ...]
    """The arithmetics that are compiled, the most interesting first."""
    compile_s: float
    """A cell that compiles is begun only if so many seconds are left."""
    stage: tuple[str, ...]
    """Overrides of the recipe `quickstart` for the second half."""


LARGE = Size(
    backbone="resnet50", pixels=224, frames=(8, 16), clips=8, microbatches=8, run_s=1.5, backend="inductor",
    compiled=("bf16", "tf32", "fp32"), compile_s=120.0,
    stage=(
        "model.backbone=resnet50", "data.size=224", "data.synthetic.clips=512", "data.synthetic.test_clips=64",
        "train.epochs=3", "train.batch_size=64", "train.precision=auto", "train.log_every_steps=1",
    ),
)  # fmt: skip
TINY = Size(
    backbone="resnet_small", pixels=32, frames=(2,), clips=2, microbatches=2, run_s=0.0, backend="eager",
    compiled=("bf16",), compile_s=0.0,
    stage=("data.synthetic.clips=16", "data.synthetic.test_clips=16", "train.epochs=1", "train.precision=auto"),
)  # fmt: skip


def network(size: Size, name: str, device: torch.device, *, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = build_model(
        "tsm", backbone=size.backbone, num_classes=CLASSES, attention=NETWORKS[name], dropout=0.0, weights=None
    )
    return model.to(device)


def step_of(model: nn.Module, run: nn.Module, precision: Precision) -> TrainingStep:
    """A training step of `model`, which computes as `run`."""
    groups = parameter_groups(model, lr=1e-3, weight_decay=5e-4)
    return TrainingStep(
        run, optimizer=build_optimizer("sgd", groups), loss_weights={"cross_entropy": 1.0}, precision=precision
    )


def clips_of(size: Size, frames: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """uint8 clips and labels, in ordinary memory."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, frames, size.pixels, size.pixels, 3)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return clips, torch.randint(0, CLASSES, (count,), generator=generator)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def train(step: TrainingStep, batches: list[tuple[Tensor, Tensor]], send: Callable[[Any], Any] = list) -> Any:
    """One update from microbatches that `send` brings to the network."""
    count = sum(len(labels) for _, labels in batches)
    for slot, batch in enumerate(batches):
        clips, labels = send(batch)
        valid = torch.ones(len(labels), dtype=torch.bool)
        step.accumulate(clips, labels, valid, normalizer=count, seed=slot, last=slot == len(batches) - 1)
    return step.update(1e-3)


def seconds(call: Callable[[], Any], device: torch.device, least_s: float) -> list[float]:
    """Seconds of one call, by `RUNS` runs of as many calls as take `least_s`, after a warm-up."""
    for _ in range(WARM_UP_STEPS):
        call()
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    calls = 1 + int(least_s / (time.perf_counter() - began))
    found = []
    for _ in range(RUNS):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(device)
        found.append((time.perf_counter() - began) / calls)
    return found


# Checks.


def gradient(model: nn.Module) -> Tensor:
    parts = [one.grad.flatten().cpu().double() for one in model.parameters() if one.grad is not None]
    return torch.cat(parts)


def checked_network(device: torch.device, dtype: torch.dtype) -> Any:
    """A small TSM with W3 in which no gradient is near zero: a fresh one has small scores, and gates at rest."""
    torch.manual_seed(0)
    attention = {"kind": "w3", "reduction": 4, "start": "near_open"}
    model: Any = build_model("tsm", backbone="resnet_small", num_classes=CLASSES, attention=attention, dropout=0.0)
    nn.init.normal_(model.classifier.weight, 0.0, 0.3)
    return model.to(device, dtype)


def against_cpu(size: Size, device: torch.device) -> dict[str, Any]:
    """Distance of the gradient from the CPU's in fp64, as a part of its norm.

    In fp64 a fault cannot hide behind rounding. `gpu_fp32` says how far rounding takes the gradient without TF32.
    """
    batch = clips_of(TINY, 4, 4)
    found: dict[str, Tensor] = {}
    for name, where, dtype, wrap in (
        ("cpu", torch.device("cpu"), torch.float64, lambda model: model),
        ("gpu", device, torch.float64, lambda model: model),
        ("gpu_channels_last", device, torch.float64, weights_channels_last),
        ("gpu_triton", device, torch.float64, lambda model: model),
        ("gpu_compiled", device, torch.float64, lambda model: compiled(model, size.backend)),
        ("gpu_fp32", device, torch.float32, lambda model: model),
    ):
        model = checked_network(where, dtype)
        with tf32(False), triton_kernels(name == "gpu_triton"):
            valid = torch.ones(len(batch[1]), dtype=torch.bool)
            step_of(model, wrap(model), "fp32").accumulate(*batch, valid, normalizer=4, seed=0, last=True)
        found[name] = gradient(model)
    reference = found.pop("cpu")
    distances = {name: float((one - reference).norm() / reference.norm()) for name, one in found.items()}
    limits = {name: 1e-2 if name == "gpu_fp32" else 1e-6 for name in distances}
    return {"distance": distances, "ok": all(value < limits[name] for name, value in distances.items())}


def fp16(size: Size, device: torch.device) -> dict[str, Any]:
    """Does a network learn one small batch in fp16?"""
    model = network(TINY, "tsm_w3", device)
    step = step_of(model, model, "fp16")
    batches = [clips_of(TINY, 4, 4)]
    losses = []
    for _ in range(30):
        clips, labels = batches[0]
        step.accumulate(clips, labels, torch.ones(4, dtype=torch.bool), normalizer=4, seed=0, last=True)
        losses.append(float(step.update(0.02).loss_sums["cross_entropy"]) / 4)
    return {"first_loss": losses[0], "last_loss": losses[-1], "ok": losses[-1] < 0.5 * losses[0]}


def one_rank(size: Size, device: torch.device) -> dict[str, Any]:
    """Is the gradient by way of NCCL (on a CPU: gloo) the one without it?"""
    backend = "nccl" if device.type == "cuda" else "gloo"
    batches = [clips_of(TINY, 4, 2, seed) for seed in range(2)]
    found = []
    with tempfile.TemporaryDirectory() as folder, tf32(False):
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            for wrapped in (False, True):
                model = run = checked_network(device, torch.float64)
                if wrapped:
                    devices = [device] if device.type == "cuda" else None
                    run = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
                step = step_of(model, run, "fp32")
                for slot, (clips, labels) in enumerate(batches):
                    step.accumulate(
                        clips, labels, torch.ones(2, dtype=torch.bool), normalizer=4, seed=slot, last=slot == 1
                    )
                found.append(gradient(model))
            total = torch.ones(3, device=device)
            dist.all_reduce(total)
        finally:
            dist.destroy_process_group()
    distance = float((found[1] - found[0]).norm() / found[0].norm())
    return {"backend": backend, "distance": distance, "ok": distance < 1e-9 and total.tolist() == [1.0] * 3}


CHECKS = {"gpu_against_cpu": against_cpu, "fp16": fp16, "one_rank": one_rank}


# Throughput.


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    network: str
    frames: int
    arithmetic: str
    compiled: bool = False
    channels_last: bool = True
    triton: bool = False

    @property
    def name(self) -> str:
        marks = f"{' compiled' if self.compiled else ''}{'' if self.channels_last else ' channels first'}"
        marks += " triton" if self.triton else ""
        return f"{self.network} {self.frames}f {self.arithmetic}{marks}"


def cells(size: Size) -> Iterator[Cell]:
    """In the order of their worth: a cell that compiles takes as long as ten others."""
    for arithmetic in ARITHMETIC:
        for frames in size.frames:
            for name in NETWORKS:
                yield Cell(network=name, frames=frames, arithmetic=arithmetic)
            yield Cell(network="tsm_w3", frames=frames, arithmetic=arithmetic, triton=True)
    for name in NETWORKS:
        yield Cell(network=name, frames=size.frames[0], arithmetic="bf16", channels_last=False)
    for arithmetic in size.compiled:
        for frames in size.frames:
            for name in NETWORKS:
                yield Cell(network=name, frames=frames, arithmetic=arithmetic, compiled=True)


def measured(size: Size, cell: Cell, device: torch.device) -> dict[str, Any]:
    precision, allowed = ARITHMETIC[cell.arithmetic]
    model = network(size, cell.network, device)
    if cell.channels_last:
        weights_channels_last(model)
    step = step_of(model, compiled(model, size.backend) if cell.compiled else model, precision)
    clips, labels = clips_of(size, cell.frames, size.clips)
    batches = [(clips.to(device), labels.to(device))]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tf32(allowed), triton_kernels(cell.triton):
        began = time.perf_counter()
        train(step, batches)
        synchronize(device)
        first_s = time.perf_counter() - began
        found = seconds(lambda: train(step, batches), device, size.run_s)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    rates = [size.clips / one for one in found]
    return {
        "network": cell.network, "frames": cell.frames, "arithmetic": cell.arithmetic, "compiled": cell.compiled,
        "channels_last": cell.channels_last, "triton": cell.triton, "clips_per_s": statistics.median(rates),
        "lowest": min(rates), "highest": max(rates), "first_step_s": first_s, "peak_gib": peak,
    }  # fmt: skip


def shares_of_w3(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each row with W3, against plain TSM with the same settings. Triton kernels are W3's alone."""
    by = ("frames", "arithmetic", "compiled", "channels_last")

    def settings(row: dict[str, Any]) -> dict[str, Any]:
        return {name: row[name] for name in by}

    plain = {tuple(settings(row).values()): row["clips_per_s"] for row in rows if row["network"] == "tsm"}
    return [
        {**settings(row), "triton": row["triton"], "share": 1.0 - row["clips_per_s"] / plain[key]}
        for row in rows
        if row["network"] == "tsm_w3" and (key := tuple(settings(row).values())) in plain
    ]


# How clips travel.


def travel(size: Size, device: torch.device) -> dict[str, Any]:
    """Seconds of a microbatch of TSM with W3 in bf16: with clips on the GPU, from ordinary and from pinned memory."""
    model = weights_channels_last(network(size, "tsm_w3", device))
    step = step_of(model, model, "bf16")
    batches = [clips_of(size, size.frames[0], size.clips, seed) for seed in range(size.microbatches)]
    there = [(clips.to(device), labels.to(device)) for clips, labels in batches]
    transfer = Transfer(device)
    ways: dict[str, Callable[[], Any]] = {
        "on_the_gpu": lambda: train(step, there),
        "ordinary_memory": lambda: train(step, batches),
        "pinned_memory": lambda: train(step, batches, transfer),
    }
    found = {name: [one / size.microbatches for one in seconds(way, device, size.run_s)] for name, way in ways.items()}
    least = statistics.median(found["on_the_gpu"])
    return {
        name: {"seconds": spread(values), "share_of_waiting": 1.0 - least / statistics.median(values)}
        for name, values in found.items()
    }


# A whole stage.


def stage(size: Size) -> dict[str, Any]:
    """Clips/s and the share of data wait in the training steps of a stage, after the first epoch."""
    import w3ray
    from w3ray.events import StepDone

    steps: list[StepDone] = []

    def hear(event: Any) -> None:
        if isinstance(event, StepDone):
            steps.append(event)

    with tempfile.TemporaryDirectory() as storage:
        once = ("stages=[{name: teacher}]", "tracking.enabled=false", f"storage={storage}")
        w3ray.run("quickstart", overrides=[*size.stage, *once], on_event=hear)
    late = [one for one in steps if one.epoch > 0] or steps
    total_s = sum(one.step_s for one in late)
    return {
        "overrides": list(size.stage),
        "steps": len(late),
        "clips_per_s": sum(one.valid_clips for one in late) / total_s,
        "data_wait": sum(one.data_wait_s for one in late) / total_s,
    }


class Clock:
    """How much of the time is left."""

    def __init__(self, minutes: float) -> None:
        self._ends = time.monotonic() + 60 * minutes

    def left_s(self) -> float:
        return self._ends - time.monotonic()


def first_half(size: Size, device: torch.device, clock: Clock) -> dict[str, Any]:
    checks = {}
    for name, check in CHECKS.items():
        checks[name] = check(size, device)
        print(name, checks[name], flush=True)
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    figures: dict[str, Any] = {"checks": checks, "transfer": travel(size, device)}
    print("transfer", figures["transfer"], flush=True)
    for cell in cells(size):
        if clock.left_s() < (size.compile_s if cell.compiled else 0.0):
            left_out.append(cell.name)
            continue
        rows.append(measured(size, cell, device))
        print(cell.name, f"{rows[-1]['clips_per_s']:.1f} clips/s", f"{clock.left_s():.0f} s left", flush=True)
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {**figures, "throughput": rows, "share_of_w3": shares_of_w3(rows), "left_out": left_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the first half")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--first-half", action="store_true", help="without the part that needs Ray")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        raise SystemExit("there is no GPU; --tiny runs anywhere")
    size = TINY if options.tiny else LARGE
    began = time.monotonic()
    figures = first_half(size, device, Clock(options.minutes))
    figures["first_half_s"] = time.monotonic() - began
    command = "python benchmarks/gpu.py" + (" --tiny" if options.tiny else "")

    def write() -> Path:
        return write_result("gpu", {"tiny": options.tiny, **figures}, command, compact=True, folder=options.out)

    write()  # the second half may fail
    if options.first_half or find_spec("ray") is None:
        figures["left_out"].append("stage")
    else:
        figures["stage"] = stage(size)
    print(f"wrote {write()}")
    if failed := [name for name, found in figures["checks"].items() if not found["ok"]]:
        sys.exit(f"checks failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""How much faster is training with two workers than with one, on two cores, where the training step dominates?

    python benchmarks/workers.py [--rounds 3]

A teacher stage of `w3ray run` (TSM with W3, ResNet-18, 8 frames of 112 pixels, batches of 8) on generated clips, once
with one worker and once with two, in turn. A worker computes with one thread in both, and one decoder runs beside them.
The first epoch does not count.

- `step_s_a_clip`: seconds that a worker computes for each of its clips, without waiting for data.
- `decode_s_a_clip`: processor seconds to decode a clip, in a plain loop.
- Two cores can do at most 2 / (step + decode) clips per second, with the step of one worker alone. `efficiency` is what
  two workers reach of that. `speedup` is what they reach of one worker's clips per second.
- What is missing: `slower_step` says how many times as long a worker computes for each clip when the other one works,
  too. `slower_machine` is the same for two processes that know nothing of each other and take plain training steps,
  without w3ray's data and without Ray. So it is the part of the machine (caches, memory). `slower_halves` is the same
  for two such processes that make half of the batch each, so that each updates the parameters twice as often for its
  clips. `slower_ddp` is the same for two such processes with DistributedDataParallel: what any program pays that shares
  a batch in this way. `all_reduce_s` is what averaging the gradients takes alone. `wait` is the share of the time in
  which a worker waits for data.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import spread, write_result

CLIPS, EPOCHS, BATCH, MICROBATCH, PIXELS, BACKBONE = 96, 3, 8, 4, 112, "resnet18"


def trained(workers: int, work: Path) -> dict[str, float]:
    """Clips per second of all workers, seconds of a worker for a clip, and its share of waiting."""
    import w3ray
    from w3ray.events import StepDone

    steps: list[StepDone] = []
    settings: dict[str, Any] = {
        "storage": str(work / str(time.time_ns())),
        "data.synthetic": {"clips": CLIPS, "val_clips": 8, "test_clips": 8, "size": 160, "seed": 0},
        "data.size": PIXELS,
        "model.backbone": BACKBONE,
        "stages": [{"name": "teacher"}],
        "train.epochs": EPOCHS, "train.batch_size": BATCH, "train.microbatch_size": MICROBATCH,
        "train.validate_every_epochs": 1000, "train.checkpoint_every_epochs": 1000, "train.best_metric": "last",
        "train.log_every_steps": 1,
        "tracking.enabled": False,
        "resources.workers": workers, "resources.decoders": 1, "resources.cpus_per_worker": 0.6,
    }  # fmt: skip
    w3ray.run(
        "quickstart",
        overrides=[f"{key}={json.dumps(value)}" for key, value in settings.items()],
        on_event=lambda event: steps.append(event) if isinstance(event, StepDone) else None,
    )
    counted = [step for step in steps if step.epoch > 0]
    seconds, waited = sum(step.step_s for step in counted), sum(step.data_wait_s for step in counted)
    clips = sum(step.valid_clips for step in counted)
    return {
        "clips_per_s": clips / seconds,
        "step_s_a_clip": (seconds - waited) * workers / clips,
        "wait": waited / seconds,
    }


def decode_s_a_clip(work: Path) -> float:
    """Of the clips that a run has generated."""
    import numpy as np

    from w3ray.data.clip import ClipSpec, load_clip

    paths = sorted(work.rglob("*.mp4"))[:CLIPS]
    spec = ClipSpec(num_frames=8, size=PIXELS)
    for path in paths[:4]:
        load_clip(str(path), label=0, spec=spec, rng=np.random.default_rng(0))
    began_s = time.process_time()
    for number, path in enumerate(paths):
        load_clip(str(path), label=0, spec=spec, rng=np.random.default_rng(number))
    return (time.process_time() - began_s) / len(paths)


def all_reduce_s() -> float:
    """Seconds in which two processes average as many numbers as the network has, with gloo on loopback."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--reduce", f"{folder}/meeting"]
        ranks = [
            subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)
        ]  # fmt: skip
        return max(float(rank.communicate()[0]) for rank in ranks)


def reduce(meeting: str, rank: int) -> None:
    import torch
    from torch import distributed

    from w3ray.models import build_model

    torch.set_num_threads(1)
    model = build_model("tsm", backbone=BACKBONE, num_classes=10, attention={"kind": "w3"}, weights=None)
    numbers = torch.ones(sum(parameter.numel() for parameter in model.parameters()))
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        distributed.all_reduce(numbers)
        seconds.append(time.perf_counter() - began)
    distributed.destroy_process_group()
    print(statistics.median(seconds))


def plain_steps() -> dict[str, float]:
    """How many times as long a clip takes as in a process that is alone: see the head of this file."""
    alone = _plain_s_a_clip(1, BATCH // MICROBATCH)
    return {
        "slower_machine": _plain_s_a_clip(2, BATCH // MICROBATCH) / alone,
        "slower_halves": _plain_s_a_clip(2, BATCH // MICROBATCH // 2) / alone,
        "slower_ddp": _plain_s_a_clip(2, BATCH // MICROBATCH // 2, shared=True) / alone,
    }


def _plain_s_a_clip(processes: int, microbatches: int, *, shared: bool = False) -> float:
    """Seconds that each of these processes needs for one of its clips."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--steps", str(microbatches), f"{folder}/meeting" if shared else ""]
        started = [
            subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(processes)
        ]
        return statistics.fmean(float(one.communicate()[0]) for one in started)


def steps(microbatches: int, meeting: str, rank: int) -> None:
    import torch
    from torch import distributed, nn
    from torch.nn.parallel import DistributedDataParallel

    from w3ray.models import build_model
    from w3ray.runtime.allocator import keep_memory
    from w3ray.training.optimizer import build_optimizer, parameter_groups
    from w3ray.training.step import TrainingStep

    torch.set_num_threads(1)
    keep_memory()
    model = build_model("tsm", backbone=BACKBONE, num_classes=10, attention={"kind": "w3"}, weights=None)
    optimizer = build_optimizer("adamw", parameter_groups(model, lr=1e-6, weight_decay=0.01))
    trained: nn.Module = model
    if meeting:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
        trained = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    step = TrainingStep(trained, optimizer=optimizer, loss_weights={"cross_entropy": 1.0})
    clips = torch.randint(0, 256, (MICROBATCH, 8, PIXELS, PIXELS, 3), dtype=torch.uint8)
    labels, valid = torch.zeros(MICROBATCH, dtype=torch.long), torch.ones(MICROBATCH, dtype=torch.bool)
    seconds = []
    for _ in range(14):
        began = time.perf_counter()
        for number in range(microbatches):
            step.accumulate(clips, labels, valid, normalizer=BATCH, seed=0, last=number == microbatches - 1)
        step.update(1e-6)
        seconds.append((time.perf_counter() - began) / (microbatches * MICROBATCH))
    if meeting:
        distributed.destroy_process_group()
    print(statistics.median(seconds[4:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reduce", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--steps", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps:
        return steps(int(options.steps[0]), options.steps[1], int(options.steps[2]))
    if options.reduce:
        return reduce(options.reduce[0], int(options.reduce[1]))
    load = os.getloadavg()[0]
    rounds: list[dict[str, Any]] = []
    plain: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            one, two = trained(1, Path(folder)), trained(2, Path(folder))
            decode = decode_s_a_clip(Path(folder))
            ideal = 2 / (one["step_s_a_clip"] + decode)
            rounds.append(
                {
                    "one": one,
                    "two": two,
                    "decode_s_a_clip": decode,
                    "ideal_clips_per_s": ideal,
                    "efficiency": two["clips_per_s"] / ideal,
                    "speedup": two["clips_per_s"] / one["clips_per_s"],
                    "slower_step": two["step_s_a_clip"] / one["step_s_a_clip"],
                }
            )
            plain.append(plain_steps())
            print(json.dumps(rounds[-1] | plain[-1]), flush=True)
    figures = {
        "rounds": rounds,
        **{key: spread([one[key] for one in rounds]) for key in ("efficiency", "speedup", "slower_step")},
        **{key: spread([one[key] for one in plain]) for key in plain[0]},
        "all_reduce_s": all_reduce_s(),
        "load_before": load,
    }
    print(json.dumps({key: value for key, value in figures.items() if key != "rounds"}, indent=1))
    print(write_result("workers", figures, f"python benchmarks/workers.py --rounds {options.rounds}", compact=True))


if __name__ == "__main__":
    main()

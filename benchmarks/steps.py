"""What do W3, CBAM and non-local blocks add to a training step and to inference? And MFR to a student's step?

    python benchmarks/steps.py [--only r50-8x224 ...] [--rounds 5] [--threads 2]

Each network is TSM on the same backbone, with the same random clips. A round measures every network once, in turn, so
neighbours on the machine slow all of them. A figure is the median, over the rounds, of the ratio to plain TSM of the
same round; `low` and `high` are its least and greatest.

- `train`: `TrainingStep` as a worker uses it: forward, cross-entropy, backward, clipping of the gradient, SGD.
- `eval`: forward, evaluation mode, without gradients.
- `student`: a training step with the losses and the teacher of MFR, over a training step without, both TSM with W3.
  `mfr_kept`: the teacher's features are read from the disk, as in a sweep whose trials share a teacher.

Only `mfr_kept` needs Ray, and is left out without it. Writes `results/steps.json`.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from _common import ratios_to_first, write_result
from torch import Tensor

from w3ray.models import build_model
from w3ray.runtime.allocator import keep_memory
from w3ray.training.optimizer import build_optimizer, parameter_groups
from w3ray.training.step import Precision, TrainingStep

NETWORKS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "w3": {"kind": "w3"},
    "cbam": {"kind": "cbam"},
    "nonlocal": {"kind": "nonlocal"},
}
CLASSES = 174


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The shape of a batch, and the arithmetic."""

    backbone: str
    frames: int
    pixels: int
    clips: int
    precision: Precision = "fp32"

    @property
    def name(self) -> str:
        short = self.backbone.replace("resnet", "r")
        return f"{short}-{self.frames}x{self.pixels}" + ("" if self.precision == "fp32" else f"-{self.precision}")


CASES = {
    case.name: case
    for case in (
        Case(backbone="resnet18", frames=8, pixels=112, clips=4),
        Case(backbone="resnet18", frames=16, pixels=112, clips=2),
        Case(backbone="resnet18", frames=8, pixels=224, clips=1),
        Case(backbone="resnet50", frames=8, pixels=112, clips=2),
        Case(backbone="resnet50", frames=8, pixels=224, clips=1),
        Case(backbone="resnet50", frames=16, pixels=224, clips=1),
        Case(backbone="resnet18", frames=8, pixels=112, clips=4, precision="bf16"),
        Case(backbone="resnet50", frames=8, pixels=224, clips=1, precision="bf16"),
    )
}


def network(case: Case, attention: dict[str, Any] | None) -> Any:
    torch.manual_seed(0)
    return build_model(
        "tsm", backbone=case.backbone, num_classes=CLASSES, attention=attention, dropout=0.0, weights=None
    )


def clips_of(case: Case) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (case.clips, case.frames, case.pixels, case.pixels, 3)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return clips, torch.randint(0, CLASSES, (case.clips,), generator=generator)


def training(case: Case, attention: dict[str, Any] | None, *, mfr: bool = False, kept: str = "") -> Callable[[], None]:
    """A call makes one training step. `kept`: a folder for the features of the teacher."""
    model = network(case, attention)
    optimizer = build_optimizer("sgd", parameter_groups(model, lr=1e-6, weight_decay=5e-4))
    weights = {"cross_entropy": 1.0} | ({"mfr": 0.5} if mfr else {})
    teacher = network(case, attention) if mfr else None
    if kept:
        teacher = keeping(teacher, Path(kept) / "clips" / "sweep")
    step = TrainingStep(model, optimizer=optimizer, loss_weights=weights, teacher=teacher, precision=case.precision)
    clips, labels = clips_of(case)
    valid = torch.ones(case.clips, dtype=torch.bool)

    def call() -> None:
        step.accumulate(clips, labels, valid, normalizer=case.clips, seed=0, last=True)
        step.update(1e-6)

    return call


def keeping(teacher: Any, folder: Path) -> Any:
    """The teacher, whose features are kept in the folder."""
    from w3ray.data.clip import ClipSpec
    from w3ray.data.shared_clips import SharedClips
    from w3ray.runtime.shared_teacher import SharedTeacher

    shared = SharedClips(folder=folder, limit_bytes=1 << 30)
    if shared.opened(ClipSpec()) is None:
        raise SystemExit(f"{folder} cannot be written")
    return SharedTeacher(teacher, shared)


def inference(case: Case, attention: dict[str, Any] | None) -> Callable[[], None]:
    model = network(case, attention).eval()
    clips_BTCHW = torch.rand(case.clips, case.frames, 3, case.pixels, case.pixels)
    lower = torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16")

    def call() -> None:
        with torch.inference_mode(), lower:
            model(clips_BTCHW)

    return call


def ratios(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds and ratios of all calls. The first call is the one that the others are compared with."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return ratios_to_first(seconds)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    w3 = NETWORKS["w3"]
    found = {
        "train": ratios({name: training(case, attention) for name, attention in NETWORKS.items()}, rounds),
        "eval": ratios({name: inference(case, attention) for name, attention in NETWORKS.items()}, rounds),
    }
    with tempfile.TemporaryDirectory() as folder:
        students = {"without": training(case, w3), "mfr": training(case, w3, mfr=True)}
        if find_spec("ray") is not None:
            students["mfr_kept"] = training(case, w3, mfr=True, kept=folder)
        found["student"] = ratios(students, rounds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()  # as a worker does
    figures: dict[str, Any] = {}
    for name in options.only:
        figures[name] = measure(CASES[name], options.rounds)
        for what, rows in figures[name].items():
            shown = "   ".join(f"{one} {row['ratio']:.3f} ({row['seconds']:.2f} s)" for one, row in rows.items())
            print(f"{name:<20}{what:<9}{shown}", flush=True)
    figures["load"] = round(os.getloadavg()[1], 1)
    figures["threads"] = options.threads
    print(write_result("steps", figures, "python benchmarks/steps.py " + " ".join(sys.argv[1:]), compact=True))


if __name__ == "__main__":
    main()

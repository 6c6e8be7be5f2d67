"""What do augmentation and regularisation cost beside the plain clip and the plain step?

    python benchmarks/augmentations.py DATA_ROOT [--rounds 7] [--clips 24]

- `clips`: processor time of making a training clip (decode, crop, resize, augment), over that of the plain clip. Real
  H.264 files of EgoGestAR (`DATA_ROOT/egogestar`), 8 frames of 224 pixels, one thread, as in a decoder.
- `repeated_augmentation`: processor time of a clip that is there twice or four times with the same frames.
- `steps`: time of a training step over that of the plain step: TSM on ResNet-50, 8 frames of 112 pixels, 4 clips.

A round measures every case once, in turn, so neighbours on the machine slow all of them. A figure is the median, over
the rounds, of the ratio to the plain case of the same round; `low` and `high` are its least and greatest. Writes
`results/augmentations.json`.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import ratios_to_first, write_result

from w3ray.data.clip import ClipSpec, made_clip, read_frames
from w3ray.models import build_model
from w3ray.models.stochastic_depth import set_stochastic_depth
from w3ray.runtime.allocator import keep_memory
from w3ray.training.mixing import Mixing
from w3ray.training.optimizer import build_optimizer, parameter_groups
from w3ray.training.step import TrainingStep

AUGMENTATIONS: dict[str, tuple[Any, ...]] = {
    "plain": (),
    "rand_augment": ("rand_augment",),
    "trivial_augment": ("trivial_augment",),
    "color_jitter": ("color_jitter",),
    "random_erasing": ("random_erasing",),
    "rand_augment and random_erasing": ("rand_augment", "random_erasing"),
}
STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mixup": {"mixing": Mixing(mixup_alpha=0.8)},
    "cutmix": {"mixing": Mixing(cutmix_alpha=1.0)},
    "stochastic_depth": {"stochastic_depth": 0.2},
}


def clip_seconds(videos: Sequence[str], augmentations: tuple[Any, ...], repeats: int = 1) -> float:
    """Seconds of processor time for each clip."""
    spec = ClipSpec(num_frames=8, size=224, augmentations=augmentations)
    began = time.process_time()
    for seed, video in enumerate(videos):
        frames = read_frames(video, spec=spec, rng=np.random.default_rng(seed))
        for copy in range(repeats):
            made_clip(frames, label=0, spec=spec, rng=np.random.default_rng([seed, copy]))
    return (time.process_time() - began) / len(videos) / repeats


def step_call(options: dict[str, Any]) -> Callable[[], float]:
    """A call makes one training step and returns its seconds."""
    torch.manual_seed(0)
    model = build_model("tsm", backbone="resnet50", num_classes=174, attention=None, dropout=0.0, weights=None)
    set_stochastic_depth(model, options.get("stochastic_depth", 0.0))
    optimizer = build_optimizer("sgd", parameter_groups(model, lr=1e-6, weight_decay=5e-4))
    step = TrainingStep(model, optimizer=optimizer, loss_weights={"cross_entropy": 1.0}, mixing=options.get("mixing"))
    clips = torch.randint(0, 256, (4, 8, 112, 112, 3), dtype=torch.uint8)
    labels, valid = torch.tensor([0, 1, 2, 3]), torch.ones(4, dtype=torch.bool)

    def call() -> float:
        began = time.perf_counter()
        step.accumulate(clips, labels, valid, normalizer=4, seed=0, last=True)
        step.update(1e-6)
        return time.perf_counter() - began

    return call


def ratios(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    """Each call's seconds and its ratio to the first one."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(call())
    found = ratios_to_first(seconds)
    for name, one in found.items():
        print(f"{name:34} {1e3 * one['seconds']:8.1f} ms   {one['ratio']:.2f} of plain", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", type=Path, help="folder with egogestar/")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clips", type=int, default=24)
    options = parser.parse_args()
    keep_memory()
    videos = [str(path) for path in sorted((options.data / "egogestar").rglob("*.mp4"))][:: 217 // options.clips]
    videos = videos[: options.clips]
    if not videos:
        parser.error(f"{options.data}: no egogestar/*/*.mp4")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    clips = ratios(
        {name: partial(clip_seconds, videos, names) for name, names in AUGMENTATIONS.items()},
        options.rounds,
    )  # fmt: skip
    repeated = ratios(
        {
            ("plain" if repeats == 1 else f"{repeats} times"): partial(clip_seconds, videos, (), repeats)
            for repeats in (1, 2, 4)
        },
        options.rounds,
    )
    torch.set_num_threads(threads)
    steps = ratios({name: step_call(values) for name, values in STEPS.items()}, options.rounds)
    figures = {"clips": clips, "repeated_augmentation": repeated, "steps": steps}
    command = f"python benchmarks/augmentations.py DATA_ROOT --rounds {options.rounds} --clips {options.clips}"
    print(write_result("augmentations", figures, command))


if __name__ == "__main__":
    main()

"""How long do a forward pass and a training step of a model take on this machine?"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch.nn import functional as F

from w3ray.models._common import VideoModel
from w3ray.models.side_inputs import BOXES_PER_FRAME, example

REPEATS = 3
"""Each is measured so often, after one run that is not counted. The median is returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    """Seconds for one clip."""

    device: str
    """"cuda" or "cpu", where it was measured."""
    forward: float
    """Forward pass, evaluation mode, without gradients."""
    training_step: float
    """Forward pass, cross-entropy, backward pass and a step of SGD."""


def measure_seconds(model: VideoModel, num_frames: int, size: int, boxes_per_frame: int = BOXES_PER_FRAME) -> Seconds:
    """Measure one clip of random pixels, in fp32, on a GPU if there is one. The model's weights are changed.

    Args:
        model: a model of `build_model`, on the CPU.
        num_frames: T of the clip.
        size: height and width of the frames, in pixels.
        boxes_per_frame: of a model that reads boxes.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    clip_BTCHW = torch.rand(1, num_frames, model.pixels.channels, size, size, device=device)
    side_inputs = example(model, clip_BTCHW, boxes_per_frame)
    label_B = torch.zeros(1, dtype=torch.int64, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def forward() -> None:
        with torch.no_grad():
            model(clip_BTCHW, **side_inputs)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(clip_BTCHW, **side_inputs).logits_BK, label_B).backward()
        optimizer.step()

    model.eval()
    forward_s = _median(forward, device)
    model.train()
    return Seconds(device=device, forward=forward_s, training_step=_median(step, device))


def _median(run: Callable[[], None], device: str) -> float:
    seconds = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return median(seconds[1:])

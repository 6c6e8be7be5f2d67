"""Counts a model's multiply-adds and parameters, part by part.

Convolutions and matrix products are counted, as in the literature, where "GFLOPs" means multiply-adds. Pooling, norms,
activations and element-wise products are not counted.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from w3ray.attention.sites import Site
from w3ray.models._common import VideoModel
from w3ray.models.side_inputs import BOXES_PER_FRAME, example


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One row of a profile."""

    name: str
    macs: int
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The cost of one clip."""

    macs: int
    """Multiply-adds of a forward pass of one clip."""
    parameters: int
    parts: tuple[Part, ...]
    """stem, stage1, stage2, ... (without attention), attention, refinement, classifier. They sum to the whole model."""


def profile(model: VideoModel, num_frames: int, size: int, boxes_per_frame: int = BOXES_PER_FRAME) -> Profile:
    """Count a model's multiply-adds and parameters. The model is not changed and nothing is computed (meta device).

    Args:
        model: a model of `build_model`, on any device.
        num_frames: T of the clip.
        size: height and width of the frames, in pixels.
        boxes_per_frame: of a model that reads boxes.

    Raises:
        ValueError: num_frames or size below 1.
    """
    if num_frames < 1 or size < 1:
        raise ValueError(f"profile: num_frames={num_frames}, size={size}: must be >= 1")
    meta = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    dtype = next(model.parameters()).dtype
    clip_BTCHW = torch.empty(1, num_frames, model.pixels.channels, size, size, device="meta", dtype=dtype)
    was_training = model.training
    # Evaluation mode: in training mode, batch norm refuses a single value per channel, which tiny sizes end in.
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(model, meta, (clip_BTCHW,), example(model, clip_BTCHW, boxes_per_frame))
    finally:
        model.train(was_training)
    root = type(model).__name__
    macs = {
        name.removeprefix(f"{root}."): sum(flops.values()) // 2  # a multiply-add is two flops
        for name, flops in counter.get_flop_counts().items()
    }
    total = counter.get_total_flops() // 2
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Profile(macs=total, parameters=parameters, parts=_parts(model, macs, total, parameters))


def _parts(model: VideoModel, macs: dict[str, int], total: int, parameters: int) -> tuple[Part, ...]:
    """Sort the counts of the modules into rows. The stem gets what is left."""
    row_of: dict[nn.Module, str] = {
        site: f"stage{number}" for number, stage in enumerate(model.stages(), 1) for site in stage
    }
    attention_of = {site.attention: row for site, row in row_of.items() if isinstance(site, Site) and site.attention}
    ends = {model.refinement: "refinement", model.classifier: "classifier"}
    rows: dict[str, list[int]] = {}
    for name, module in model.named_modules():
        numel = sum(parameter.numel() for parameter in module.parameters())
        count = macs.get(name, 0)
        if module in row_of:
            _add(rows, row_of[module], count, numel)
        elif module in attention_of:
            _add(rows, attention_of[module], -count, -numel)
            _add(rows, "attention", count, numel)
        elif module in ends:
            _add(rows, ends[module], count, numel)
    stem = [total - sum(row[0] for row in rows.values()), parameters - sum(row[1] for row in rows.values())]
    order = [f"stage{number}" for number in range(1, len(model.stages()) + 1)]
    order += [name for name in ("attention", "refinement", "classifier") if name in rows]
    return (
        Part(name="stem", macs=stem[0], parameters=stem[1]),
        *(Part(name=name, macs=rows[name][0], parameters=rows[name][1]) for name in order),
    )


def _add(rows: dict[str, list[int]], name: str, macs: int, parameters: int) -> None:
    row = rows.setdefault(name, [0, 0])
    row[0] += macs
    row[1] += parameters

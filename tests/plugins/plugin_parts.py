"""A small recipe, and files with parts for it."""

from typing import Any

RECIPE: dict[str, Any] = {
    "name": "mine",
    "data": {"synthetic": {"clips": 16}, "num_frames": 4, "size": 32},
    "model": {"backbone": "resnet_small", "attention": {"kind": "w3"}},
    "train": {"epochs": 2, "batch_size": 8},
    "stages": [{"name": "one"}],
}

LOSS = '''"""A loss."""

from w3ray.training.losses import LOSSES, LossKind


class Spread:
    """The squares of the scores."""

    needs_teacher = False

    def __call__(self, inputs):
        return inputs.logits_BK.float().square().mean(dim=1).sum() * FACTOR


FACTOR = 1
LOSSES.add("spread", LossKind(Spread))
'''
"""A file with a loss."""

ATTENTION = '''"""An attention that multiplies by one number."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from w3ray.attention import ATTENTION, AttentionConfig, AttentionKind, AttentionOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleConfig(AttentionConfig):
    kind: ClassVar[str] = "scale"
    label: ClassVar[str] = "scale"
    start_at: float = 1.0


class Scale(torch.nn.Module):
    placement, has_spatial_mask, norm_gain, constant_start = "before", False, 1.0, 1.0

    def __init__(self, channels, config):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(float(config.start_at)))

    def forward(self, x_BTCHW, identity_BTCHW=None):
        out_BTCHW = x_BTCHW * self.factor.to(x_BTCHW.dtype)
        return AttentionOutput(out_BTCHW if identity_BTCHW is None else out_BTCHW + identity_BTCHW, None)


ATTENTION.add("scale", AttentionKind(ScaleConfig, Scale))
'''
"""A file with an attention."""

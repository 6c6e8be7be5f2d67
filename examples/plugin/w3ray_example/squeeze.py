"""Squeeze-and-excitation over whole clips (Hu et al., CVPR 2018, Eq. 2-4): one gate for each channel.

    s = 2 sigmoid(W_2 relu(W_1 mean_THW x)),    out = s * x

W_2 starts at 0, so every gate starts at exactly 1, and a fresh network computes the same as without attention.

Axes: B clips, T frames, C channels, H height, W width.
"""

import torch
from torch import Tensor, nn

from w3ray.attention import AttentionOutput
from w3ray_example.parts import SqueezeConfig


class Squeeze(nn.Module):
    """Gates for the channels of features of any T, H and W. It has no spatial mask.

    Args:
        channels: C of the features.
        config: the options.
    """

    placement = "before"
    has_spatial_mask = False
    norm_gain = 1.0
    constant_start = 1.0

    def __init__(self, channels: int, config: SqueezeConfig) -> None:
        super().__init__()
        hidden = max(1, channels // config.reduction)
        self.reduce, self.expand = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x_BTCHW: Tensor, identity_BTCHW: Tensor | None = None) -> AttentionOutput:
        """Gate the features, then add the block's shortcut if given."""
        pooled_BC = x_BTCHW.mean(dim=(1, 3, 4))
        gate_BC = 2 * torch.sigmoid(self.expand(torch.relu(self.reduce(pooled_BC))))
        out_BTCHW = x_BTCHW * gate_BC[:, None, :, None, None].to(x_BTCHW.dtype)
        return AttentionOutput(out_BTCHW if identity_BTCHW is None else out_BTCHW + identity_BTCHW, None)

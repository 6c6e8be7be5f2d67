"""A network with known masks."""

import numpy as np
import torch
from torch import nn

from w3ray.models import build_model

PLANTED_SIDE = 64


def moving_square() -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A white square of 16 pixels on black, in another place in each frame, and its corners (top, left)."""
    corners = [(16, 32), (0, 0), (48, 16), (32, 48)]
    frames_TSSC = np.zeros((len(corners), PLANTED_SIDE, PLANTED_SIDE, 3), np.uint8)
    for frame, (top, left) in enumerate(corners):
        frames_TSSC[frame, top : top + 16, left : left + 16] = 255
    return frames_TSSC, corners


@torch.no_grad()
def planted_model() -> nn.Module:
    """Every convolution copies brightness, and every spatial gate is sigmoid(20 * brightness - 10)."""
    attention = {"kind": "w3", "channel": False, "temporal": False, "start": "plain"}
    model = build_model("tsn", backbone="resnet_small", num_classes=3, attention=attention, refinement=False)
    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.weight.zero_()
            centre = module.kernel_size[0] // 2
            module.weight[:, :, centre, centre] = 1 / module.in_channels
    for stage in model.stages():
        gate = stage[0].attention.spatial.frame
        gate.weight.zero_()
        gate.weight[0, 0, 3, 3] = 20  # for the mean over channels, at the centre
        gate.bias.fill_(-10)
    return model.eval()

"""How do the masks of all stages refine the last features? (AFR; arXiv:2004.01278, Eq. 7-8, Fig. 2)

Axes: B clips, T frames, N stages, C channels of the last stage, H height, W width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionGuidedRefinement(nn.Module):
    """y_i = x_i + relu(conv1x1([AAP(M_i^s,1), ..., AAP(M_i^s,N)])).

    A stage's mask is that of its last block (the paper says 'stage-wise'). In 3D networks, whose stages differ in T,
    the adaptive pool also aligns time.
    """

    def __init__(self, num_stages: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_stages, channels, kernel_size=1)

    def forward(self, x_BTCHW: Tensor, masks_BTHW: Sequence[Tensor]) -> Tensor:
        """Last features and one spatial mask per stage (each with its own T, H, W) -> refined features."""
        size_THW = (x_BTCHW.shape[1], x_BTCHW.shape[3], x_BTCHW.shape[4])
        stacked_BTNHW = torch.stack([_pool(mask_BTHW, size_THW) for mask_BTHW in masks_BTHW], dim=2)
        refined_NCHW = F.relu(self.conv(stacked_BTNHW.flatten(0, 1)), inplace=True)
        return x_BTCHW + refined_NCHW.unflatten(0, x_BTCHW.shape[:2])


def _pool(mask_BTHW: Tensor, size_THW: tuple[int, int, int]) -> Tensor:
    if mask_BTHW.shape[1] == size_THW[0]:
        return F.adaptive_avg_pool2d(mask_BTHW, size_THW[1:])
    return F.adaptive_avg_pool3d(mask_BTHW.unsqueeze(1), size_THW).squeeze(1)

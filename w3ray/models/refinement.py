"""Attention-guided feature refinement (AFR) by the masks of all stages (arXiv:2004.01278, Eq. 7-8, Fig. 2).

Axes: B clips, T frames, N stages, C channels of the last stage, H height, W width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionGuidedRefinement(nn.Module):
    """y_i = x_i + relu(conv1x1([AAP(M_i^s,1), ..., AAP(M_i^s,N)])).

    A stage's mask is the mask of its last block (the paper says 'stage-wise'). In 3D networks the stages differ in T,
    so the adaptive pool also aligns time.

    Args:
        num_stages: N.
        channels: C.
        mask_start: the value of all masks at the start, if it is one number (the start "unit" of the gates). The bias
            then starts at minus the convolution of such masks. So a fresh AFR adds exactly 0, and has an effect as
            soon as a mask changes. None: torch's own start.
    """

    def __init__(self, num_stages: int, channels: int, mask_start: float | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_stages, channels, kernel_size=1)
        if mask_start is not None:
            self._start_at_zero(mask_start)

    @torch.no_grad()
    def _start_at_zero(self, mask_start: float) -> None:
        # Weights with few digits: the sum over stages is then exact in float32, in any order.
        self.conv.weight.mul_(2**12).round_().div_(2**12)
        assert self.conv.bias is not None
        self.conv.bias.copy_(-mask_start * self.conv.weight.sum(dim=(1, 2, 3)))

    def forward(self, x_BTCHW: Tensor, masks_BTHW: Sequence[Tensor]) -> Tensor:
        """Last features and one spatial mask per stage (each with its own T, H, W) -> refined features."""
        size_THW = (x_BTCHW.shape[1], x_BTCHW.shape[3], x_BTCHW.shape[4])
        stacked_BTNHW = torch.stack([_pool(mask_BTHW, size_THW) for mask_BTHW in masks_BTHW], dim=2)
        refined_NCHW = F.relu(self.conv(stacked_BTNHW.flatten(0, 1)), inplace=True)
        return x_BTCHW + refined_NCHW.unflatten(0, x_BTCHW.shape[:2])


class RefinementOfPaths(nn.ModuleList):
    """AFR of a network with several last maps: one AFR for each path, with the masks of that path.

    This is our decision: the paper has no such network.

    Args:
        each: one AFR for each path. None: no stage of the path has masks, so its map stays as it is.
    """

    def __init__(self, each: Sequence[AttentionGuidedRefinement | None]) -> None:
        super().__init__(nn.Identity() if one is None else one for one in each)

    def forward(self, maps: Sequence[Tensor], masks: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """The last map [B, T, C, H, W] of each path, and the masks of each path's stages -> the refined maps."""
        return tuple(
            refine(map_BTCHW, masks_BTHW) if isinstance(refine, AttentionGuidedRefinement) else map_BTCHW
            for refine, map_BTCHW, masks_BTHW in zip(self, maps, masks, strict=True)
        )


def _pool(mask_BTHW: Tensor, size_THW: tuple[int, int, int]) -> Tensor:
    if mask_BTHW.shape[1] == size_THW[0]:
        return F.adaptive_avg_pool2d(mask_BTHW, size_THW[1:])
    return F.adaptive_avg_pool3d(mask_BTHW.unsqueeze(1), size_THW).squeeze(1)

"""Which places of the last feature maps support a class? (Grad-CAM: Selvaraju et al., ICCV 2017, Eq. 1-2)

    alpha_k = 1/Z sum_ij dy^c / dA^k_ij                                                   (Eq. 1)
    L^c     = relu(sum_k alpha_k A^k)                                                     (Eq. 2)

A is the output of the last site, before refinement. y^c is the class score before softmax. Each frame is treated as
an image: Z is the number of places in one frame, so alpha may change over time. If a mean and a linear layer follow the
site, alpha is the layer's weight divided by the number of places, and the map equals CAM.

If the network has several last maps, the sum of Eq. 2 is over the channels of all maps. This is our decision.

Axes: B clips, T frames, C channels, H height, W width.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from w3ray.attention.sites import Site
from w3ray.models._common import VideoModel


def grad_cam(
    model: VideoModel, x_BTCHW: Tensor, *labels: int, side_inputs: Mapping[str, Tensor] | None = None
) -> npt.NDArray[np.float32]:
    """Evidence for one class, [T', H', W'] >= 0 at the resolution of the last feature maps.

    If the network has several last maps, T', H' and W' are the largest of them.

    Args:
        model: in eval mode. Its parameters get no gradients.
        x_BTCHW: one normalised clip [1, T, 3, H, W].
        labels: the class c. With several heads: one class of each head; the map is then for the sum of their scores.
        side_inputs: further arguments of the model's `forward`, [1, ...] each.
    """
    sites = [path.stages[-1][-1] for path in model.paths()]
    features: dict[Site, Tensor] = {}

    def keep(module: Any, inputs: Any, output: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        # The autograd graph begins here. All layers before this one run without a graph.
        features[module] = output[0].detach().requires_grad_()
        return features[module], output[1]

    with ExitStack() as stack:
        for site in sites:
            stack.callback(site.register_forward_hook(keep).remove)
        with torch.enable_grad():
            score = model(x_BTCHW, **(side_inputs or {})).logits_BK[0, list(labels)].sum()
            gradients = torch.autograd.grad(score, [features[site] for site in sites])
    num_frames = x_BTCHW.shape[1]
    evidence = []
    for site, gradient in zip(sites, gradients, strict=True):
        a_BTCHW = site.to_clips(features[site].detach(), num_frames)
        alpha_BTC11 = site.to_clips(gradient, num_frames).mean(dim=(3, 4), keepdim=True)
        evidence.append(model.whole_clip((alpha_BTC11 * a_BTCHW).sum(dim=2)).float())
    map_THW: npt.NDArray[np.float32] = torch.relu(_sum(evidence)).cpu().numpy()
    return map_THW


def _sum(evidence: list[Tensor]) -> Tensor:
    """The sum of maps [T, H, W] of the same clip, at the resolution of the finest of each axis.

    A place of a coarse map stands for several fine places. Its evidence is shared among them.
    """
    if len(evidence) == 1:
        return evidence[0]
    size_THW = [max(sizes) for sizes in zip(*(one_THW.shape for one_THW in evidence), strict=True)]
    total_THW = torch.zeros(size_THW, device=evidence[0].device)
    for one_THW in evidence:
        fine_THW = F.interpolate(one_THW[None, None], size=size_THW, mode="nearest")[0, 0]
        total_THW += fine_THW * (one_THW.numel() / total_THW.numel())
    return total_THW

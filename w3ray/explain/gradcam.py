"""Which places of the last feature maps speak for a class? (Grad-CAM: Selvaraju et al., ICCV 2017, Eq. 1-2)

    alpha_k = 1/Z sum_ij dy^c / dA^k_ij                                                   (Eq. 1)
    L^c     = relu(sum_k alpha_k A^k)                                                     (Eq. 2)

A are the output of the last site, before refinement; y^c is the class score before softmax. Each frame is an
image of its own: Z are the places of one frame, so that alpha may change over time. Behind a mean and a linear layer
alpha is that layer's weight over the number of places, and the map is CAM's.

Axes: B clips, T frames, C channels, H height, W width.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from w3ray.models._common import VideoModel


def grad_cam(model: VideoModel, x_BTCHW: Tensor, *labels: int) -> npt.NDArray[np.float32]:
    """Evidence for one class, [T', H', W'] >= 0 at the resolution of the last feature maps.

    Args:
        model: in eval mode; its parameters get no gradients.
        x_BTCHW: one normalised clip [1, T, 3, H, W].
        labels: the class c; of several heads the class of each, for whose sum of scores the map then is.
    """
    site = model.stages()[-1][-1]
    features: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        # The graph begins here: all that lies before runs without one.
        features.append(output[0].detach().requires_grad_())
        return features[0], output[1]

    handle = site.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            score = model(x_BTCHW).logits_BK[0, list(labels)].sum()
            (gradient,) = torch.autograd.grad(score, features[0])
    finally:
        handle.remove()
    num_frames = x_BTCHW.shape[1]
    a_TCHW = site.to_clips(features[0].detach(), num_frames)[0]
    alpha_TC11 = site.to_clips(gradient, num_frames)[0].mean(dim=(2, 3), keepdim=True)
    map_THW: npt.NDArray[np.float32] = torch.relu((alpha_TC11 * a_TCHW).sum(dim=1)).float().cpu().numpy()
    return map_THW

"""Which places of the last feature maps support a class? (Grad-CAM: Selvaraju et al., ICCV 2017, Eq. 1-2)

    alpha_k = 1/Z sum_ij dy^c / dA^k_ij                                                   (Eq. 1)
    L^c     = relu(sum_k alpha_k A^k)                                                     (Eq. 2)

A is the output of the last site, before refinement. y^c is the class score before softmax. Each frame is treated as
an image: Z is the number of places in one frame, so alpha may change over time. If a mean and a linear layer follow the
site, alpha is the layer's weight divided by the number of places, and the map equals CAM.

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
        model: in eval mode. Its parameters get no gradients.
        x_BTCHW: one normalised clip [1, T, 3, H, W].
        labels: the class c. With several heads: one class of each head; the map is then for the sum of their scores.
    """
    site = model.stages()[-1][-1]
    features: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        # The autograd graph begins here. All layers before this one run without a graph.
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

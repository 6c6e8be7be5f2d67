"""VGG16 up to its last convolution, a backbone of frame networks (Simonyan & Zisserman, arXiv:1409.1556, Table 1, D).

A site is the convolutions between two pools, so there are five stages of one site. The last map is conv5_3's, before
the last pool: 14 x 14 cells at 224 pixels. A temporal module may enter every site but the first, which reads pixels.

Axes: N = B*T folded frames, C channels, H height, W width.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from w3ray.attention.sites import Stages
from w3ray.errors import InputError
from w3ray.models.frame_backbone import FrameBackbone
from w3ray.models.layouts import UNUSED, KeyLayout
from w3ray.models.pooled_convolutions import PooledConvolutions

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of each convolution, stage by stage."""


class VGG16(FrameBackbone):
    """The convolutions of VGG16, without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for number, widths in enumerate(WIDTHS, 1):
            convolutions: list[nn.Module] = []
            for width in widths:
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                assert convolution.bias is not None
                nn.init.zeros_(convolution.bias)
                convolutions.append(convolution)
                channels = width
            pool = None if number == 1 else nn.MaxPool2d(2)
            self.add_module(f"block{number}", PooledConvolutions(pool, convolutions, "frames"))

    def stem(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        """The frames as they are: the first stage reads pixels."""
        return x_NCHW

    def stages(self) -> Stages:
        return [[getattr(self, f"block{number}")] for number in range(1, len(WIDTHS) + 1)]

    def temporal_stages(self) -> Stages:
        return self.stages()[1:]


def _places() -> dict[str, str]:
    """torchvision's name of each convolution -> its name here. There, ReLUs and pools count too."""
    places, index = {}, 0
    for number, widths in enumerate(WIDTHS, 1):
        for at in range(len(widths)):
            places[f"features.{index}"] = f"backbone.block{number}.convs.{2 * at}"
            index += 2
        index += 1
    return places


def _matches(keys: Collection[str]) -> bool:
    return "features.0.weight" in keys and "features.28.weight" in keys


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's keys. The fully connected layers, `classifier.0`, `.3` and `.6`, have no place here.

    Raises:
        InputError: the weights expect other pixels.
    """
    if state.get("classifier.0.bias", torch.zeros(1)).isnan().all():  # the mark of these weights
        raise InputError(
            "weights: VGG16_Weights.IMAGENET1K_FEATURES expect other pixels (0 to 255) and have no fully connected "
            "layers; use VGG16_Weights.IMAGENET1K_V1"
        )
    places, renamed = _places(), {}
    for key, value in state.items():
        layer, _, tensor = key.rpartition(".")
        if layer in places:
            renamed[f"{places[layer]}.{tensor}"] = value
        elif key.startswith("classifier."):
            renamed[f"{UNUSED}{key}"] = value
        else:
            renamed[key] = value  # reported later as unexpected
    return renamed


VGG16.layouts = (KeyLayout("VGG16", "features.0.weight", _matches, _rename),)

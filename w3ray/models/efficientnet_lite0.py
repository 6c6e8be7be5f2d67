"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6 (Tan & Le, arXiv:1905.11946, Table 1).

It is a small network with public ImageNet weights that two CPU cores can train. Widths and layers are those of the
published weights. Padding is TensorFlow's "SAME": with stride 2 and an even side, one pixel more at the right and at
the bottom.

Its inverted residual blocks are sites. The attention works on the last norm's output, before the shortcut if there is
one. A temporal module enters the blocks with a shortcut, as TSM's authors do in MobileNetV2. The last convolution (320
to 1280 channels) is behind the last stage.

Axes: N = B*T folded frames, C channels, H height, W width.
"""

import re
from collections.abc import Collection, Mapping
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.attention._common import Attention
from w3ray.attention.sites import Site, Stages
from w3ray.models.frame_backbone import FrameBackbone
from w3ray.models.layouts import KeyLayout
from w3ray.models.pixels import Pixels

BLOCKS = (
    # in, out, expansion, kernel, stride
    (32, 16, 1, 3, 1),
    (16, 24, 6, 3, 2), (24, 24, 6, 3, 1),
    (24, 40, 6, 5, 2), (40, 40, 6, 5, 1),
    (40, 80, 6, 3, 2), (80, 80, 6, 3, 1), (80, 80, 6, 3, 1),
    (80, 112, 6, 5, 1), (112, 112, 6, 5, 1), (112, 112, 6, 5, 1),
    (112, 192, 6, 5, 2), (192, 192, 6, 5, 1), (192, 192, 6, 5, 1), (192, 192, 6, 5, 1),
    (192, 320, 6, 3, 1),
)  # fmt: skip
STAGES = ((0,), (1, 2), (3, 4), (5, 6, 7, 8, 9, 10), (11, 12, 13, 14, 15))
"""A new stage begins where the side of the maps changes: 112, 56, 28, 14 and 7 cells at 224 pixels."""
NUM_FEATURES = 1280


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding: the output's side is the input's divided by the stride."""

    def forward(self, input: Tensor) -> Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(reversed(input.shape[2:]), self.kernel_size, self.stride, strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(input, pads) if any(pads) else input)


def _conv(num_in: int, num_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        SameConv2d(num_in, num_out, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(num_out, eps=1e-3, momentum=0.01),
    ]


class InvertedResidual(Site):
    """1x1 convolution to more channels, depthwise convolution, 1x1 convolution back; a shortcut if shapes agree."""

    layout = "frames"

    def __init__(self, num_in: int, num_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = num_in * expansion
        self.expand = nn.Sequential(*_conv(num_in, wide), nn.ReLU6(inplace=True)) if expansion > 1 else None
        self.depthwise = nn.Sequential(*_conv(wide, wide, kernel, stride, wide), nn.ReLU6(inplace=True))
        self.project = nn.Sequential(*_conv(wide, num_out))
        self.has_shortcut = stride == 1 and num_in == num_out
        self._in_channels, self._channels = num_in, num_out

    @property
    def in_channels(self) -> int:
        return self._in_channels

    @property
    def channels(self) -> int:
        return self._channels

    @property
    def is_residual(self) -> bool:
        return self.has_shortcut

    @property
    def last_norm(self) -> nn.Module | None:
        return self.project[1]

    def run(self, entry: Tensor, x: Tensor, num_frames: int | None) -> tuple[Tensor, Tensor | None]:
        branch = self.project(self.depthwise(entry if self.expand is None else self.expand(entry)))
        if self.has_shortcut:
            branch = self.thinned(branch, num_frames)
        if self.attention is None:
            return branch + x if self.has_shortcut else branch, None
        attention = cast(Attention, self.attention)
        if attention.placement == "before" and self.has_shortcut:
            out_BTCHW, mask_BTHW = attention(self.to_clips(branch, num_frames), self.to_clips(x, num_frames))
        else:
            out_BTCHW, mask_BTHW = attention(self.to_clips(branch + x if self.has_shortcut else branch, num_frames))
        return self.from_clips(out_BTCHW), mask_BTHW


class EfficientNetLite0(FrameBackbone):
    """EfficientNet-Lite0 without its classifier, for frames of any size."""

    pixels = Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # x / 127.5 - 1 for x in 0 to 255

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(*_conv(3, 32, 3, 2), nn.ReLU6(inplace=True))
        self.blocks = nn.ModuleList(InvertedResidual(*numbers) for numbers in BLOCKS)
        self.last_conv = nn.Sequential(*_conv(320, NUM_FEATURES), nn.ReLU6(inplace=True))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    @property
    def num_features(self) -> int:
        return NUM_FEATURES

    def stem(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        """Frames -> [N, 32, H / 2, W / 2]."""
        return cast(Tensor, self.conv(x_NCHW))

    def stages(self) -> Stages:
        return [[cast(Site, self.blocks[number]) for number in stage] for stage in STAGES]

    def last(self, x_NCHW: Tensor) -> Tensor:
        return cast(Tensor, self.last_conv(x_NCHW))

    def temporal_stages(self) -> Stages:
        """The blocks with a shortcut: one without it would lose what is shifted away."""
        return [[site for site in stage if cast(InvertedResidual, site).has_shortcut] for stage in self.stages()]


_BLOCK = re.compile(r"^_blocks\.(\d+)\._(\w+)\.(\w+)$")
_PARTS = {
    "expand_conv": "expand.0",
    "bn0": "expand.1",
    "depthwise_conv": "depthwise.0",
    "bn1": "depthwise.1",
    "project_conv": "project.0",
    "bn2": "project.1",
}
_OUTER = {"_conv_stem": "conv.0", "_bn0": "conv.1", "_conv_head": "last_conv.0", "_bn1": "last_conv.1"}


def _matches(keys: Collection[str]) -> bool:
    return "_conv_stem.weight" in keys


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the public file: `_blocks.3._expand_conv.weight`, `_conv_stem.weight`, `_fc.weight`."""
    renamed = {}
    for key, value in state.items():
        layer, _, tensor = key.rpartition(".")
        if (found := _BLOCK.match(key)) and found[2] in _PARTS:
            renamed[f"backbone.blocks.{found[1]}.{_PARTS[found[2]]}.{found[3]}"] = value
        elif layer in _OUTER:
            renamed[f"backbone.{_OUTER[layer]}.{tensor}"] = value
        elif layer == "_fc":
            renamed[f"classifier.{tensor}"] = value
        else:
            renamed[key] = value  # reported later as unexpected
    return renamed


EfficientNetLite0.layouts = (KeyLayout("EfficientNet-Lite0", "_conv_stem.weight", _matches, _rename),)

"""I3D: Inception-v1 with 3D convolutions (Carreira & Zisserman, arXiv:1705.07750, Fig. 3).

All convolutions and max pools pad as TensorFlow's "SAME": the output has ceil(input / stride) places. The padding thus
depends on the size of the input and may be one larger at the end than at the start. Fixed padding would shift the
features, and the public weights would not fit. Every convolution has a batch norm and a ReLU.

The last maps are averaged over space and over each two neighbouring frames. A linear layer scores each of these
averages, and the mean of the scores is the clip's.

Axes: B clips, T frames, C channels, H height, W width, K classes.
"""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.attention.sites import Site, Stages
from w3ray.models._common import VideoModel, VideoOutput
from w3ray.models.clip_options import I3DInceptionOptions
from w3ray.models.heads import LinearHead
from w3ray.models.layouts import KeyLayout
from w3ray.models.pixels import Pixels

MODULES = {
    # 1x1x1, 3x3x3 (reduce, out), second 3x3x3 (reduce, out), projection of the pool
    "3b": (64, (96, 128), (16, 32), 32),
    "3c": (128, (128, 192), (32, 96), 64),
    "4b": (192, (96, 208), (16, 48), 64),
    "4c": (160, (112, 224), (24, 64), 64),
    "4d": (128, (128, 256), (24, 64), 64),
    "4e": (112, (144, 288), (32, 64), 64),
    "4f": (256, (160, 320), (32, 128), 128),
    "5b": (256, (160, 320), (32, 128), 128),
    "5c": (384, (192, 384), (48, 128), 128),
}
STAGES = (("3b", "3c"), ("4b", "4c", "4d", "4e", "4f"), ("5b", "5c"))
"""A max pool precedes each stage. It halves the sides, and before the second and third stage also the time."""
Kernel = tuple[int, int, int]


def pad_same(x_BCTHW: Tensor, kernel: Kernel, stride: Kernel, value: float = 0.0) -> Tensor:
    """Pad with a value so that a layer without padding gives ceil(size / stride) places on each axis."""
    padding: list[int] = []
    for size, length, step in reversed(
        [*zip(x_BCTHW.shape[2:], kernel, stride, strict=True)]
    ):  # F.pad: last axis first
        places = -(-size // step)
        total = max((places - 1) * step + length - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x_BCTHW, padding, value=value)


class SameConv(nn.Module):
    """Convolution with "SAME" padding, batch norm, ReLU."""

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(num_in, num_out, kernel, stride, bias=False)
        self.norm = nn.BatchNorm3d(num_out, eps=1e-3, momentum=0.01)
        self.kernel: Kernel = (kernel, kernel, kernel)
        self.stride: Kernel = (stride, stride, stride)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return torch.relu_(self.norm(self.conv(pad_same(x_BCTHW, self.kernel, self.stride))))


def max_pool(x_BCTHW: Tensor, kernel: Kernel, stride: Kernel) -> Tensor:
    """Max pool with "SAME" padding. The padding never wins."""
    return F.max_pool3d(pad_same(x_BCTHW, kernel, stride, float("-inf")), kernel, stride)


class InceptionModule(Site):
    """One inception module. `MODULES` explains its numbers. The attention works on the joined branches."""

    layout = "clips"

    def __init__(self, num_in: int, one: int, three: tuple[int, int], second: tuple[int, int], project: int) -> None:
        super().__init__()
        self.branch_1x1 = SameConv(num_in, one, 1)
        self.branch_3x3 = nn.Sequential(SameConv(num_in, three[0], 1), SameConv(three[0], three[1], 3))
        self.branch_second = nn.Sequential(SameConv(num_in, second[0], 1), SameConv(second[0], second[1], 3))
        self.branch_pool = SameConv(num_in, project, 1)
        self._in_channels = num_in
        self._channels = one + three[1] + second[1] + project

    @property
    def in_channels(self) -> int:
        return self._in_channels

    @property
    def channels(self) -> int:
        return self._channels

    def body(self, entry: Tensor, x: Tensor) -> Tensor:
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        branches = [
            self.branch_1x1(entry),
            self.branch_3x3(entry),
            self.branch_second(entry),
            self.branch_pool(pooled),
        ]
        return torch.cat(branches, dim=1)


class WindowHead(LinearHead):
    """Mean of the scores of all windows of two frames. A window is averaged over time and space before its score."""

    def forward(self, features_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, K]."""
        frames_BTC = features_BTCHW.mean(dim=(3, 4))
        windows_BTC = frames_BTC if frames_BTC.shape[1] == 1 else (frames_BTC[:, :-1] + frames_BTC[:, 1:]) / 2
        return super().forward(self.dropout(windows_BTC)).mean(dim=1)


class InceptionBackbone(nn.Module):
    """The network without its classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def scaled(number: int) -> int:
            return number * width // 64

        self.conv_1a = SameConv(3, scaled(64), 7, 2)
        self.conv_2b = SameConv(scaled(64), scaled(64), 1)
        self.conv_2c = SameConv(scaled(64), scaled(192), 3)
        num_in = scaled(192)
        for name, (one, three, second, project) in MODULES.items():
            module = InceptionModule(
                num_in,
                scaled(one),
                (scaled(three[0]), scaled(three[1])),
                (scaled(second[0]), scaled(second[1])),
                scaled(project),
            )
            self.add_module(f"mixed_{name}", module)
            num_in = module.channels
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, x_BCTHW: Tensor) -> Tensor:
        """Clips [B, 3, T, H, W] -> features [B, C, T / 2, H / 8, W / 8], sizes rounded up."""
        x_BCTHW = max_pool(self.conv_1a(x_BCTHW), (1, 3, 3), (1, 2, 2))
        return max_pool(self.conv_2c(self.conv_2b(x_BCTHW)), (1, 3, 3), (1, 2, 2))

    def stages(self) -> Stages:
        """The modules by stage."""
        return [[getattr(self, f"mixed_{name}") for name in stage] for stage in STAGES]


class I3DInception(VideoModel):
    """I3D on Inception-v1, for clips of any length and size. Its features have ceil(T / 8) frames."""

    pixels = Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # inputs in [-1, 1]

    def __init__(self, options: I3DInceptionOptions | None = None, *, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        options = I3DInceptionOptions() if options is None else options
        self.backbone = InceptionBackbone(options.width)
        self.num_features = self.stages()[-1][-1].channels
        self.classifier = WindowHead(self.num_features, num_classes, dropout)
        self.layouts = (_LAYOUT,)

    def stages(self) -> Stages:
        return self.backbone.stages()

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, 3, H, W] (normalised) -> logits [B, K] and features [B, T', C, H', W']."""
        self.check_clips(x_BTCHW)
        x_BCTHW = self.backbone.stem(x_BTCHW.transpose(1, 2))
        pools: tuple[Kernel | None, ...] = (None, (3, 3, 3), (2, 2, 2))
        masks: list[Tensor] = []
        for pool, stage in zip(pools, self.stages(), strict=True):
            if pool is not None:
                x_BCTHW = max_pool(x_BCTHW, pool, (2, 2, 2))
            x_BCTHW, found = self.run_stages(x_BCTHW, None, [stage])
            masks += found
        return self.finish(x_BCTHW.transpose(1, 2), masks)


_PARTS = {"Conv3d_1a_7x7": "conv_1a", "Conv3d_2b_1x1": "conv_2b", "Conv3d_2c_3x3": "conv_2c"}
_BRANCHES = {
    "b0": "branch_1x1",
    "b1a": "branch_3x3.0",
    "b1b": "branch_3x3.1",
    "b2a": "branch_second.0",
    "b2b": "branch_second.1",
    "b3b": "branch_pool",
}
_KEY = re.compile(r"^(?:module\.)?(?:(Conv3d_\w+)|Mixed_(\d\w)\.(b\w+))\.(conv3d|bn)\.(\w+)$")
_LOGITS = re.compile(r"^(?:module\.)?logits\.conv3d\.(weight|bias)$")


def _matches(keys: Collection[str]) -> bool:
    return any(key.removeprefix("module.") == "Conv3d_1a_7x7.conv3d.weight" for key in keys)


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of `rgb_imagenet.pt`: `Mixed_3b.b1a.conv3d.weight`. Its classifier is a 1x1x1 convolution."""
    renamed = {}
    for key, value in state.items():
        name = key  # reported later as unexpected
        if logits := _LOGITS.match(key):
            name, value = f"classifier.{logits[1]}", value.flatten(1) if value.dim() == 5 else value
        elif found := _KEY.match(key):
            part, module, branch, layer, tensor = found.groups()
            place = _PARTS.get(part)
            if module in MODULES and branch in _BRANCHES:
                place = f"mixed_{module}.{_BRANCHES[branch]}"
            if place is not None:
                name = f"backbone.{place}.{'conv' if layer == 'conv3d' else 'norm'}.{tensor}"
        renamed[name] = value
    return renamed


_LAYOUT = KeyLayout("I3D", "Conv3d_1a_7x7.conv3d.weight", _matches, _rename)

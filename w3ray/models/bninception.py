"""BNInception, the 2D network of TSN, TRN and ECO (Ioffe & Szegedy, arXiv:1502.03167, Fig. 5).

Every convolution has a bias, a batch norm and a ReLU. Max pools round the size up. Average pools are 3x3 with stride 1
and count their padding. The outputs of a module's branches are joined in the order 1x1, 3x3, double 3x3, pool. In a
module that halves the side, the last 3x3 of each branch has the stride, and the pool branch has no projection.

A module has no shortcut, so an attention works on the joined output. A temporal shift moves the input of the
convolutions and not the input of the pool branch. This is our decision, modelled on TSM's shift on the residual branch:
the shift in TSM's own code fails where a unit changes its width.

Axes: N = B*T folded frames, C channels, H height, W width.
"""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from w3ray.attention.sites import Site, Stages
from w3ray.models.frame_backbone import FrameBackbone
from w3ray.models.layouts import KeyLayout
from w3ray.models.pixels import CAFFE

MODULES = {
    # in, 1x1, 3x3 (reduce, out), double 3x3 (reduce, first, second), pool, its projection (0: none), stride
    "3a": (192, 64, (64, 64), (64, 96, 96), "avg", 32, 1),
    "3b": (256, 64, (64, 96), (64, 96, 96), "avg", 64, 1),
    "3c": (320, 0, (128, 160), (64, 96, 96), "max", 0, 2),
    "4a": (576, 224, (64, 96), (96, 128, 128), "avg", 128, 1),
    "4b": (576, 192, (96, 128), (96, 128, 128), "avg", 128, 1),
    "4c": (576, 160, (128, 160), (128, 160, 160), "avg", 128, 1),
    "4d": (608, 96, (128, 192), (160, 192, 192), "avg", 128, 1),
    "4e": (608, 0, (128, 192), (192, 256, 256), "max", 0, 2),
    "5a": (1056, 352, (192, 320), (160, 224, 224), "avg", 128, 1),
    "5b": (1024, 352, (192, 320), (192, 224, 224), "max", 128, 1),
}
STAGES = (("3a", "3b"), ("3c", "4a", "4b", "4c", "4d"), ("4e", "5a", "5b"))
"""A new stage begins where the side of the maps changes: 28, 14 and 7 cells at 224 pixels."""
SIDE = 32
"""Sides of frames must be multiples of this. Otherwise a pool rounds up and the convolutions beside it round down."""


def _conv(num_in: int, num_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU. Stride 1 keeps the side."""
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, kernel, stride, kernel // 2), nn.BatchNorm2d(num_out), nn.ReLU(inplace=True)
    )


class Convolutions(Site):
    """conv2: a 1x1 convolution, then a 3x3 one. A shift may enter it. An attention may not: conv2 is in the stem."""

    layout = "frames"

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.conv = _conv(64, 64, 1), _conv(64, 192, 3)

    @property
    def in_channels(self) -> int:
        return 64

    @property
    def channels(self) -> int:
        return 192

    def body(self, entry: Tensor, x: Tensor) -> Tensor:
        return self.conv(self.reduce(entry))


class InceptionModule(Site):
    """One inception module. `MODULES` explains its numbers."""

    layout = "frames"

    def __init__(
        self,
        num_in: int,
        one: int,
        three: tuple[int, int],
        double: tuple[int, int, int],
        pool: str,
        project: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.branch_1x1 = _conv(num_in, one, 1) if one else None
        self.branch_3x3 = nn.Sequential(_conv(num_in, three[0], 1), _conv(three[0], three[1], 3, stride))
        self.branch_double = nn.Sequential(
            _conv(num_in, double[0], 1), _conv(double[0], double[1], 3), _conv(double[1], double[2], 3, stride)
        )
        self.pool: nn.Module
        if pool == "avg":
            self.pool = nn.AvgPool2d(3, 1, 1)
        else:
            self.pool = nn.MaxPool2d(3, stride, 1 if stride == 1 else 0, ceil_mode=True)
        self.branch_pool = _conv(num_in, project, 1) if project else None
        self._in_channels = num_in
        self._channels = one + three[1] + double[2] + (project or num_in)

    @property
    def in_channels(self) -> int:
        return self._in_channels

    @property
    def channels(self) -> int:
        return self._channels

    def body(self, entry: Tensor, x: Tensor) -> Tensor:
        branches = [] if self.branch_1x1 is None else [self.branch_1x1(entry)]
        pooled = self.pool(x)
        branches += [
            self.branch_3x3(entry),
            self.branch_double(entry),
            pooled if self.branch_pool is None else self.branch_pool(pooled),
        ]
        return torch.cat(branches, dim=1)


class BNInception(FrameBackbone):
    """BNInception without its classifier, for frames whose sides are multiples of 32."""

    # Public weights expect BGR in 0 to 255, minus (104, 117, 128). `_rename` flips their first layer to RGB.
    pixels = CAFFE

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, stride=2)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = Convolutions()
        for name, numbers in MODULES.items():
            self.add_module(f"inception_{name}", InceptionModule(*numbers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def stem(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        """Frames -> [N, 192, H / 8, W / 8]. Raises ValueError if a side is not a multiple of 32."""
        height, width = x_NCHW.shape[2:]
        if height % SIDE or width % SIDE:
            raise ValueError(f"bninception: frames of {height} x {width} pixels: sides must be multiples of {SIDE}")
        return self.pool(self.conv2(self.pool(self.conv1(x_NCHW)), num_frames))

    def stages(self) -> Stages:
        return [[getattr(self, f"inception_{name}") for name in stage] for stage in STAGES]

    def temporal_stages(self) -> Stages:
        return [[self.conv2], *self.stages()]


_PARTS = {"conv1_7x7_s2": "conv1", "conv2_3x3_reduce": "conv2.reduce", "conv2_3x3": "conv2.conv"}
_BRANCHES = {
    "1x1": "branch_1x1",
    "3x3_reduce": "branch_3x3.0",
    "3x3": "branch_3x3.1",
    "double_3x3_reduce": "branch_double.0",
    "double_3x3_1": "branch_double.1",
    "double_3x3_2": "branch_double.2",
    "pool_proj": "branch_pool",
}
_PREFIX = re.compile(r"^(module\.)?(base_model\.)?")
_CLASSIFIERS = ("fc", "last_linear", "new_fc")


def _matches(keys: Collection[str]) -> bool:
    return any(_PREFIX.sub("", key) == "conv1_7x7_s2.weight" for key in keys)


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the flat keys of public files: `inception_3a_double_3x3_1_bn.weight`, often after `module.base_model.`."""
    renamed = {}
    for key, value in state.items():
        layer, _, tensor = _PREFIX.sub("", key).rpartition(".")
        if layer in _CLASSIFIERS:
            renamed[f"classifier.{tensor}"] = value
            continue
        part, is_norm = layer.removesuffix("_bn"), layer.endswith("_bn")
        inception, _, branch = part.removeprefix("inception_").partition("_")
        if part in _PARTS:
            place = _PARTS[part]
        elif inception in MODULES and branch in _BRANCHES:
            place = f"inception_{inception}.{_BRANCHES[branch]}"
        else:
            renamed[key] = value  # reported later as unexpected
            continue
        if part == "conv1_7x7_s2" and not is_norm and tensor == "weight" and value.shape[1] == 3:
            value = value.flip(1)  # BGR -> RGB; weights for flow have more channels
        if is_norm and value.ndim == 2:
            value = value.squeeze(0)  # older files store [1, C]
        renamed[f"backbone.{place}.{int(is_norm)}.{tensor}"] = value
    return renamed


BNInception.layouts = (KeyLayout("BNInception", "conv1_7x7_s2.weight", _matches, _rename),)

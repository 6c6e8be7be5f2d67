"""C3D: eight 3D convolutions and three fully connected layers (Tran et al., ICCV 2015, Fig. 3).

    64 | pool 1x2x2 | 128 | pool 2x2x2 | 256 256 | pool | 512 512 | pool | 512 512 | pool | 4096 | 4096 | K

All convolutions are 3x3x3 with a bias. There is no norm, so the network hardly trains from scratch on few clips. The
last pool pads its map by one cell in space. Clips have 16 frames of 112 x 112 pixels. Clips of 8 frames are possible
too: then time is 1 before the last pool, and that pool does not pool time (our decision).

A site is the convolutions between two pools, so there are five stages of one site. The last map is that before the last
pool: 2 x 7 x 7.

Axes: B clips, T frames, C channels, H height, W width, F features, K classes.
"""

import re
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.attention.sites import Stages
from w3ray.models._common import VideoModel, VideoOutput
from w3ray.models.clip_options import C3DOptions
from w3ray.models.heads import check_head
from w3ray.models.layouts import KeyLayout
from w3ray.models.pixels import CAFFE
from w3ray.models.pooled_convolutions import PooledConvolutions

WIDTHS = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of each convolution, stage by stage, as multiples of the option `width`."""
FULLY_CONNECTED = 64
"""Features of a fully connected layer, as a multiple of `width`."""
PIXEL_SCALE = 64.0
"""About the standard deviation of a pixel of 0 to 255. The start of the first convolution makes up for it."""


class C3DBackbone(nn.Module):
    """The convolutions.

    Args:
        width: channels of the first convolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = 3
        for number, widths in enumerate(WIDTHS, 1):
            convolutions: list[nn.Module] = []
            for multiple in widths:
                convolution = nn.Conv3d(channels, multiple * width, 3, padding=1)
                _start(convolution)
                convolutions.append(convolution)
                channels = multiple * width
            pool = None if number == 1 else nn.MaxPool3d((1, 2, 2) if number == 2 else 2)
            self.add_module(f"block{number}", PooledConvolutions(pool, convolutions, "clips"))
        with torch.no_grad():
            next(self.parameters()).div_(PIXEL_SCALE)

    def stages(self) -> Stages:
        return [[getattr(self, f"block{number}")] for number in range(1, len(WIDTHS) + 1)]


class FullyConnected(nn.Module):
    """The last pool, and the first fully connected layer over it.

    Args:
        options: width and size of the network.
    """

    def __init__(self, options: C3DOptions) -> None:
        super().__init__()
        side = options.size // 16 // 2 + 1
        self.fc6 = nn.Linear(8 * options.width * side * side, FULLY_CONNECTED * options.width)
        _start(self.fc6)

    def forward(self, x_NTCHW: Tensor) -> Tensor:
        """[N, 1 or 2, C, H, W] -> [N, F]."""
        time = x_NTCHW.shape[1]
        pooled_NCTHW = F.max_pool3d(x_NTCHW.transpose(1, 2), (time, 2, 2), padding=(0, 1, 1))
        return torch.relu(self.fc6(pooled_NCTHW.flatten(1)))


class C3DHead(FullyConnected):
    """The three fully connected layers.

    Args:
        options: width and size of the network.
        num_classes: K.
        dropout: behind each of the first two layers.
    """

    def __init__(self, options: C3DOptions, num_classes: int, dropout: float) -> None:
        check_head(num_classes, dropout)
        super().__init__(options)
        width = FULLY_CONNECTED * options.width
        self.dropout = nn.Dropout(dropout)
        self.fc7 = nn.Linear(width, width)
        _start(self.fc7)
        self.last = nn.Linear(width, num_classes)
        nn.init.normal_(self.last.weight, 0.0, 0.001)
        nn.init.zeros_(self.last.bias)

    def forward(self, features_BTCHW: Tensor) -> Tensor:
        """[B, 1 or 2, C, H, W] -> [B, K]."""
        x_BF = self.dropout(super().forward(features_BTCHW))
        return self.last(self.dropout(torch.relu(self.fc7(x_BF))))

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """Weight and bias of the last layer."""
        return self.last.parameters()


class C3D(VideoModel):
    """C3D over clips of 8 or 16 frames.

    Args:
        options: width, and size of the frames.
        num_classes: K.
        dropout: behind each of the first two fully connected layers.
    """

    pixels = CAFFE

    def __init__(self, options: C3DOptions | None = None, *, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.options = C3DOptions() if options is None else options
        self.backbone = C3DBackbone(self.options.width)
        self.num_features = 8 * self.options.width
        self.classifier = C3DHead(self.options, num_classes, dropout)
        self.layouts = (C3D_LAYOUT,)

    def stages(self) -> Stages:
        return self.backbone.stages()

    def check_clips(self, x_BTCHW: Tensor) -> None:
        super().check_clips(x_BTCHW)
        for size in x_BTCHW.shape[3:]:
            self.options.check_clip(x_BTCHW.shape[1], size)

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, 3, S, S] (normalised) -> logits [B, K] and features [B, T / 8, C, S / 16, S / 16]."""
        self.check_clips(x_BTCHW)
        x_BCTHW, masks = self.run_stages(x_BTCHW.transpose(1, 2), None)
        return self.finish(x_BCTHW.transpose(1, 2), masks)


def _start(layer: nn.Conv3d | nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


_CONVOLUTIONS = {
    name: f"block{name[0]}.convs.{2 * 'ab'.index(name[1])}" for name in ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")
}
_CONVOLUTION = re.compile(r"^(?:backbone\.)?conv(\d[ab])\.conv\.(weight|bias)$")
_FULLY_CONNECTED = re.compile(r"^(?:backbone\.)?(fc[67])\.(weight|bias)$")


def _matches(keys: Collection[str]) -> bool:
    return any(_CONVOLUTION.match(key) for key in keys)


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename mmaction2's keys: `backbone.conv3b.conv.weight`, `backbone.fc6.weight`, `cls_head.fc_cls.weight`.

    The files of weights from Sports-1M have no `backbone.`. These weights come from Caffe, so their first convolution
    reads BGR; it is flipped to RGB.
    """
    renamed = {}
    for key, value in state.items():
        if (found := _CONVOLUTION.match(key)) and found[1] in _CONVOLUTIONS:
            if found[1] == "1a" and found[2] == "weight":
                value = value.flip(1)
            renamed[f"backbone.{_CONVOLUTIONS[found[1]]}.{found[2]}"] = value
        elif found := _FULLY_CONNECTED.match(key):
            renamed[f"classifier.{found[1]}.{found[2]}"] = value
        elif key.startswith("cls_head.fc_cls."):
            renamed[f"classifier.last.{key.removeprefix('cls_head.fc_cls.')}"] = value
        else:
            renamed[key] = value  # reported later as unexpected
    return renamed


C3D_LAYOUT = KeyLayout("C3D", "backbone.conv1a.conv.weight", _matches, _rename)

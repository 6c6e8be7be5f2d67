"""ECO: a 2D network reads each frame, a 3D network reads its maps (Zolfaghari et al., arXiv:1804.09066, Fig. 2).

    2D: BNInception up to 3b, then 3c's double branch up to its first 3x3, with stride 1                96 x T x 28 x 28
    3D: conv3_x 128, conv4_x 256, conv5_x 512                                                        512 x T/4 x 7 x 7
    Full only, 2D: the rest of BNInception, 3c to 5b, averaged over time                               1024 x T x 7 x 7

Lite classifies the mean of the 3D map, Full the means of both maps. T must be a multiple of 4.

The 3D residual blocks are not torchvision's. A shortcut adds the sum BEFORE its batch norm, a projection is a 3x3x3
convolution of the normed sum, and all convolutions have biases. An attention works on a block's branch, before the sum.

The paper drops 0.3 of the 3D features and 0.5 of the 2D features. Here both have the recipe's one share (our decision).
A start from two files, such as BNInception and the 3D network from Kinetics, needs one file with the tensors of both.

Axes: N = B*T folded frames, B clips, T frames, C channels, H height, W width.
"""

import re
from collections.abc import Collection, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from w3ray.attention._common import Attention
from w3ray.attention.sites import Site, Stages
from w3ray.models._common import Path, VideoModel, VideoOutput
from w3ray.models.bninception import STAGES, BNInception, InceptionModule
from w3ray.models.clip_options import ECOOptions
from w3ray.models.heads import PooledHead
from w3ray.models.layouts import KeyLayout

SHARED = 96
"""Channels of the maps that both networks read, besides the output of 3b."""


class SharedModule(InceptionModule):
    """BNInception's 3c, whose double branch is computed up to its first 3x3 before it, for the 3D network.

    As a site it takes both inputs in one tensor: the output of 3b, then the shared maps.

    Args:
        module: 3c; its layers are taken over.
        whole: False drops the layers behind the shared ones.
    """

    def __init__(self, module: InceptionModule, *, whole: bool) -> None:
        Site.__init__(self)
        self._in_channels, self._channels = module.in_channels, module.channels
        self.branch_double = module.branch_double if whole else module.branch_double[:2]
        if whole:
            self.branch_3x3, self.pool = module.branch_3x3, module.pool

    @property
    def in_channels(self) -> int:
        return self._in_channels + SHARED

    def shared(self, x_NCHW: Tensor) -> Tensor:
        """The output of 3b -> [N, 96, H, W]."""
        return self.branch_double[1](self.branch_double[0](x_NCHW))

    def body(self, entry: Tensor, x: Tensor) -> Tensor:
        x_NCHW, shared_NCHW = entry.split((self._in_channels, SHARED), dim=1)
        return torch.cat([self.branch_3x3(x_NCHW), self.branch_double[2](shared_NCHW), self.pool(x_NCHW)], dim=1)


class PreNormBlock(Site):
    """A 3D residual block from one sum to the next. Both are before their batch norm.

        out = conv2(relu(norm1(conv1(a)))) + shortcut          a = relu(norm(x)), shortcut = x or project(a)

    Args:
        channels_in, channels: of the two sums.
        last: the output gets the batch norm and the ReLU that otherwise belong to the next block.
    """

    layout = "clips"

    def __init__(self, channels_in: int, channels: int, *, last: bool = False) -> None:
        super().__init__()
        stride = 1 if channels_in == channels else 2
        self.norm = nn.BatchNorm3d(channels_in)
        self.conv1 = nn.Conv3d(channels_in, channels, 3, stride, 1)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, 1, 1)
        self.project = None if stride == 1 else nn.Conv3d(channels_in, channels, 3, stride, 1)
        self.end = nn.Sequential(nn.BatchNorm3d(channels), nn.ReLU(inplace=True)) if last else nn.Identity()

    @property
    def in_channels(self) -> int:
        return self.conv1.in_channels

    @property
    def channels(self) -> int:
        return self.conv2.out_channels

    @property
    def is_residual(self) -> bool:
        return True

    def run(self, entry: Tensor, x: Tensor, num_frames: int | None) -> tuple[Tensor, Tensor | None]:
        active = torch.relu(self.norm(entry))
        branch = self.thinned(self.conv2(torch.relu(self.norm1(self.conv1(active)))), num_frames)
        shortcut = x if self.project is None else self.project(active)
        if self.attention is None:
            return self.end(branch + shortcut), None
        attention = cast(Attention, self.attention)
        if attention.placement == "before":
            out_BTCHW, mask_BTHW = attention(branch.transpose(1, 2), shortcut.transpose(1, 2))
        else:
            out_BTCHW, mask_BTHW = attention((branch + shortcut).transpose(1, 2))
        return self.end(out_BTCHW.transpose(1, 2)), mask_BTHW


class VolumeNetwork(nn.Module):
    """The 3D network.

    Args:
        width: channels of conv3_x; conv4_x has twice, conv5_x four times as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(SHARED, width, 3, 1, 1)
        self.block3b = PreNormBlock(width, width)
        self.block4a = PreNormBlock(width, 2 * width)
        self.block4b = PreNormBlock(2 * width, 2 * width)
        self.block5a = PreNormBlock(2 * width, 4 * width)
        self.block5b = PreNormBlock(4 * width, 4 * width, last=True)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def stages(self) -> Stages:
        return [[self.block3b], [self.block4a, self.block4b], [self.block5a, self.block5b]]


class ECO(VideoModel):
    """ECO Full, or ECO Lite.

    Args:
        options: Lite or Full, and the width of the 3D network.
        num_classes: K.
        dropout: before the classifier.
    """

    def __init__(self, options: ECOOptions | None = None, *, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.options = ECOOptions() if options is None else options
        self.backbone = BNInception()
        self.pixels = self.backbone.pixels
        self.backbone.inception_3c = SharedModule(
            cast(InceptionModule, self.backbone.inception_3c), whole=not self.options.lite
        )
        if self.options.lite:
            for name in (*STAGES[1][1:], *STAGES[2]):
                delattr(self.backbone, f"inception_{name}")
        self.backbone3d = VolumeNetwork(self.options.width)
        self.num_features = 4 * self.options.width
        joined = sum(path.channels for path in self.paths())
        self.classifier = PooledHead(joined, num_classes, dropout)
        self.layouts = (_layout(self.num_features),)

    def stages(self) -> Stages:
        """The 2D modules that both paths share; the 3D blocks; in Full, the rest of the 2D modules."""
        return [self._stage(0), *self.backbone3d.stages(), *self._rest()]

    def paths(self) -> tuple[Path, ...]:
        volume = Path([self._stage(0), *self.backbone3d.stages()], self.num_features)
        if self.options.lite:
            return (volume,)
        rest = self._rest()
        return volume, Path([self._stage(0), *rest], rest[-1][-1].channels)

    def _stage(self, number: int) -> list[Site]:
        return [cast(Site, getattr(self.backbone, f"inception_{name}")) for name in STAGES[number]]

    def _rest(self) -> Stages:
        return [] if self.options.lite else [self._stage(1), self._stage(2)]

    def check_clips(self, x_BTCHW: Tensor) -> None:
        super().check_clips(x_BTCHW)
        for size in x_BTCHW.shape[3:]:
            self.options.check_clip(x_BTCHW.shape[1], size)

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, 3, H, W] (normalised) -> logits [B, K] and features [B, T / 4, C, H / 32, W / 32].

        Full has a second last map, [B, T, 1024, H / 32, W / 32].
        """
        self.check_clips(x_BTCHW)
        size_BT = x_BTCHW.shape[:2]
        x_NCHW = self.backbone.stem(x_BTCHW.flatten(0, 1), size_BT[1])
        x_NCHW, masks = self.run_stages(x_NCHW, size_BT[1], [self._stage(0)])
        shared_NCHW = cast(SharedModule, self.backbone.inception_3c).shared(x_NCHW)
        x_BCTHW = self.backbone3d.first(shared_NCHW.unflatten(0, size_BT).transpose(1, 2))
        x_BCTHW, volume_masks = self.run_stages(x_BCTHW, None, self.backbone3d.stages())
        volume_BTCHW = x_BCTHW.transpose(1, 2)
        if self.options.lite:
            return self.finish(volume_BTCHW, masks + volume_masks)
        both_NCHW = torch.cat([x_NCHW, shared_NCHW], dim=1)
        x_NCHW, frame_masks = self.run_stages(both_NCHW, size_BT[1], self._rest())
        maps = (volume_BTCHW, x_NCHW.unflatten(0, size_BT))
        return self.finish_paths(maps, (masks + volume_masks, masks + frame_masks))


_PREFIX = re.compile(r"^(module\.)?(base_model\.)?")
_CLASSIFIER = re.compile(r"^(module\.)?(base_model\.)?(new_fc|fc_final)\.")
_BLOCKS = ("3b", "4a", "4b", "5a", "5b")
_OF_BLOCKS = {
    "res3a_2": "first",
    **{f"res{name}_1": f"block{name}.conv1" for name in _BLOCKS},
    **{f"res{name}_1_bn": f"block{name}.norm1" for name in _BLOCKS},
    **{f"res{name}_2": f"block{name}.conv2" for name in _BLOCKS},
    **{f"res{name}_down": f"block{name}.project" for name in ("4a", "5a")},
    # The norm of a sum belongs to the block that reads it.
    **{f"res{name}_bn": f"block{after}.norm" for name, after in zip(("3a", *_BLOCKS), _BLOCKS, strict=False)},
    "res5b_bn": "block5b.end.0",
}
"""The authors' names of the 3D layers -> the names here."""


def _matches(keys: Collection[str]) -> bool:
    return any(_PREFIX.sub("", key) == "res3a_2.weight" for key in keys)


def _layout(channels: int) -> KeyLayout:
    """The authors' files: BNInception's flat keys, `res4a_down.weight`, and `new_fc.weight`.

    Args:
        channels: C of the 3D map.
    """

    def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        renamed, of_frames = {}, {}
        for key, value in state.items():
            layer, _, tensor = _PREFIX.sub("", key).rpartition(".")
            if found := _CLASSIFIER.match(key):
                if value.dim() == 2 and value.shape[1] > channels:
                    value = value.roll(channels, dims=1)  # Full: the 2D features come first in the file
                renamed[f"classifier.{key[found.end() :]}"] = value
            elif layer in _OF_BLOCKS:
                renamed[f"backbone3d.{_OF_BLOCKS[layer]}.{tensor}"] = value
            else:
                of_frames[key] = value
        return {**BNInception.layouts[0].rename(of_frames), **renamed}

    return KeyLayout("ECO", "module.base_model.res3a_2.weight", _matches, rename)

"""SlowFast: a wide path over few frames and a narrow path over all frames (arXiv:1812.03982, Table 1, Sec. 3).

The network 8x8 on ResNet-50, for clips of 32 frames. Kernels are (frames) x (places); the fast path has 1/8 of the slow
path's channels.

| part | slow path: every 4th frame | fast path: all frames | joins the slow path |
|---|---|---|---|
| stem | 1x7x7, max pool 1x3x3 | 5x7x7, max pool 1x3x3 | 16 channels |
| stage 1 | 3 bottlenecks (1x1x1, 1x3x3, 1x1x1) | 3 bottlenecks (3x1x1, 1x3x3, 1x1x1) | 64 |
| stage 2 | 4 bottlenecks | 4 | 128 |
| stage 3 | 6 bottlenecks, which convolve over 3 frames | 6 | 256 |
| stage 4 | 3 bottlenecks, which convolve over 3 frames | 3 | - |

Behind the stem and the stages 1 to 3, a lateral convolution over 7 frames with stride 4 brings the fast path's features
to the slow path's frames. The head joins the means of both last maps. One clip goes in: the network takes the slow
path's frames itself, from the first one on. (PyTorchVideo spreads them from the first to the last frame.)

The stages 1 to 4 are those of the slow path, the stages 5 to 8 those of the fast path. Thus the attention `nonlocal`
with its default stages 2 and 3 works in the slow path only, as in the authors' code.

Axes: B clips, T frames, C channels, H height, W width.
"""

from functools import partial

import torch
from torch import Tensor, nn

from w3ray.attention.sites import Stages
from w3ray.models._common import Path, VideoModel, VideoOutput
from w3ray.models.clip_options import SlowFastOptions
from w3ray.models.heads import PooledHead
from w3ray.models.inflated import PIXELS, InflatedBottleneck, InflatedResNet
from w3ray.models.layouts import KeyLayout
from w3ray.models.resnet_layouts import (
    is_mmaction_slowfast,
    is_pytorchvideo_slowfast,
    mmaction_slowfast,
    pytorchvideo_slowfast,
)


class TwoPaths(nn.Module):
    """Both paths and their lateral connections, without the classifier."""

    def __init__(self, options: SlowFastOptions) -> None:
        super().__init__()
        fast_width = options.width // options.beta_inverse
        expansion = InflatedBottleneck.expansion
        # C of the fast path where a lateral connection begins.
        widths = [fast_width, *(fast_width * 2**i * expansion for i in range(3))]
        counts = options.blocks
        self.slow = InflatedResNet(
            InflatedBottleneck,
            options.width,
            stem_time=1,
            times=[[3 if i >= 2 else 1] * count for i, count in enumerate(counts)],
            extra=[2 * width for width in widths],
            zero_norms=True,
        )
        self.fast = InflatedResNet(
            InflatedBottleneck, fast_width, stem_time=5, times=[[3] * count for count in counts], zero_norms=True
        )
        self.lateral = nn.ModuleList(_lateral(width, options) for width in widths)


def _lateral(width: int, options: SlowFastOptions) -> nn.Sequential:
    kernel = options.fusion_kernel
    conv = nn.Conv3d(width, 2 * width, (kernel, 1, 1), (options.alpha, 1, 1), padding=(kernel // 2, 0, 0), bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return (
        nn.Sequential(conv, nn.BatchNorm3d(2 * width), nn.ReLU(inplace=True))
        if options.lateral_norm
        else nn.Sequential(conv)
    )


class SlowFast(VideoModel):
    """SlowFast. Its features are a pair: the slow path's map with T / alpha frames, and the fast path's map with T."""

    def __init__(self, options: SlowFastOptions | None = None, *, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.options = SlowFastOptions() if options is None else options
        self.backbone = TwoPaths(self.options)
        self.pixels = PIXELS[self.options.pixels]
        self.num_features = self.backbone.slow.num_features
        num_fast = self.backbone.fast.num_features
        self.classifier = PooledHead(self.num_features + num_fast, num_classes, dropout)
        self.layouts = (
            KeyLayout(
                "PyTorchVideo",
                "blocks.0.multipathway_blocks.0.conv.weight",
                is_pytorchvideo_slowfast,
                pytorchvideo_slowfast,
            ),
            KeyLayout(
                "mmaction2",
                "backbone.slow_path.conv1.conv.weight",
                is_mmaction_slowfast,
                partial(mmaction_slowfast, num_fast=num_fast),
            ),
        )

    def stages(self) -> Stages:
        return [*self.backbone.slow.stages(), *self.backbone.fast.stages()]

    def paths(self) -> tuple[Path, ...]:
        both = (self.backbone.slow, self.backbone.fast)
        return tuple(Path(path.stages(), path.num_features) for path in both)

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, 3, H, W] (normalised) -> logits [B, K] and the features of both paths, [B, T', C, H', W'] each."""
        self.check_clips(x_BTCHW)
        slow_path, fast_path = self.backbone.slow, self.backbone.fast
        x_BCTHW = x_BTCHW.transpose(1, 2)
        slow_BCTHW = slow_path.stem(x_BCTHW[:, :, :: self.options.alpha])
        fast_BCTHW = fast_path.stem(x_BCTHW)
        slow_masks: list[Tensor] = []
        fast_masks: list[Tensor] = []
        for slow_stage, fast_stage, lateral in zip(
            slow_path.stages(), fast_path.stages(), self.backbone.lateral, strict=True
        ):
            slow_BCTHW = torch.cat([slow_BCTHW, lateral(fast_BCTHW)], dim=1)
            slow_BCTHW, masks = self.run_stages(slow_BCTHW, None, [slow_stage])
            slow_masks += masks
            fast_BCTHW, masks = self.run_stages(fast_BCTHW, None, [fast_stage])
            fast_masks += masks
        maps = slow_BCTHW.transpose(1, 2), fast_BCTHW.transpose(1, 2)
        return self.finish_paths(maps, (slow_masks, fast_masks))

"""I3D on residual networks: 2D ResNets with convolutions over time.

`i3d_r50` is the network of the non-local paper (arXiv:1711.07971, Table 1) with a stem that keeps all frames and a last
stage of stride 1, as in Space-Time Region Graphs (arXiv:1806.01810, Table 1). With the attention `nonlocal` it is the
paper's I3D + NL.

| part | layers (frames x places) | map of 32 frames of 224 pixels |
|---|---|---|
| stem | 5x7x7, max pool 1x3x3 | 32 x 56 x 56 |
| stage 1 | 3 bottlenecks (3x1x1, 1x3x3, 1x1x1), then a max pool that joins two frames | 16 x 56 x 56 |
| stage 2 | 4 bottlenecks; the first and the third convolve over time | 16 x 28 x 28 |
| stage 3 | 6 bottlenecks; every second one convolves over time | 16 x 14 x 14 |
| stage 4 | 3 bottlenecks; the second one convolves over time | 16 x 14 x 14, or 7 x 7 with `last_stride: 2` |

`i3d_r18` is the inflated ResNet-18 of the authors of TAM (arXiv:2010.11757): a stem of 3x7x7 and 3x3x3 convolutions. It
is not torchvision's r3d_18, which has no pool in its stem.

Axes: B clips, T frames, C channels, H height, W width.
"""

from collections.abc import Collection, Mapping
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from w3ray.attention.sites import Stages
from w3ray.models._common import VideoModel, VideoOutput
from w3ray.models.clip_options import I3DResNet18Options, I3DResNet50Options
from w3ray.models.heads import LinearHead, MeanHead, PooledHead
from w3ray.models.inflated import PIXELS, InflatedBasicBlock, InflatedBottleneck, InflatedResNet, kernel_lengths
from w3ray.models.layouts import UNUSED, KeyLayout
from w3ray.models.resnet_layouts import is_mmaction, is_pytorchvideo, is_resnet, mmaction, pytorchvideo, resnet


class I3DResNet(VideoModel):
    """A residual network over clips.

    Args:
        backbone: the network.
        head: takes its last map.
        pool: a max pool behind the first stage joins two frames.
    """

    def __init__(self, backbone: InflatedResNet, head: LinearHead, *, pool: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.num_features = backbone.num_features
        self.classifier = head
        rename = partial(resnet, lengths=kernel_lengths(backbone))
        self.layouts = (KeyLayout("ResNet", "layer1.0.conv1.weight", is_resnet, rename),)

    def stages(self) -> Stages:
        return self.backbone.stages()

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, 3, H, W] (normalised) -> logits [B, K] and features [B, T', C, H', W']."""
        self.check_clips(x_BTCHW)
        return self.finish(*self.last_map(x_BTCHW))

    def last_map(self, x_BTCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last map [B, T', C, H', W'], and the masks of the stages."""
        stages = self.stages()
        x_BCTHW, first_masks = self.run_stages(self.backbone.stem(x_BTCHW.transpose(1, 2)), None, stages[:1])
        if self.pool:
            x_BCTHW = F.max_pool3d(x_BCTHW, (2, 1, 1))
        x_BCTHW, masks = self.run_stages(x_BCTHW, None, stages[1:])
        return x_BCTHW.transpose(1, 2), [*first_masks, *masks]


def i3d_r50(options: I3DResNet50Options | None = None, *, num_classes: int, dropout: float = 0.5) -> I3DResNet:
    """I3D ResNet-50. Its clips have at least 2 frames; the features have T / 2."""
    options = I3DResNet50Options() if options is None else options
    every = options.temporal_kernels == "every"
    starts = (
        None,
        0,
        0,
        1,
    )  # of each stage, the first block that convolves over time, then every second one; None: all
    times = [
        [3 if every or start is None or (j >= start and (j - start) % 2 == 0) else 1 for j in range(count)]
        for start, count in zip(starts, options.blocks, strict=True)
    ]
    backbone = InflatedResNet(
        InflatedBottleneck,
        options.width,
        stem_time=5,
        stem_stride_time=options.stem_stride,
        times=times,
        strides=(1, 2, 2, options.last_stride),
        zero_norms=True,
    )
    model = I3DResNet(backbone, PooledHead(backbone.num_features, num_classes, dropout), pool=True)
    model.pixels = PIXELS[options.pixels]
    model.layouts += (
        KeyLayout("PyTorchVideo", "blocks.1.res_blocks.0.branch2.conv_a.weight", is_pytorchvideo, pytorchvideo),
        KeyLayout("mmaction2", "backbone.layer1.0.conv1.conv.weight", is_mmaction, mmaction),
    )
    return model


def i3d_r18(options: I3DResNet18Options | None = None, *, num_classes: int, dropout: float = 0.5) -> I3DResNet:
    """I3D ResNet-18: the mean of the frames' scores."""
    options = I3DResNet18Options() if options is None else options
    backbone = InflatedResNet(
        InflatedBasicBlock,
        options.width,
        stem_time=3,
        times=[[3] * count for count in options.blocks],
        stride_time=2 if options.temporal_stride else 1,
    )
    return I3DResNet(backbone, MeanHead(backbone.num_features, num_classes, dropout))


def _is_i3d(keys: Collection[str]) -> bool:
    """Whether the file is a trained i3d_r50 of w3ray."""
    return "backbone.conv1.weight" in keys and "classifier.weight" in keys


def _of_i3d(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A trained i3d_r50: all but its classifier."""
    return {f"{UNUSED}{key}" if key.startswith("classifier.") else key: value for key, value in state.items()}


TRAINED_I3D = KeyLayout("I3D", "backbone.conv1.weight, classifier.weight", _is_i3d, _of_i3d)
"""The layout of a trained i3d_r50, for networks with its backbone and another head."""

"""3D residual networks made from 2D ones: each kernel gets an axis of time (Carreira & Zisserman, arXiv:1705.07750).

The children have the names of torchvision's ResNet, so 2D weights find their places. A 2D weight is repeated along time
and divided by the kernel's length. On a clip of equal frames, the network then computes what the 2D network computes
for the frame. Only frames near the ends of the clip differ, because convolutions read zeros outside.

Axes: B clips, T frames, C channels, H height, W width.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from w3ray.attention.blocks import FrameBasicBlock, FrameBottleneck
from w3ray.attention.sites import Stages
from w3ray.models.clip_options import PixelsName
from w3ray.models.pixels import IMAGENET, Pixels

PIXELS: dict[PixelsName, Pixels] = {
    "imagenet": IMAGENET,
    "pytorchvideo": Pixels(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225)),
}


def conv(num_in: int, num_out: int, time: int, space: int, *, stride: int = 1, stride_time: int = 1) -> nn.Conv3d:
    """A convolution over `time` frames and `space` x `space` places. Stride 1 keeps the size."""
    return nn.Conv3d(
        num_in,
        num_out,
        (time, space, space),
        (stride_time, stride, stride),
        (time // 2, space // 2, space // 2),
        bias=False,
    )


def _shortcut(num_in: int, num_out: int, stride: int, stride_time: int) -> nn.Module | None:
    if num_in == num_out and stride == stride_time == 1:
        return None
    return nn.Sequential(conv(num_in, num_out, 1, 1, stride=stride, stride_time=stride_time), nn.BatchNorm3d(num_out))


class InflatedBottleneck(FrameBottleneck):
    """A bottleneck over clips: a convolution over `time` frames, a 3x3 one over space with the stride, a 1x1 one.

    Args:
        num_in: C of the input.
        width: C inside. The output has four times as many channels.
        time: frames that the first convolution reads.
        stride: over space.
        stride_time: over time.
    """

    layout = "clips"
    expansion: ClassVar[int] = 4

    def __init__(self, num_in: int, width: int, *, time: int, stride: int = 1, stride_time: int = 1) -> None:
        nn.Module.__init__(self)
        num_out = width * self.expansion
        self.conv1 = conv(num_in, width, time, 1, stride_time=stride_time)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = conv(width, width, 1, 3, stride=stride)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = conv(width, num_out, 1, 1)
        self.bn3 = nn.BatchNorm3d(num_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(num_in, num_out, stride, stride_time)
        self.make_places()


class InflatedBasicBlock(FrameBasicBlock):
    """Two convolutions over `time` frames and 3x3 places. The first one has the strides. Arguments as above."""

    layout = "clips"
    expansion: ClassVar[int] = 1

    def __init__(self, num_in: int, width: int, *, time: int, stride: int = 1, stride_time: int = 1) -> None:
        nn.Module.__init__(self)
        self.conv1 = conv(num_in, width, time, 3, stride=stride, stride_time=stride_time)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = conv(width, width, time, 3)
        self.bn2 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(num_in, width, stride, stride_time)
        self.make_places()


Block = type[InflatedBottleneck] | type[InflatedBasicBlock]


class InflatedResNet(nn.Module):
    """A stem and four stages over clips [B, C, T, H, W], without a classifier.

    Args:
        block: the class of the blocks.
        width: C of the stem. Stage i has blocks of width * 2^i.
        stem_time: frames that the first convolution reads.
        stem_stride_time: of the first convolution and of the stem's pool, over time.
        times: for each stage, the frames that each of its blocks reads.
        strides: of each stage, over space.
        stride_time: of stages 2 to 4, over time.
        extra: channels that join the input of each stage: lateral connections of SlowFast.
        zero_norms: the last norm of each block starts with scale 0, so a fresh block passes its input on.
    """

    def __init__(
        self,
        block: Block,
        width: int,
        *,
        stem_time: int,
        stem_stride_time: int = 1,
        times: Sequence[Sequence[int]],
        strides: Sequence[int] = (1, 2, 2, 2),
        stride_time: int = 1,
        extra: Sequence[int] = (0, 0, 0, 0),
        zero_norms: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = conv(3, width, stem_time, 7, stride=2, stride_time=stem_stride_time)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), (stem_stride_time, 2, 2), (0, 1, 1))
        num_in = width
        for i, (stage_times, stride) in enumerate(zip(times, strides, strict=True)):
            blocks: list[nn.Module] = []
            for j, time in enumerate(stage_times):
                first = j == 0
                blocks.append(
                    block(
                        num_in + (extra[i] if first else 0),
                        width * 2**i,
                        time=time,
                        stride=stride if first else 1,
                        stride_time=stride_time if first and i > 0 else 1,
                    )
                )
                num_in = width * 2**i * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.num_features = num_in
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_norms and isinstance(module, InflatedBottleneck | InflatedBasicBlock):
                norm = module.last_norm
                assert isinstance(norm, nn.BatchNorm3d)
                nn.init.zeros_(norm.weight)

    def stem(self, x_BCTHW: Tensor) -> Tensor:
        """Clips [B, 3, T, H, W] -> features [B, C, T, H / 4, W / 4]."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x_BCTHW))))

    def stages(self) -> Stages:
        """The blocks by stage."""
        return [list(getattr(self, f"layer{number}")) for number in range(1, 5)]


def kernel_lengths(network: nn.Module) -> dict[str, int]:
    """Name -> T of each weight over clips."""
    return {name: value.shape[2] for name, value in network.state_dict().items() if value.dim() == 5}


def inflate(state: Mapping[str, Tensor], lengths: Mapping[str, int]) -> dict[str, Tensor]:
    """Give each 2D weight its axis of time. Weights that have one, and all others, stay as they are.

    Args:
        state: name -> tensor.
        lengths: name -> T of the network's weight.
    """
    return {
        name: value.unsqueeze(2).repeat(1, 1, lengths[name], 1, 1) / lengths[name]
        if name in lengths and value.dim() == 4
        else value
        for name, value in state.items()
    }

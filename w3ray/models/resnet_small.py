"""Backbones that are small enough to train from scratch on a CPU."""

from torch import Tensor, nn

from w3ray.attention.blocks import FrameBasicBlock
from w3ray.attention.sites import Stages
from w3ray.models.frame_backbone import FrameBackbone, residual_stages, residual_stem

WIDTHS = (16, 32, 64, 128)
WIDE = (16, 32, 64, 130)


class SmallResNet(FrameBackbone):
    """A 3x3 stem and four stages of one BasicBlock each, for frames of about 40 to 64 pixels.

    The children have the names of torchvision's ResNet. There is no classifier. Strides are 2 (stem), 1, 2, 2, 2: the
    last maps are 3x3 for frames of 40 or 48 pixels.
    """

    def __init__(self, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()
        self.layer1 = _stage(widths[0], widths[0], stride=1)
        self.layer2 = _stage(widths[0], widths[1], stride=2)
        self.layer3 = _stage(widths[1], widths[2], stride=2)
        self.layer4 = _stage(widths[2], widths[3], stride=2)
        # An unused layer that draws random numbers: this network once had a classifier, and a seed must still give the
        # same weights.
        nn.Linear(widths[3], 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        return residual_stem(self, x_NCHW)

    def stages(self) -> Stages:
        return residual_stages(self)


class BasicBlock(nn.Module):
    """The children of torchvision's BasicBlock, in the same order: two 3x3 convolutions, their norms, a shortcut."""

    def __init__(self, width_in: int, width_out: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.downsample = downsample
        self.stride = stride


def _stage(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    downsample = None
    if stride != 1 or width_in != width_out:
        downsample = nn.Sequential(
            nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False), nn.BatchNorm2d(width_out)
        )
    return nn.Sequential(FrameBasicBlock(BasicBlock(width_in, width_out, stride, downsample)))


def resnet_small() -> SmallResNet:
    """A `SmallResNet`."""
    return SmallResNet()


def resnet_small_wide() -> SmallResNet:
    """A `SmallResNet` with a wider last stage: it adds as many parameters as W3 adds, for fair comparisons."""
    return SmallResNet(widths=WIDE)

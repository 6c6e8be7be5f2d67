"""Which backbone is small enough to be trained from scratch on a CPU?"""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

WIDTHS = (16, 32, 64, 128)
WIDE = (16, 32, 64, 130)


class SmallResNet(nn.Module):
    """Four stages of one BasicBlock each behind a 3x3 stem, for frames of about 40 to 64 pixels.

    Children are named as in torchvision's ResNet. Strides are 2 (stem), 1, 2, 2, 2: 40 and 48 pixels end as 3x3.
    """

    def __init__(self, num_classes: int = 1000, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()
        self.layer1 = _stage(widths[0], widths[0], stride=1)
        self.layer2 = _stage(widths[0], widths[1], stride=2)
        self.layer3 = _stage(widths[1], widths[2], stride=2)
        self.layer4 = _stage(widths[2], widths[3], stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def residual_stages(self) -> list[nn.Sequential]:
        """The four stages, first to last."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, K]."""
        x_NCHW = self.maxpool(self.relu(self.bn1(self.conv1(x_NCHW))))
        for stage in self.residual_stages():
            x_NCHW = stage(x_NCHW)
        return self.fc(x_NCHW.mean(dim=(2, 3)))


def _stage(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    downsample = None
    if stride != 1 or width_in != width_out:
        downsample = nn.Sequential(
            nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False), nn.BatchNorm2d(width_out)
        )
    return nn.Sequential(BasicBlock(width_in, width_out, stride, downsample))


def resnet_small(num_classes: int = 1000) -> SmallResNet:
    """A `SmallResNet`; called like torchvision's `resnet50`."""
    return SmallResNet(num_classes=num_classes)


def resnet_small_wide(num_classes: int = 1000) -> SmallResNet:
    """A `SmallResNet` whose last stage is wider by as many parameters as W3 adds: its rival in comparisons."""
    return SmallResNet(num_classes=num_classes, widths=WIDE)

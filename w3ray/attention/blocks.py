"""torchvision's residual blocks as sites for an attention.

Each known block class has a class here that is a site. It takes over the children of an existing block and keeps their
names, so `layer1.0.conv1.weight` keeps its name. The attention works on the residual branch, before the shortcut is
added, or on the block's output.

A block class is known by its name: an import of torchvision takes as long as that of torch, and a network without
torchvision's blocks does not need it.

Axes: N = B*T folded frames, B clips, T frames, C channels, H height, W width.
"""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from w3ray.attention._common import Attention
from w3ray.attention.sites import Layout, Site, Stages


class ResidualBlock(Site):
    """A residual block as a site. Subclasses define the branch.

    Args:
        block: a finished torchvision block; its children and plain settings are taken over.
    """

    relu: nn.Module
    downsample: nn.Module | None

    def __init__(self, block: Any) -> None:
        nn.Module.__init__(self)
        for name, child in block._modules.items():
            self.register_module(name, child)
        self.stride = block.stride
        self.training = block.training
        if block.downsample is None:  # torchvision stores None as a plain attribute, not as a module
            self.register_module("downsample", None)
        self.make_places()

    @property
    def is_residual(self) -> bool:
        return True

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch, up to and including its last norm."""
        raise NotImplementedError

    def run(self, entry: Tensor, x: Tensor, num_frames: int | None) -> tuple[Tensor, Tensor | None]:
        branch = self.thinned(self.branch(entry), num_frames)
        identity = x if self.downsample is None else self.downsample(x)
        if self.attention is None:
            branch += identity
            return self.relu(branch), None
        attention = cast(Attention, self.attention)
        if attention.placement == "before":
            out_BTCHW, mask_BTHW = attention(self.to_clips(branch, num_frames), self.to_clips(identity, num_frames))
            # The ReLU works in place on the new tensor: on a view of it, the gradient would cost copies.
            return self.from_clips(self.relu(out_BTCHW)), mask_BTHW
        branch += identity
        out_BTCHW, mask_BTHW = attention(self.to_clips(self.relu(branch), num_frames))
        return self.from_clips(out_BTCHW), mask_BTHW


class FrameBasicBlock(ResidualBlock):
    """torchvision's 2D BasicBlock as a site."""

    layout: Layout = "frames"

    conv1: nn.Conv2d | nn.Conv3d
    bn1: nn.Module
    conv2: nn.Conv2d | nn.Conv3d
    bn2: nn.Module

    @property
    def in_channels(self) -> int:
        return self.conv1.in_channels

    @property
    def channels(self) -> int:
        return self.conv2.out_channels

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class FrameBottleneck(ResidualBlock):
    """torchvision's 2D Bottleneck as a site."""

    layout: Layout = "frames"

    conv1: nn.Conv2d | nn.Conv3d
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    conv3: nn.Conv2d | nn.Conv3d
    bn3: nn.Module

    @property
    def in_channels(self) -> int:
        return self.conv1.in_channels

    @property
    def channels(self) -> int:
        return self.conv3.out_channels

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def branch(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))


class ClipBasicBlock(ResidualBlock):
    """torchvision's 3D BasicBlock as a site."""

    layout = "clips"

    conv1: nn.Sequential
    conv2: nn.Sequential

    @property
    def in_channels(self) -> int:
        return _width_in(self.conv1)

    @property
    def channels(self) -> int:
        return _norm_width(self.conv2)

    @property
    def last_norm(self) -> nn.Module:
        return self.conv2[-1]

    def branch(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class ClipBottleneck(ResidualBlock):
    """torchvision's 3D Bottleneck as a site."""

    layout = "clips"

    conv1: nn.Sequential
    conv2: nn.Sequential
    conv3: nn.Sequential

    @property
    def in_channels(self) -> int:
        return _width_in(self.conv1)

    @property
    def channels(self) -> int:
        return _norm_width(self.conv3)

    @property
    def last_norm(self) -> nn.Module:
        return self.conv3[-1]

    def branch(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x)))


ADOPTERS: dict[str, Callable[[Any], ResidualBlock]] = {
    "torchvision.models.resnet.BasicBlock": FrameBasicBlock,
    "torchvision.models.resnet.Bottleneck": FrameBottleneck,
    "torchvision.models.video.resnet.BasicBlock": ClipBasicBlock,
    "torchvision.models.video.resnet.Bottleneck": ClipBottleneck,
}
"""Full name of torchvision's block class -> the site that replaces it."""


def adopt_blocks(stages: list[nn.Sequential]) -> Stages:
    """Replace each torchvision block of the stages by its site, in place. Returns the sites by stage.

    Raises:
        ValueError: a stage holds a module that is not a known residual block. No block was replaced.
    """
    for stage in stages:
        for block in stage:
            if not isinstance(block, Site) and full_name(type(block)) not in ADOPTERS:
                known = ", ".join(ADOPTERS)
                raise ValueError(f"add_attention: unknown residual block {full_name(type(block))}; known: {known}")
    for stage in stages:
        for name, block in stage.named_children():
            if not isinstance(block, Site):
                setattr(stage, name, ADOPTERS[full_name(type(block))](block))
    return [[cast(Site, block) for block in stage] for stage in stages]


def _width_in(layers: nn.Sequential) -> int:
    # In R(2+1)D the first layer is a pair of convolutions.
    return next(module for module in layers.modules() if isinstance(module, nn.Conv3d)).in_channels


def _norm_width(layers: nn.Sequential) -> int:
    norm = layers[-1]
    assert isinstance(norm, nn.BatchNorm3d)
    return norm.num_features


def full_name(kind: type) -> str:
    """The name of a class with that of its module."""
    return f"{kind.__module__}.{kind.__name__}"


def is_resnet(network: nn.Module) -> bool:
    """Whether a network is torchvision's 2D ResNet."""
    return "torchvision.models.resnet.ResNet" in map(full_name, type(network).__mro__)


def is_video_resnet(network: nn.Module) -> bool:
    """Whether a network is torchvision's 3D VideoResNet."""
    return "torchvision.models.video.resnet.VideoResNet" in map(full_name, type(network).__mro__)

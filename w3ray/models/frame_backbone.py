"""The interface of a 2D network that is the backbone of a frame network (TSN, TSM).

Axes: N = B*T folded frames, C channels, H height, W width.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from w3ray.attention.blocks import adopt_blocks, is_resnet
from w3ray.attention.sites import Stages
from w3ray.models.layouts import KeyLayout
from w3ray.models.pixels import IMAGENET, Pixels


class FrameBackbone(nn.Module):
    """A 2D network as a stem and stages of sites, without its classifier."""

    pixels: Pixels = IMAGENET
    layouts: ClassVar[tuple[KeyLayout, ...]] = ()
    """Layouts of public weight files of this network, in addition to torchvision's and the reference TSM's."""

    @property
    def num_features(self) -> int:
        """C of the last feature map: of the last stage, unless `last` changes it."""
        return self.stages()[-1][-1].channels

    def stem(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        """Run everything before the first stage: frames [N, 3, H, W] -> features [N, C, H', W']."""
        raise NotImplementedError

    def stages(self) -> Stages:
        """The sites by stage, first to last."""
        raise NotImplementedError

    def last(self, x_NCHW: Tensor) -> Tensor:
        """Run everything behind the last stage, before the global pooling. Here: nothing."""
        return x_NCHW

    def temporal_stages(self) -> Stages:
        """The sites that a temporal module may enter, by stage. Sites of the stem, if any, are an extra first stage."""
        return self.stages()


class ResNetBackbone(FrameBackbone):
    """torchvision's ResNet. Its children keep their names.

    Args:
        network: a torchvision ResNet; it is taken apart: its blocks become sites, its classifier is dropped.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        adopt_blocks([network.layer1, network.layer2, network.layer3, network.layer4])
        for name, child in network.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)

    def stem(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        return residual_stem(self, x_NCHW)

    def stages(self) -> Stages:
        return residual_stages(self)


def residual_stem(network: Any, x_NCHW: Tensor) -> Tensor:
    """Run the stem of a network whose children have the names of torchvision's ResNet."""
    return network.maxpool(network.relu(network.bn1(network.conv1(x_NCHW))))


def residual_stages(network: Any) -> Stages:
    """The stages of a network whose children have the names of torchvision's ResNet."""
    return adopt_blocks([network.layer1, network.layer2, network.layer3, network.layer4])


def frame_backbone(network: nn.Module) -> FrameBackbone:
    """Turn a network into a frame backbone.

    Args:
        network: a frame backbone, or a torchvision ResNet, which is taken apart.

    Raises:
        ValueError: the network is neither.
    """
    if isinstance(network, FrameBackbone):
        return network
    if is_resnet(network):
        return ResNetBackbone(network)
    raise ValueError(
        f"frame network: {type(network).__name__} is not a backbone; it must be a FrameBackbone "
        "(w3ray.models.frame_backbone) or a torchvision ResNet"
    )

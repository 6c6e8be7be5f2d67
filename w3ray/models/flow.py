"""How does a network for RGB frames read optical flow?

Its first convolution gets 2 L input channels for L stacked fields, x and y in turn. Weights for RGB still fit: their
mean over the three colours is used for every channel (TSN's cross-modality start, arXiv:1608.00859, section 4.1).
"""

import copy

from torch import Tensor, nn

from w3ray.models._common import VideoModel
from w3ray.models.pixels import Pixels

NO_MOTION = 0.5
"""The value in [0, 1] that means no motion."""


def read_flow(model: VideoModel, fields: int) -> None:
    """Make the model read stacks of flow fields instead of RGB frames, in place.

    Args:
        model: reads RGB.
        fields: L, the fields of a stack.

    Raises:
        ValueError: fields below 1, or the model has no convolution of RGB.
    """
    if isinstance(fields, bool) or not isinstance(fields, int) or fields < 1:
        raise ValueError(f"flow_fields={fields!r}: must be a whole number >= 1")
    channels, spread = 2 * fields, sum(model.pixels.std) / len(model.pixels.std)
    found = []
    for name, conv in list(model.named_modules()):
        if isinstance(conv, nn.Conv2d | nn.Conv3d) and conv.in_channels == model.pixels.channels and conv.groups == 1:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _for_flow(conv, channels))
            found.append(name)
    if not found:
        raise ValueError(f"{type(model).__name__}: no convolution reads {model.pixels.channels} channels")
    model.flow_convolutions = tuple(found)
    model.pixels = Pixels(mean=(NO_MOTION,) * channels, std=(spread,) * channels)


def _for_flow(conv: nn.Conv2d | nn.Conv3d, channels: int) -> nn.Conv2d | nn.Conv3d:
    fresh = copy.deepcopy(conv)
    fresh.in_channels = channels
    fresh.weight = nn.Parameter(weight_for(conv.weight.detach(), channels))
    return fresh


def weight_for(weight_OI: Tensor, channels: int) -> Tensor:
    """The weight [out, in, ...] of a first convolution, for another number of input channels: its mean over `in`."""
    mean_O1 = weight_OI.mean(dim=1, keepdim=True)
    return mean_O1.expand(-1, channels, *weight_OI.shape[2:]).contiguous()

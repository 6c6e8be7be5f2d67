"""How do a temporal shift and an attention enter torchvision's residual blocks?

Each known block class has a subclass here that adopts a finished block's children under their own names (so that
`layer1.0.conv1.weight` stays what it was) and has two more places: `shift`, before the first convolution, and
`attention`, after the last norm. Nothing is stored between calls: the number of frames comes in with the call, the
spatial mask goes out with the result, so blocks can be deep-copied, compiled and shared between threads.

Axes: N = B*T folded frames, B clips, T frames, C channels, H height, W width.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.video import resnet as video_resnet

from w3ray.attention._common import Attention

Shift = Callable[[Tensor, int], Tensor]
"""A temporal shift: (x_NCHW, num_frames) -> x_NCHW."""


class AttentiveBlock(nn.Module):
    """A residual block with places for a shift and an attention; subclasses say what its branch is."""

    shift: nn.Module | None
    attention: nn.Module | None
    relu: nn.Module
    downsample: nn.Module | None
    num_frames: int | None

    def adopt(self, block: nn.Module) -> None:
        """Take over the children and plain settings of a finished torchvision block."""
        nn.Module.__init__(self)
        for name, child in block._modules.items():
            self.register_module(name, child)
        self.stride = block.stride
        self.training = block.training
        if block.downsample is None:  # torchvision keeps an absent one as a plain attribute
            self.register_module("downsample", None)
        self.register_module("shift", None)
        self.register_module("attention", None)
        self.num_frames = None

    @property
    def channels(self) -> int:
        """C of the block's output."""
        raise NotImplementedError

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch, up to and including its last norm."""
        raise NotImplementedError

    @property
    def last_norm(self) -> nn.Module:
        """The norm that ends the residual branch."""
        raise NotImplementedError

    def check_last_norm(self) -> None:
        """Raise ValueError unless the last norm has a scale and a shift that can hold a gain."""
        norm = self.last_norm
        is_norm = not isinstance(norm, nn.Linear | nn.modules.conv._ConvNd)
        if not (is_norm and all(isinstance(getattr(norm, name, None), Tensor) for name in ("weight", "bias"))):
            raise ValueError(
                f"attention with gain=norm: the residual branch ends in {type(norm).__name__}, which has no scale and "
                "shift to hold the gain; use gain=gate"
            )

    @torch.no_grad()
    def scale_last_norm(self, factor: float) -> None:
        """Multiply scale and shift of the last norm."""
        cast(Tensor, self.last_norm.weight).mul_(factor)
        cast(Tensor, self.last_norm.bias).mul_(factor)

    def to_clips(self, x: Tensor, num_frames: int | None) -> Tensor:
        """The block's own layout -> a view [B, T, C, H, W]."""
        raise NotImplementedError

    def from_clips(self, x_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> a view in the block's own layout."""
        raise NotImplementedError

    def forward(self, x: Tensor, num_frames: int | None = None, *, return_mask: bool = False) -> Any:
        """Run the block.

        Args:
            x: [B*T, C, H, W] in 2D blocks, [B, C, T, H, W] in 3D blocks.
            num_frames: T of folded frames; None: the number given to `add_attention`.
            return_mask: also return the spatial mask [B, T, H, W] (None without one).

        Returns:
            The output in the layout of `x`, or (output, mask).
        """
        num_frames = self.num_frames if num_frames is None else num_frames
        entry = x if self.shift is None else self.shift(x, num_frames)
        branch = self.branch(entry)
        identity = x if self.downsample is None else self.downsample(x)
        if self.attention is None:
            branch += identity
            out, mask = self.relu(branch), None
        else:
            out, mask = self._attend(cast(Attention, self.attention), branch, identity, num_frames)
        return (out, mask) if return_mask else out

    def _attend(
        self, attention: Attention, branch: Tensor, identity: Tensor, num_frames: int | None
    ) -> tuple[Tensor, Tensor | None]:
        if attention.placement == "before":
            out_BTCHW, mask_BTHW = attention(self.to_clips(branch, num_frames), self.to_clips(identity, num_frames))
            # The ReLU works in place: on the fresh tensor, not on a view of it, whose gradient would cost copies.
            return self.from_clips(self.relu(out_BTCHW)), mask_BTHW
        branch += identity
        out_BTCHW, mask_BTHW = attention(self.to_clips(self.relu(branch), num_frames))
        return self.from_clips(out_BTCHW), mask_BTHW


class _FrameBlock(AttentiveBlock):
    """2D blocks: clips folded into the batch."""

    def to_clips(self, x: Tensor, num_frames: int | None) -> Tensor:
        if num_frames is None:
            raise ValueError("attention in a 2D network: number of frames unknown; pass num_frames to add_attention")
        if x.shape[0] % num_frames:
            raise ValueError(f"attention: {x.shape[0]} frames in the batch do not divide into clips of {num_frames}")
        return x.unflatten(0, (-1, num_frames))

    def from_clips(self, x_BTCHW: Tensor) -> Tensor:
        return x_BTCHW.flatten(0, 1)


class _ClipBlock(AttentiveBlock):
    """3D blocks: the time axis is the tensor's own."""

    def to_clips(self, x: Tensor, num_frames: int | None) -> Tensor:
        return x.transpose(1, 2)

    def from_clips(self, x_BTCHW: Tensor) -> Tensor:
        return x_BTCHW.transpose(1, 2)


class FrameBasicBlock(_FrameBlock, resnet.BasicBlock):
    """torchvision's 2D BasicBlock with the two places."""

    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Conv2d
    bn2: nn.Module

    def __init__(self, block: resnet.BasicBlock) -> None:
        self.adopt(block)

    @property
    def channels(self) -> int:
        return self.conv2.out_channels

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class FrameBottleneck(_FrameBlock, resnet.Bottleneck):
    """torchvision's 2D Bottleneck with the two places."""

    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    conv3: nn.Conv2d
    bn3: nn.Module

    def __init__(self, block: resnet.Bottleneck) -> None:
        self.adopt(block)

    @property
    def channels(self) -> int:
        return self.conv3.out_channels

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def branch(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))


class ClipBasicBlock(_ClipBlock, video_resnet.BasicBlock):
    """torchvision's 3D BasicBlock with the two places."""

    conv1: nn.Sequential
    conv2: nn.Sequential

    def __init__(self, block: video_resnet.BasicBlock) -> None:
        self.adopt(block)

    @property
    def channels(self) -> int:
        return _norm_width(self.conv2)

    @property
    def last_norm(self) -> nn.Module:
        return self.conv2[-1]

    def branch(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class ClipBottleneck(_ClipBlock, video_resnet.Bottleneck):
    """torchvision's 3D Bottleneck with the two places."""

    conv1: nn.Sequential
    conv2: nn.Sequential
    conv3: nn.Sequential

    def __init__(self, block: video_resnet.Bottleneck) -> None:
        self.adopt(block)

    @property
    def channels(self) -> int:
        return _norm_width(self.conv3)

    @property
    def last_norm(self) -> nn.Module:
        return self.conv3[-1]

    def branch(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x)))


ADOPTERS: dict[type[nn.Module], type[AttentiveBlock]] = {
    resnet.BasicBlock: FrameBasicBlock,
    resnet.Bottleneck: FrameBottleneck,
    video_resnet.BasicBlock: ClipBasicBlock,
    video_resnet.Bottleneck: ClipBottleneck,
}
"""Which block class is replaced by which."""


def adopt_blocks(stages: list[nn.Sequential]) -> list[AttentiveBlock]:
    """Replace, in place, each torchvision block of the stages by its subclass with places; return all blocks.

    Raises:
        ValueError: a stage holds a module that is no known residual block.
    """
    for stage in stages:
        for block in stage:
            if not isinstance(block, AttentiveBlock) and type(block) not in ADOPTERS:
                known = ", ".join(_where(kind) for kind in ADOPTERS)
                raise ValueError(f"add_attention: unknown residual block {_where(type(block))}; known: {known}")
    blocks: list[AttentiveBlock] = []
    for stage in stages:
        for name, block in stage.named_children():
            if not isinstance(block, AttentiveBlock):
                block = ADOPTERS[type(block)](block)
                setattr(stage, name, block)
            blocks.append(block)
    return blocks


def _norm_width(layers: nn.Sequential) -> int:
    norm = layers[-1]
    assert isinstance(norm, nn.BatchNorm3d)
    return norm.num_features


def _where(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"

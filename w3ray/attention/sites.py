"""Sites: the parts of a network where an attention can work.

A site is a module that runs one part of the network: a residual block, an inception module, or the convolutions
between two pools. It has two places. `temporal`, at its entry, takes a module that mixes frames (TSM's shift).
`attention` works on what the site computes. All code that works on attentions - `add_attention`, AFR, explain,
Grad-CAM, profile, the gates' health - walks the sites and needs nothing else of the network.

Sites store nothing between calls: each call passes the number of frames and returns the spatial mask. So sites can be
deep-copied, compiled and shared between threads.

Axes: N = B*T folded frames, B clips, T frames, C channels, H height, W width.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

from torch import Tensor, nn

from w3ray.attention._common import Attention

Layout = Literal["frames", "clips"]
"""How a network holds clips. "frames": [B*T, C, H, W], in 2D networks; "clips": [B, C, T, H, W], in 3D networks."""

Temporal = Callable[[Tensor, int], Tensor]
"""A module at the entry of a site: (x_NCHW, num_frames) -> x_NCHW."""


class Site(nn.Module):
    """One part of a network with a place for an attention. Subclasses define its computation in `run`.

    A subclass without a shortcut defines only `channels` and `body`; see also `OutputSite`. It defines `in_channels`,
    too, if temporal modules with weights may enter.
    """

    layout: Layout
    attention: nn.Module | None
    temporal: nn.Module | None
    num_frames: int | None
    """T of folded frames, used if the caller does not pass it. `add_attention` sets it."""

    def __init__(self) -> None:
        super().__init__()
        self.make_places()

    drop_probability: float
    """Stochastic depth: share of the clips that skip the residual branch in training."""

    def make_places(self) -> None:
        """Make the two places, both empty."""
        self.drop_probability = 0.0
        self.register_module("temporal", None)
        self.register_module("attention", None)
        self.num_frames = None

    @property
    def channels(self) -> int:
        """C of the attention's input."""
        raise NotImplementedError

    @property
    def in_channels(self) -> int:
        """C of the site's input. A temporal module reads this input."""
        raise NotImplementedError

    @property
    def last_norm(self) -> nn.Module | None:
        """The norm right before the attention, which can hold a gain (`gain: norm`). None: there is no such norm."""
        return None

    @property
    def is_residual(self) -> bool:
        """Whether the site adds a branch to a shortcut. Then its `run` passes the branch through `thinned`."""
        return False

    def thinned(self, branch: Tensor, num_frames: int | None) -> Tensor:
        """The residual branch with stochastic depth: in training, 0 for some clips, and scaled up for the others."""
        if not self.training or self.drop_probability == 0:
            return branch
        from torchvision.ops import stochastic_depth

        branch_BTCHW = self.to_clips(branch, num_frames)
        ones_B1111 = branch_BTCHW.new_ones(len(branch_BTCHW), 1, 1, 1, 1)
        # In place, on the norm's own output: a copy of each branch makes a training step noticeably slower.
        branch_BTCHW.mul_(stochastic_depth(ones_B1111, self.drop_probability, "row"))
        return branch

    def body(self, entry: Tensor, x: Tensor) -> Tensor:
        """The computation of a site without a shortcut.

        Args:
            entry: the temporal module's output for `x`; `x` itself if there is no temporal module.
            x: the site's input.
        """
        raise NotImplementedError

    def run(self, entry: Tensor, x: Tensor, num_frames: int | None) -> tuple[Tensor, Tensor | None]:
        """The site's output in its own layout, and the spatial mask [B, T, H, W] or None.

        Args:
            entry: the temporal module's output for `x`; `x` itself if there is no temporal module.
            x: the site's input.
            num_frames: T of folded frames.
        """
        out = self.body(entry, x)
        if self.attention is None:
            return out, None
        out_BTCHW, mask_BTHW = cast(Attention, self.attention)(self.to_clips(out, num_frames))
        return self.from_clips(out_BTCHW), mask_BTHW

    def forward(self, x: Tensor, num_frames: int | None = None, *, return_mask: bool = False) -> Any:
        """Run this part of the network.

        Args:
            x: features in the site's layout.
            num_frames: T of folded frames. None: the number given to `add_attention`.
            return_mask: also return the spatial mask [B, T, H, W], or None if there is no mask.

        Returns:
            The output in the layout of `x`, or (output, mask).
        """
        num_frames = self.num_frames if num_frames is None else num_frames
        entry = x if self.temporal is None else self.temporal(x, num_frames)
        out, mask_BTHW = self.run(entry, x, num_frames)
        return (out, mask_BTHW) if return_mask else out

    def to_clips(self, x: Tensor, num_frames: int | None) -> Tensor:
        """The site's own layout -> a view [B, T, C, H, W].

        Raises:
            ValueError: the number of folded frames is unknown, or the batch does not divide into clips.
        """
        if self.layout == "clips":
            return x.transpose(1, 2)
        if num_frames is None:
            raise ValueError("attention in a 2D network: number of frames unknown; pass num_frames to add_attention")
        if x.shape[0] % num_frames:
            raise ValueError(f"attention: {x.shape[0]} frames in the batch do not divide into clips of {num_frames}")
        return x.unflatten(0, (-1, num_frames))

    def from_clips(self, x_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> a view in the site's own layout."""
        return x_BTCHW.transpose(1, 2) if self.layout == "clips" else x_BTCHW.flatten(0, 1)


class OutputSite(Site):
    """Makes a site of any module without a shortcut. The attention works on the module's output.

    Args:
        module: takes and returns features in `layout`.
        channels: C of the module's output.
        layout: how the module holds clips.
    """

    def __init__(self, module: nn.Module, channels: int, layout: Layout = "frames") -> None:
        super().__init__()
        self.module = module
        self.layout = layout
        self._channels = channels

    @property
    def channels(self) -> int:
        return self._channels

    def body(self, entry: Tensor, x: Tensor) -> Tensor:
        return self.module(entry)


Stages = list[list[Site]]
"""The sites of a network by stage, in running order. A stage ends where the size of the maps changes."""

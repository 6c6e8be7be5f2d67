"""The unit of networks without shortcuts (VGG, C3D): the convolutions between two pools."""

from typing import Any, cast

from torch import Tensor, nn

from w3ray.attention.sites import Layout, Site


class PooledConvolutions(Site):
    """A pool, then convolutions, each with a ReLU. A temporal module works behind the pool, an attention at the end.

    Args:
        pool: None in the first unit of a network.
        convolutions: at least one; each gets a ReLU behind it.
        layout: how the network holds clips.
    """

    def __init__(self, pool: nn.Module | None, convolutions: list[nn.Module], layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.pool = nn.Identity() if pool is None else pool
        self.convs = nn.Sequential(
            *(part for convolution in convolutions for part in (convolution, nn.ReLU(inplace=True)))
        )

    @property
    def in_channels(self) -> int:
        return cast(nn.Conv2d, self.convs[0]).in_channels

    @property
    def channels(self) -> int:
        return cast(nn.Conv2d, self.convs[-2]).out_channels

    def forward(self, x: Tensor, num_frames: int | None = None, *, return_mask: bool = False) -> Any:
        return super().forward(self.pool(x), num_frames, return_mask=return_mask)

    def body(self, entry: Tensor, x: Tensor) -> Tensor:
        return self.convs(entry)

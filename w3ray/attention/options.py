"""Which options does each attention take? Checked here without torch, so that a wrong recipe is answered at once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

Placement = Literal["before", "after"]


@dataclass(frozen=True, slots=True, kw_only=True)
class W3Config:
    """The knobs of W3. Raises ValueError that names the field."""

    reduction: int = 16
    """r of Eq. 3; the hidden width is max(1, C // r)."""
    channel_kernel: int = 3
    """K_c-vid of Eq. 4, in frames, odd."""
    spatial_kernel: int = 7
    """K_s-frm of Eq. 5, in cells of the feature map, odd."""
    temporal_kernel: int = 3
    """K_s-vid of Eq. 6, odd; the kernel is cubic."""
    depthwise: bool = True
    """Eq. 4 by channel; False: dense, C * C weights per tap."""
    hidden: int = 1
    """Hidden channels of Eq. 6."""
    placement: Placement = "before"
    """On the residual branch before the shortcut is added, or after the block."""
    identity_start: bool = True
    """Start near M = 1: last gate bias 3, small last weights, first temporal layer near the identity."""
    channel: bool = True
    """Channel-temporal attention (Eq. 3-4)."""
    spatial: bool = True
    """Spatio-temporal attention (Eq. 5-6)."""
    temporal: bool = True
    """The temporal convolutions (Eq. 4 and 6); False: M^c = M^c-frm and M^s = M^s-frm."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """The config of a recipe's options. Raises ValueError that names an unknown one."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"W3: unknown option {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(**options)

    def __post_init__(self) -> None:
        for name in ("reduction", "hidden", "channel_kernel", "spatial_kernel", "temporal_kernel"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"W3: {name}={value!r}: must be a whole number >= 1")
            if name.endswith("_kernel") and value % 2 == 0:
                raise ValueError(f"W3: {name}={value}: must be odd, so that the mask keeps the size of its input")
        for name in ("depthwise", "identity_start", "channel", "spatial", "temporal"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"W3: {name}={getattr(self, name)!r}: must be true or false")
        if self.placement not in get_args(Placement):
            raise ValueError(f"W3: placement={self.placement!r}: must be one of {', '.join(get_args(Placement))}")
        if not (self.channel or self.spatial):
            raise ValueError("W3: channel=False with spatial=False: nothing is left; use no attention instead")

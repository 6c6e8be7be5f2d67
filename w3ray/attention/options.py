"""Which options does each attention take? Checked here without torch, so that a wrong recipe is answered at once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, Self, get_args

Placement = Literal["before", "after"]


class AttentionConfig(Protocol):
    """What is known of an attention by its options alone."""

    @property
    def has_spatial_mask(self) -> bool:
        """Whether it has a spatial mask, which refinement needs."""

    def enters(self, stage: int, block: int) -> bool:
        """Whether it enters this block of this stage of residual blocks, both counted from 0."""


def _known_options(kind: str, config: type, options: Mapping[str, Any]) -> dict[str, Any]:
    known = [field.name for field in fields(config)]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"{kind}: unknown option {', '.join(unknown)}; known: {', '.join(known)}")
    return dict(options)


def _check_whole(kind: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{kind}: {name}={value!r}: must be a whole number >= 1")
    if name.endswith("_kernel") and value % 2 == 0:
        raise ValueError(f"{kind}: {name}={value}: must be odd, so that the mask keeps the size of its input")


def _check_placement(kind: str, placement: Any) -> None:
    if placement not in get_args(Placement):
        raise ValueError(f"{kind}: placement={placement!r}: must be one of {', '.join(get_args(Placement))}")


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
        return cls(**_known_options("W3", cls, options))

    @property
    def has_spatial_mask(self) -> bool:
        return self.spatial

    def enters(self, stage: int, block: int) -> bool:
        return True

    def __post_init__(self) -> None:
        for name in ("reduction", "hidden", "channel_kernel", "spatial_kernel", "temporal_kernel"):
            _check_whole("W3", name, getattr(self, name))
        for name in ("depthwise", "identity_start", "channel", "spatial", "temporal"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"W3: {name}={getattr(self, name)!r}: must be true or false")
        _check_placement("W3", self.placement)
        if not (self.channel or self.spatial):
            raise ValueError("W3: channel=False with spatial=False: nothing is left; use no attention instead")


@dataclass(frozen=True, slots=True, kw_only=True)
class CBAMConfig:
    """The knobs of CBAM. Raises ValueError that names the field."""

    reduction: int = 16
    """r of its Eq. 2; the hidden width is max(1, C // r)."""
    spatial_kernel: int = 7
    """Of its Eq. 3, in cells of the feature map, odd."""
    placement: Placement = "before"
    """On the residual branch before the shortcut is added (its Fig. 3), or after the block."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """As `W3Config.from_options`."""
        return cls(**_known_options("CBAM", cls, options))

    @property
    def has_spatial_mask(self) -> bool:
        return True

    def enters(self, stage: int, block: int) -> bool:
        return True

    def __post_init__(self) -> None:
        for name in ("reduction", "spatial_kernel"):
            _check_whole("CBAM", name, getattr(self, name))
        _check_placement("CBAM", self.placement)


@dataclass(frozen=True, slots=True, kw_only=True)
class NonLocalConfig:
    """The knobs of the non-local block. Raises ValueError that names the field."""

    reduction: int = 2
    """The inner width is max(1, C // reduction)."""
    subsample: bool = True
    """Keys and values are max-pooled 2x2 over space."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """As `W3Config.from_options`."""
        return cls(**_known_options("non-local", cls, options))

    @property
    def has_spatial_mask(self) -> bool:
        return False

    def enters(self, stage: int, block: int) -> bool:
        """Every second block of the second and third stage, as in the paper's 5-block network."""
        return stage in (1, 2) and block % 2 == 0

    def __post_init__(self) -> None:
        _check_whole("non-local", "reduction", self.reduction)
        if not isinstance(self.subsample, bool):
            raise ValueError(f"non-local: subsample={self.subsample!r}: must be true or false")

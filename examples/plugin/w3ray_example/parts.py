"""The parts of the attention and the loss that w3ray needs to check a recipe. No torch, so the check is fast.

The modules with torch are named as "module:class", and imported when a network or a loss is built.
"""

from dataclasses import dataclass
from typing import ClassVar

from w3ray.attention import AttentionConfig, AttentionKind
from w3ray.training.losses import LossKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezeConfig(AttentionConfig):
    """The options of `attention: {kind: squeeze}`. Raises ValueError naming the field."""

    kind: ClassVar[str] = "squeeze"
    label: ClassVar[str] = "squeeze-and-excitation"
    reduction: int = 16
    """The hidden width is max(1, C // reduction)."""

    def __post_init__(self) -> None:
        AttentionConfig.__post_init__(self)
        if isinstance(self.reduction, bool) or not isinstance(self.reduction, int) or self.reduction < 1:
            raise ValueError(f"{self.label}: reduction={self.reduction!r}: must be a whole number >= 1")


SQUEEZE = AttentionKind(SqueezeConfig, "w3ray_example.squeeze:Squeeze")
FOCAL = LossKind("w3ray_example.focal:Focal", needs_teacher=False)

"""TSM: a TSN whose blocks shift some channels in time (Lin et al., arXiv:1811.08383)."""

from torch import nn

from w3ray.models.shift import ShiftMode, TemporalShift
from w3ray.models.tsn import TSN

LONG_STAGE = 23
"""From this many blocks in its third stage on (ResNet-101), a network shifts in every second block only, as the
published models do."""


class TSM(TSN):
    """TSN with a temporal shift on the residual branch of the blocks, before their first convolution."""

    def __init__(
        self,
        backbone: nn.Module,
        *,
        num_classes: int,
        dropout: float = 0.5,
        shift_div: int = 8,
        shift_mode: ShiftMode = "bidirectional",
    ) -> None:
        super().__init__(backbone, num_classes=num_classes, dropout=dropout)
        stages = self.residual_stages()
        every = 2 if len(stages[2]) >= LONG_STAGE else 1
        for stage in stages:
            for block in list(stage)[::every]:
                block.shift = TemporalShift(shift_div, shift_mode)

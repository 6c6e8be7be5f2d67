"""TSM: a TSN whose blocks shift some channels in time (Lin et al., arXiv:1811.08383)."""

from torch import nn

from w3ray.models.options import TSMOptions
from w3ray.models.shift import TemporalShift
from w3ray.models.tsn import TSN

LONG_STAGE = 23
"""From this many blocks in its third stage on (ResNet-101), a network shifts in every second block only, as the
published models do."""


class TSM(TSN):
    """TSN with a temporal shift at the entry of the blocks: on the residual branch, before its first convolution."""

    def __init__(
        self, backbone: nn.Module, options: TSMOptions | None = None, *, num_classes: int, dropout: float = 0.5
    ) -> None:
        super().__init__(backbone, num_classes=num_classes, dropout=dropout)
        options = TSMOptions() if options is None else options
        every = 2 if len(self.stages()[2]) >= LONG_STAGE else 1
        for stage in self.backbone.temporal_stages():
            for site in stage[::every]:
                site.temporal = TemporalShift(options.shift_div, options.shift_mode)

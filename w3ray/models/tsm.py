"""TSM: a TSN whose blocks shift some channels in time (Lin et al., arXiv:1811.08383)."""

from torch import nn

from w3ray.models.options import TSMOptions
from w3ray.models.shift import TemporalShift
from w3ray.models.tsn import TSN

LONG_STAGE = 23
"""A network with a stage of so many sites (ResNet-101's third) shifts at every second one only, as published."""


class TSM(TSN):
    """TSN with a temporal shift at the entry of the blocks: on the residual branch, before its first convolution."""

    def __init__(
        self, backbone: nn.Module, options: TSMOptions | None = None, *, num_classes: int, dropout: float = 0.5
    ) -> None:
        super().__init__(backbone, num_classes=num_classes, dropout=dropout)
        options = TSMOptions() if options is None else options
        every = 2 if any(len(stage) >= LONG_STAGE for stage in self.stages()) else 1
        for stage in self.backbone.temporal_stages():
            for site in stage[::every]:
                site.temporal = TemporalShift(options.shift_div, options.shift_mode)

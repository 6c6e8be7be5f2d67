"""TSM: a TSN with a shift of some channels in time in its blocks (Lin et al., arXiv:1811.08383)."""

from torch import nn

from w3ray.models.options import TSMOptions
from w3ray.models.shift import TemporalShift
from w3ray.models.tsn import TSN

LONG_STAGE = 23
"""A network with a stage of at least this many sites (ResNet-101's third) shifts only at every second site, as in the
authors' code."""


class TSM(TSN):
    """TSN with a temporal shift at the entry of each block: on the residual branch, before its first convolution."""

    def __init__(
        self, backbone: nn.Module, options: TSMOptions | None = None, *, num_classes: int, dropout: float = 0.5
    ) -> None:
        super().__init__(backbone, num_classes=num_classes, dropout=dropout)
        options = TSMOptions() if options is None else options
        every = 2 if any(len(stage) >= LONG_STAGE for stage in self.stages()) else 1
        for stage in self.backbone.temporal_stages():
            for site in stage[::every]:
                site.temporal = TemporalShift(options.shift_div, options.shift_mode)

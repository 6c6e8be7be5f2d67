"""TAM: a TSN with a weighted sum of neighbouring frames in its blocks (Fan et al., arXiv:1912.00869, Sec. 3, Fig. 2).

    out_t = relu(w_-1 * x_{t-1} + w_0 * x_t + w_1 * x_{t+1})        three weights w for each channel, no bias

It works where TSM shifts: at the entry of the residual branch, before its first convolution. Frames outside the clip
count as zero. The shortcut takes x itself. In the authors' code one downsampling shortcut takes the module's output;
no figure of the paper shows this. TAM here is not TANet's "temporal adaptive module" (arXiv:2005.06803).

Axes: N = B*T folded frames, B clips, T frames, C channels, H height, W width.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from w3ray._options import check_one_of
from w3ray.models.layouts import KeyLayout
from w3ray.models.options import ModelOptions
from w3ray.models.tsn import TSN

TemporalStart = Literal["identity", "authors"]
SMALL = 0.01
"""Standard deviation of the noise of the start "identity". The noise makes all channels start differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TAMOptions(ModelOptions):
    """The options of TAM. Raises ValueError naming the field."""

    label: ClassVar[str] = "TAM"
    start: TemporalStart = "identity"
    """"identity": w_0 = 1 and the others 0, plus small noise; a fresh network computes almost the same as one without
    TAM. "authors": N(0, 2/C), as in the authors' code, so all weights start near zero."""

    def __post_init__(self) -> None:
        check_one_of("TAM", "start", self.start, TemporalStart)


class TemporalAggregation(nn.Module):
    """The weighted sum of each frame and its two neighbours, then a ReLU.

    Args:
        channels: C.
        start: how the weights start.
    """

    def __init__(self, channels: int, start: TemporalStart = "identity") -> None:
        super().__init__()
        # Weight [C, 1, 3, 1]: a depthwise convolution over T, with its taps in the order of time.
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), groups=channels, bias=False)
        with torch.no_grad():
            if start == "authors":
                self.conv.weight.normal_(0.0, (2 / channels) ** 0.5)
            else:
                self.conv.weight.normal_(0.0, SMALL)
                self.conv.weight[:, :, 1] += 1.0

    def forward(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        """[B*T, C, H, W] -> the same shape, mixed along T."""
        size_HW = x_NCHW.shape[2:]
        x_BCTP = x_NCHW.unflatten(0, (-1, num_frames)).flatten(3).transpose(1, 2)
        mixed_BTCP = torch.relu(self.conv(x_BCTP)).transpose(1, 2)
        return mixed_BTCP.unflatten(3, size_HW).flatten(0, 1)


class TAM(TSN):
    """TSN with a `TemporalAggregation` at the entry of every site."""

    def __init__(
        self, backbone: nn.Module, options: TAMOptions | None = None, *, num_classes: int, dropout: float = 0.5
    ) -> None:
        super().__init__(backbone, num_classes=num_classes, dropout=dropout)
        options = TAMOptions() if options is None else options
        for stage in self.backbone.temporal_stages():
            for site in stage:
                site.temporal = TemporalAggregation(site.in_channels, options.start)
        self.layouts = (_LAYOUT, *self.backbone.layouts)


_TAP = re.compile(r"\.tam\.(prev|curr|next)_se\.fc1\.weight$")
_ORDER = {"prev": 0, "curr": 1, "next": 2}


def _matches(keys: Collection[str]) -> bool:
    return any(_TAP.search(key) for key in keys)


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys: `module.layer1.0.tam.prev_se.fc1.weight` of [C, 1, 1, 1], one key for each tap."""
    renamed: dict[str, Tensor] = {}
    taps: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        if tap := _TAP.search(name):
            taps.setdefault(name[: tap.start()], {})[_ORDER[tap[1]]] = value.reshape(-1, 1, 1, 1)
        elif name.startswith("fc."):
            renamed[f"classifier.{name.removeprefix('fc.')}"] = value
        else:
            renamed[f"backbone.{name}"] = value
    for block, found in taps.items():  # an absent tap gives a wrong shape, reported later
        renamed[f"backbone.{block}.temporal.conv.weight"] = torch.cat([found[at] for at in sorted(found)], dim=2)
    return renamed


_LAYOUT = KeyLayout("TAM", "module.layer1.0.tam.prev_se.fc1.weight", _matches, _rename)

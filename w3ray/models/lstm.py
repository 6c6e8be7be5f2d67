"""A 2D network reads each frame, an LSTM reads the frames in order (the baseline VGG16 + LSTM of EgoGesture).

The benchmark (Zhang et al., IEEE Transactions on Multimedia 2018) takes VGG16 up to its first fully connected layer and
one LSTM layer. A linear layer scores each step; the scores are averaged. That the LSTM has 256 units is from memory.

Axes: B clips, T frames, C channels, H height, W width, F features of a frame, U units, K classes.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.models.frame_options import LSTMOptions
from w3ray.models.heads import check_head
from w3ray.models.layouts import UNUSED, KeyLayout
from w3ray.models.tsn import TSN

SIDE = 7
"""The last map is pooled to so many cells before the fully connected layer, as VGG16's last pool does at 224 pixels."""


class LSTMHead(nn.Module):
    """One LSTM layer over the frames, and a linear layer at each step.

    Args:
        channels: C of the maps.
        options: the widths.
        num_classes: K.
        dropout: before the last linear layer, and behind the fully connected layer if there is one.
    """

    def __init__(self, channels: int, options: LSTMOptions, num_classes: int, dropout: float) -> None:
        super().__init__()
        check_head(num_classes, dropout)
        self.dropout = nn.Dropout(dropout)
        self.fc6 = nn.Linear(channels * SIDE * SIDE, options.fc6) if options.fc6 else None
        self.lstm = nn.LSTM(options.fc6 or channels, options.units, batch_first=True)
        self.last = nn.Linear(options.units, num_classes)
        nn.init.normal_(self.last.weight, 0.0, 0.001)
        nn.init.zeros_(self.last.bias)

    def forward(self, features_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, K]."""
        if self.fc6 is None:
            x_BTF = features_BTCHW.mean(dim=(3, 4))
        else:
            # At 14 x 14 cells this is VGG16's last pool: the maximum of 2 x 2 cells.
            pooled_NCHW = F.adaptive_max_pool2d(features_BTCHW.flatten(0, 1), SIDE)
            x_NF = self.dropout(torch.relu(self.fc6(pooled_NCHW.flatten(1))))
            x_BTF = x_NF.unflatten(0, features_BTCHW.shape[:2])
        states_BTU, _ = self.lstm(x_BTF)
        return self.last(self.dropout(states_BTU)).mean(dim=1)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """Weight and bias of the last linear layer."""
        return self.last.parameters()


class FrameLSTM(TSN):
    """A 2D network with an LSTM as its head.

    Args:
        backbone: a `FrameBackbone`, or a torchvision ResNet.
        options: widths of the head.
        num_classes: K.
        dropout: before the last linear layer.
    """

    def __init__(
        self, backbone: nn.Module, options: LSTMOptions | None = None, *, num_classes: int, dropout: float = 0.5
    ) -> None:
        super().__init__(backbone, num_classes=num_classes, dropout=dropout)
        options = LSTMOptions() if options is None else options
        self.classifier = LSTMHead(self.num_features, options, num_classes, dropout)
        if options.fc6:
            self.layouts = tuple(_with_fc6(layout) for layout in self.backbone.layouts)


def _with_fc6(layout: KeyLayout) -> KeyLayout:
    """The layout of a backbone's files, with their first fully connected layer as `fc6` (torchvision's VGG16)."""

    def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        first = f"{UNUSED}classifier.0."
        return {
            f"classifier.fc6.{key.removeprefix(first)}" if key.startswith(first) else key: value
            for key, value in layout.rename(state).items()
        }

    return layout._replace(rename=rename)

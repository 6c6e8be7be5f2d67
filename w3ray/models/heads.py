"""Heads: they turn a clip's last feature maps into class scores.

A head is the module `classifier` of a model. It takes the maps [B, T, C, H, W] and returns logits [B, K]. For a network
with several last maps it takes all of them.
`classifier_parameters()` yields the parameters of its last linear layers.

Axes: B clips, T frames, C channels, H height, W width, K classes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def check_head(num_classes: int, dropout: float) -> None:
    """Check the arguments that all heads have.

    Raises:
        ValueError: num_classes below 1, or dropout not in [0, 1).
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes={num_classes!r}: must be a whole number >= 1")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout}: must be at least 0 and below 1")


class LinearHead(nn.Linear):
    """Base of the heads with one linear layer.

    The head is the linear layer itself, so its parameters are `classifier.weight` and `classifier.bias` in every file.
    The layer starts as N(0, 0.001) with bias 0 (TSN's code).

    Args:
        channels: C of the maps.
        num_classes: K.
        dropout: share of the averaged features that is dropped before the linear layer.

    Raises:
        ValueError: num_classes below 1, or dropout not in [0, 1).
    """

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        check_head(num_classes, dropout)
        super().__init__(channels, num_classes)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.weight, 0.0, 0.001)
        nn.init.zeros_(self.bias)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """Weight and bias of the layer."""
        return self.parameters()


class MeanHead(LinearHead):
    """Mean of the frames' class scores: each frame's maps are averaged over space, then one linear layer."""

    def forward(self, features_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, K]."""
        pooled_BTC = self.dropout(features_BTCHW.mean(dim=(3, 4)))
        return super().forward(pooled_BTC).mean(dim=1)


class PooledHead(LinearHead):
    """One vector for the clip: the means of the last maps over time and space, joined, then one linear layer.

    Without dropout this equals `MeanHead` for one map. Dropout here drops a feature at all frames together.
    """

    def forward(self, *maps_BTCHW: Tensor) -> Tensor:
        """One or more maps [B, T, C, H, W], with C channels in all -> [B, K]."""
        pooled_BC = torch.cat([map_BTCHW.mean(dim=(1, 3, 4)) for map_BTCHW in maps_BTCHW], dim=1)
        return super().forward(self.dropout(pooled_BC))

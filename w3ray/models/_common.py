"""What do all video models share: their output, their head, the walk through their blocks?

Axes: B clips, T frames, C channels, H height, W width, K classes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from w3ray.attention import residual_stages
from w3ray.attention.blocks import adopt_blocks
from w3ray.models.refinement import AttentionGuidedRefinement


class VideoOutput(NamedTuple):
    """What a video model returns."""

    logits_BK: Tensor
    """Class scores of the clip (before softmax)."""
    features_BTCHW: Tensor
    """y_i of Eq. 8: the last feature maps, per frame, after AFR where the model has it (3D networks: T' < T)."""


class VideoModel(nn.Module):
    """A backbone with residual stages, AFR where asked for, and one linear classifier.

    Subclasses fold clips into the backbone's layout. `classifier` is the last linear layer of every model.
    """

    backbone: Any
    refinement: AttentionGuidedRefinement | None

    def __init__(self, backbone: nn.Module, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes={num_classes!r}: must be a whole number >= 1")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout={dropout}: must be at least 0 and below 1")
        self.backbone = backbone
        blocks = adopt_blocks(residual_stages(backbone))
        self.num_features = blocks[-1].channels
        backbone.fc = nn.Identity()
        self.register_module("refinement", None)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.num_features, num_classes)
        nn.init.normal_(self.classifier.weight, 0.0, 0.001)
        nn.init.zeros_(self.classifier.bias)

    def residual_stages(self) -> list[nn.Sequential]:
        """The backbone's stages, first to last: where `add_attention` works."""
        return residual_stages(self.backbone)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """Weight and bias of the classifier alone, for its learning-rate multipliers."""
        return self.classifier.parameters()

    def has_spatial_masks(self) -> bool:
        """Whether every stage's last block has an attention that yields a spatial mask."""
        last_blocks: list[Any] = [stage[-1] for stage in self.residual_stages()]
        return all(getattr(block.attention, "has_spatial_mask", False) for block in last_blocks)

    def add_refinement(self) -> None:
        """Add AFR (Eq. 7-8).

        Raises:
            ValueError: the attention in the blocks gives no spatial mask, or there is none.
        """
        stages = self.residual_stages()
        if not self.has_spatial_masks():
            raise ValueError("refinement (AFR, Eq. 7): needs an attention with spatial masks in every stage")
        last_blocks: list[Any] = [stage[-1] for stage in stages]
        starts: set[float | None] = {block.attention.constant_start for block in last_blocks}
        mask_start = starts.pop() if len(starts) == 1 else None
        self.refinement = AttentionGuidedRefinement(len(stages), self.num_features, mask_start)

    def run_stages(self, x: Tensor, num_frames: int | None) -> tuple[Tensor, list[Tensor]]:
        """Run all residual stages; return the last features and each stage's last spatial mask [B, T, H, W]."""
        masks: list[Tensor] = []
        for stage in self.residual_stages():
            mask = None
            for block in stage:
                x, mask = block(x, num_frames, return_mask=True)
            if mask is not None:
                masks.append(mask)
        return x, masks

    def head(self, features_BTCHW: Tensor) -> Tensor:
        """Mean of the frames' class scores: [B, T, C, H, W] -> [B, K]."""
        pooled_BTC = self.dropout(features_BTCHW.mean(dim=(3, 4)))
        return self.classifier(pooled_BTC).mean(dim=1)


def check_clips(x_BTCHW: Tensor) -> None:
    """Raise ValueError unless `x_BTCHW` is a float batch of RGB clips."""
    if x_BTCHW.dim() != 5 or x_BTCHW.shape[2] != 3:
        raise ValueError(f"video model: input of shape {tuple(x_BTCHW.shape)}: must be [B, T, 3, H, W]")
    if not torch.is_floating_point(x_BTCHW):
        raise ValueError(f"video model: input of type {x_BTCHW.dtype}: must be float; normalise the clips first")

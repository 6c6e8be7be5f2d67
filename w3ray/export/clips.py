"""A network that takes whole clips, for export.

clips   uint8   [batch, T, S, S, C]   RGB, or the grey values of flow, 0 to 255
logits  float32 [batch, K]            before the softmax: to average views or models, or to calibrate
scores  float32 [batch, K]            softmax, in the order of the classes (of each head, if there are several)
"""

from typing import Any

import torch
from torch import Tensor, nn

from w3ray.evaluation.head_scores import scores_of_logits
from w3ray.evaluation.normalize import normalize_clips, scale_and_shift
from w3ray.export._common import Exportable, Run, check_clips, clip_of, describe
from w3ray.models.bundle import ModelDescription

CHECK_BATCHES = (1, 4)
"""Batch sizes of the check, in clips."""


class Recogniser(Exportable):
    """A network from clips to logits and scores. It does what `normalize_clips` and `scores_of_logits` do."""

    input_names = ("clips",)
    output_names = ("logits", "scores")
    scale_C: Tensor
    shift_C: Tensor

    def __init__(self, network: nn.Module, description: ModelDescription) -> None:
        super().__init__()
        self.network, self.heads, self.description = network, description.heads, description
        scale_C, shift_C = scale_and_shift(description.mean, description.std)
        self.register_buffer("scale_C", scale_C)
        self.register_buffer("shift_C", shift_C)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, T, S, S, C] -> logits and scores, float32 [B, K]."""
        x_BTHWC = clips.to(torch.float32) * self.scale_C + self.shift_C
        logits_BK = self.network(x_BTHWC.permute(0, 1, 4, 2, 3)).logits_BK
        return logits_BK, scores_of_logits(logits_BK, self.heads)

    def example(self) -> tuple[Tensor, ...]:
        return (check_clips(2, clip_of(self.description)),)

    def dynamic_shapes(self, batch: Any) -> dict[str, Any]:
        return {"clips": {0: batch}}

    def describe(self) -> dict[str, Any]:
        return describe(self.description)

    def differences(self, run: Run) -> tuple[float, float]:
        return compare(self.network, self.description, run)


def compare(network: nn.Module, description: ModelDescription, run: Run) -> tuple[float, float]:
    """How much logits (as a share of their spread) and scores of an exported network differ from the model's.

    Returns the largest difference of each. The clips are synthetic and always the same: moving smooth colours of
    several contrasts, and noise.
    """
    clips = check_clips(max(CHECK_BATCHES), clip_of(description))
    x_BTCHW = normalize_clips(clips, mean=description.mean, std=description.std)
    with torch.inference_mode():
        expected_BK = network(x_BTCHW).logits_BK.float()
    spread = float((expected_BK.amax(dim=0) - expected_BK.amin(dim=0)).max())
    # A network may give the same logits for all clips. Then their size sets the scale, because the spread is zero.
    spread = max(spread, 1e-3 * float(expected_BK.abs().max()), 1e-9)
    logits_difference = scores_difference = 0.0
    for batch in CHECK_BATCHES:
        logits_BK, scores_BK = run(clips[:batch])
        if logits_BK.shape != expected_BK[:batch].shape or scores_BK.shape != logits_BK.shape:
            return float("inf"), float("inf")
        logits = (logits_BK - expected_BK[:batch]).abs().max() / spread
        scores = (scores_BK - scores_of_logits(expected_BK[:batch], description.heads)).abs().max()
        # torch.maximum keeps a NaN of the exported network; Python's max would drop it.
        logits_difference = float(torch.maximum(logits, torch.tensor(logits_difference)))
        scores_difference = float(torch.maximum(scores, torch.tensor(scores_difference)))
    return logits_difference, scores_difference

"""What is exported, whatever it takes: clips or single frames."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray._version import __version__
from w3ray.data.clip import ClipSpec
from w3ray.errors import InputError
from w3ray.models.bundle import DESCRIPTION_NAME, ModelDescription

Run = Callable[..., tuple[Tensor, ...]]
"""An exported network: from its inputs to its outputs, tensors in the order of their names."""


class Exportable(nn.Module):
    """What is exported: a network from raw pixels to logits and scores, with the names of its inputs and outputs."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs for two clips or streams: torch.export would treat a batch of one as a constant."""
        raise NotImplementedError

    def dynamic_shapes(self, batch: Any) -> dict[str, Any]:
        """Argument of `forward` -> its free dimensions, which `batch` names."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """`describe` of the model, with these inputs and outputs."""
        raise NotImplementedError

    def differences(self, run: Run) -> tuple[float, float]:
        """How much logits (as a share of their spread) and scores of the exported network differ from the model's."""
        raise NotImplementedError


def describe(description: ModelDescription) -> dict[str, Any]:
    """What somebody needs to know to use the file. It is written into the file as JSON."""
    clip, num_classes = clip_of(description), len(description.classes)
    squashed = "sigmoid" if description.multi_label else "softmax"
    sums = "the classes are independent" if description.multi_label else "the scores of one head add up to 1"
    return {
        "w3ray_version": __version__,
        "inputs": {
            "clips": {
                "dtype": "uint8",
                "shape": ["batch", clip.num_frames, clip.size, clip.size, clip.channels],
                "meaning": "clips, frames in order of time, height, width, RGB from 0 to 255; not normalised",
            }
        },
        "outputs": {
            "logits": {
                "dtype": "float32",
                "shape": ["batch", num_classes],
                "meaning": f"logit of each class, before the {squashed}",
            },
            "scores": {
                "dtype": "float32",
                "shape": ["batch", num_classes],
                "meaning": f"score of each class, between 0 and 1; {sums}",
            },
        },
        "classes": list(description.classes),
        "heads": [list(head) for head in description.head_sizes],
        "multi_label": description.multi_label,
        "clip": {
            "num_frames": clip.num_frames,
            "sampling": clip.sampling,
            "stride_frames": clip.stride_frames,
            "short_side": clip.resolved_short_side,
            "size": clip.size,
            "crop": "centre",
        },
        "normalised_inside": {"mean": list(description.mean), "std": list(description.std)},
        "model": description.model,
        "stage": description.stage,
        "metrics": description.metrics,
    }


def clip_of(description: ModelDescription) -> ClipSpec:
    """What the clips are that a model takes.

    Raises:
        InputError: the description does not hold it.
    """
    try:
        return ClipSpec(**description.clip)
    except (TypeError, ValueError) as error:
        raise InputError(f"{DESCRIPTION_NAME}: clip: {error}; written by another version?") from error


def check_clips(num_clips: int, spec: ClipSpec) -> Tensor:
    """Clips for the check, uint8 [N, T, S, S, C]: always the same."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(num_clips, spec.channels, 2 + spec.num_frames // 4, 5, 5, generator=random)
    size_THW = (spec.num_frames, spec.size, spec.size)
    smooth = F.interpolate(coarse, size=size_THW, mode="trilinear", align_corners=True)
    contrast = torch.linspace(0.3, 2.5, num_clips).view(-1, 1, 1, 1, 1)
    noise = 0.1 * torch.randn(smooth.shape, generator=random)
    clips = ((smooth - 0.5) * contrast + 0.5 + noise).clamp(0, 1)
    return (255 * clips).to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()

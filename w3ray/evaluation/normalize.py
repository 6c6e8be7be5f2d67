"""How do decoded frames become a network's input? The same way in training, evaluation and the served model."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from w3ray.models.pixels import IMAGENET

IMAGENET_MEAN, IMAGENET_STD = IMAGENET.mean, IMAGENET.std


def normalize_clips(
    clips_u8_BTHWC: Tensor,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Convert uint8 frames (B, T, H, W, C) to normalised floats (B, T, C, H, W), on the device of the frames.

    The memory order stays H, W, C, so folding B and T gives a channels-last batch without a copy.

    Raises:
        ValueError: not uint8, not five axes, or the number of channels differs from `mean` and `std`.
    """
    if clips_u8_BTHWC.dtype != torch.uint8 or clips_u8_BTHWC.ndim != 5:
        raise ValueError(
            f"clips must be uint8 (B, T, H, W, C), got {clips_u8_BTHWC.dtype} of shape {tuple(clips_u8_BTHWC.shape)}"
        )
    if not len(mean) == len(std) == clips_u8_BTHWC.shape[-1]:
        raise ValueError(
            f"clips have {clips_u8_BTHWC.shape[-1]} channels, but mean has {len(mean)} values and std has {len(std)}"
        )
    # (x / 255 - mean) / std as one multiplication and one addition, both in place.
    scale_C, shift_C = _kept(tuple(mean), tuple(std), dtype, clips_u8_BTHWC.device)
    return clips_u8_BTHWC.to(dtype).mul_(scale_C).add_(shift_C).permute(0, 1, 4, 2, 3)


def scale_and_shift(
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """The factor for the frames, and the number added after it. One of each per channel."""
    scale_C = torch.tensor([1.0 / (255.0 * s) for s in std], dtype=dtype, device=device)
    shift_C = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=dtype, device=device)
    return scale_C, shift_C


# Cached, because creating these tensors on a GPU for each batch would wait for the GPU.
_kept = lru_cache(maxsize=32)(scale_and_shift)

"""How do decoded frames become what a network reads? The same way in training, evaluation and the served model."""

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
    """uint8 frames (B, T, H, W, C) to normalised floats of shape (B, T, C, H, W), on the device of the frames.

    The memory order stays H, W, C, so folding B and T gives a channels-last batch without a copy.

    Raises:
        ValueError: not uint8, not five axes, or another number of channels than `mean` and `std` have.
    """
    if clips_u8_BTHWC.dtype != torch.uint8 or clips_u8_BTHWC.ndim != 5:
        raise ValueError(
            f"clips must be uint8 (B, T, H, W, C), got {clips_u8_BTHWC.dtype} of shape {tuple(clips_u8_BTHWC.shape)}"
        )
    if not len(mean) == len(std) == clips_u8_BTHWC.shape[-1]:
        raise ValueError(f"clips have {clips_u8_BTHWC.shape[-1]} channels, mean {len(mean)} and std {len(std)} values")
    # (x / 255 - mean) / std as one multiplication and one addition: the frames are read and written once each.
    scale_C, shift_C = _kept(tuple(mean), tuple(std), dtype, clips_u8_BTHWC.device)
    return clips_u8_BTHWC.to(dtype).mul_(scale_C).add_(shift_C).permute(0, 1, 4, 2, 3)


def scale_and_shift(
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """What frames are multiplied by, and what is added then; one number a channel."""
    scale_C = torch.tensor([1.0 / (255.0 * s) for s in std], dtype=dtype, device=device)
    shift_C = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=dtype, device=device)
    return scale_C, shift_C


# Kept, because making them on a GPU each time would wait for it.
_kept = lru_cache(maxsize=32)(scale_and_shift)

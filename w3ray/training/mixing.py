"""Mixup and CutMix: each clip of a microbatch is mixed with another one, and its loss with the other's label.

With the share s of the first clip:

- mixup: x = s a + (1 - s) b, s from Beta(alpha, alpha). Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR
  2018, Eq. 1 (arXiv:1710.09412).
- CutMix: x is a with a rectangle of b, the same in all frames; s is the share of the area that stays a. Yun et al.,
  "CutMix", ICCV 2019, Eq. 1 and 2 (arXiv:1905.04899).

The loss is s loss(x, label of a) + (1 - s) loss(x, label of b). For the cross-entropy this equals the soft label.
Clips are mixed within a microbatch, so the number of workers changes nothing.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Mixed(NamedTuple):
    """A mixed microbatch. `clips_BTCHW` is `share` of the clips with `labels_B`, the rest is of `others_B`."""

    clips_BTCHW: Tensor
    labels_B: Tensor
    others_B: Tensor
    share: float

    @property
    def main_labels_B(self) -> Tensor:
        """The label of the larger part of each clip."""
        return self.labels_B if self.share >= 0.5 else self.others_B


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """What is drawn for a microbatch.

    Raises:
        ValueError: a number is out of range, or both alphas are 0.
    """

    mixup_alpha: float = 0.0
    """Of mixup's Beta distribution. 0: no mixup."""
    cutmix_alpha: float = 0.0
    """Of CutMix's Beta distribution. 0: no CutMix."""
    probability: float = 1.0
    """Share of the microbatches that are mixed."""
    cutmix_share: float = 0.5
    """If both have an alpha: share of the mixed microbatches that get CutMix."""

    def __post_init__(self) -> None:
        if self.mixup_alpha < 0 or self.cutmix_alpha < 0 or self.mixup_alpha + self.cutmix_alpha == 0:
            raise ValueError(
                f"mixup_alpha and cutmix_alpha must be >= 0, and one above 0, got {self.mixup_alpha} and "
                f"{self.cutmix_alpha}"
            )
        if not 0 <= self.probability <= 1 or not 0 <= self.cutmix_share <= 1:
            raise ValueError(
                f"probability and cutmix_share must be from 0 to 1, got {self.probability} and {self.cutmix_share}"
            )

    def __call__(self, clips_BTCHW: Tensor, labels_B: Tensor) -> Mixed | None:
        """Mix clips with clips in a random order, with torchvision's transforms. None: this microbatch stays as it is.

        All random numbers come from torch's generator of the CPU.
        """
        # Always the same number of draws, so that one decision does not change the next.
        mixes, cuts = (torch.rand(()).item() < share for share in (self.probability, self._cutmix_share))
        if not mixes or len(labels_B) < 2:
            return None
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        transform = v2.CutMix(alpha=self.cutmix_alpha) if cuts else v2.MixUp(alpha=self.mixup_alpha)
        # The transforms mix each clip with the one before it. Neighbours may be views of one clip.
        order_B = torch.randperm(len(labels_B)).to(labels_B.device)
        params = transform.make_params([tv_tensors.Video(clips_BTCHW)])
        # In the memory order of the clips, which networks are fast with: mixup works on any axes, and makes new ones.
        clips = clips_BTCHW[order_B] if cuts else clips_BTCHW[order_B].movedim(2, 4)
        mixed = transform.transform(
            tv_tensors.Video(clips), {**params, "labels": None, "batch_size": len(labels_B)}
        ).as_subclass(torch.Tensor)
        labels_B = labels_B[order_B]
        return Mixed(
            mixed if cuts else mixed.movedim(4, 2),
            labels_B,
            labels_B.roll(1),
            params["lam_adjusted" if cuts else "lam"],
        )

    @property
    def _cutmix_share(self) -> float:
        if self.mixup_alpha == 0:
            return 1.0
        return self.cutmix_share if self.cutmix_alpha > 0 else 0.0

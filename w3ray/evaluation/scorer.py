"""How does a model score clips that are evaluated in several views?

Letters: M clips, V views, T frames, H x W pixels, K classes (of all heads, if there are several).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from w3ray.evaluation.head_scores import scores_of_logits
from w3ray.evaluation.normalize import normalize_clips
from w3ray.models.bundle import ModelDescription
from w3ray.models.side_inputs import chosen

Average = Literal["scores", "logits"]
Kept = Literal["scores", "features"]
"""What is wanted of clips: class scores, or pooled features."""

VIEWS_AT_ONCE = 8
"""Number of views that go through the network together. It limits memory; it is fixed, so that rounding is the same."""


class Scorer:
    """Scores clips in a fixed set of views with one model.

    Args:
        model, description: as `w3ray.models.bundle.load_model` returns them.
        mirrored_V: which of a clip's views are mirror images (`w3ray.data.views.Protocol.mirrored_V`).
        average: what is averaged over the views. "scores" (after softmax or sigmoid): each view has an equal vote.
            "logits" (before that), as in TSM's test program: a view with high confidence counts more.
        flip_map: label -> label of its mirror image, for mirrored views.
        device: where the model runs.
    """

    def __init__(
        self,
        model: nn.Module,
        description: ModelDescription,
        *,
        mirrored_V: Sequence[bool],
        average: Average = "scores",
        flip_map: Mapping[int, int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._model, self.description = model.to(device).eval(), description
        self._average, self._device = average, torch.device(device)
        num_classes = len(description.classes)
        mirror_K = torch.tensor([(flip_map or {}).get(label, label) for label in range(num_classes)])
        same_K = torch.arange(num_classes)
        self._order_VK = torch.stack([mirror_K if mirrored else same_K for mirrored in mirrored_V])

    @torch.inference_mode()
    def __call__(self, clips_MVTHWC: np.ndarray, extras: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Scores of clips, float32 [M, K]. The scores of each head sum to 1, unless the model is multi-label. They are
        nan if the logits are not finite.

        Args:
            clips_MVTHWC: uint8 [M, V, T, H, W, 3].
            extras: side inputs of the clips by name, [M, V, ...] each. The model gets those that it names.

        Raises:
            ValueError: the number of views is wrong, or a side input is absent.
        """
        clips, views = clips_MVTHWC.shape[:2]
        if views != len(self._order_VK):
            raise ValueError(f"clips have {views} views, expected {len(self._order_VK)}")
        flat = torch.from_numpy(clips_MVTHWC.reshape(clips * views, *clips_MVTHWC.shape[2:]))
        flat_extras = {
            name: torch.from_numpy(values.reshape(clips * views, *values.shape[2:])).split(VIEWS_AT_ONCE)
            for name, values in (extras or {}).items()
        }
        logits_BK = torch.cat(
            [
                self._logits(part, {name: parts[number] for name, parts in flat_extras.items()})
                for number, part in enumerate(flat.split(VIEWS_AT_ONCE))
            ]
        )
        logits_MVK = logits_BK.reshape(clips, views, -1)
        logits_MVK = logits_MVK.gather(2, self._order_VK.expand(clips, -1, -1))
        if self._average == "logits":
            scores_MK = scores_of_logits(logits_MVK.mean(1), self.description.heads)
        else:
            scores_MK = scores_of_logits(logits_MVK, self.description.heads).mean(1)
        return scores_MK.float().numpy()

    def _logits(self, clips_BTHWC: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        description = self.description
        x_BTCHW = normalize_clips(clips_BTHWC.to(self._device), mean=description.mean, std=description.std)
        return self._model(x_BTCHW, **chosen(self._model, extras, self._device)).logits_BK.double().cpu()


class FeatureScorer:
    """Gives the pooled features of clips instead of scores: what the head of most networks sees.

    Args:
        model, description: as `w3ray.models.bundle.load_model` returns them. The model reads nothing besides clips.
        device: where the model runs.
    """

    def __init__(self, model: nn.Module, description: ModelDescription, *, device: torch.device | str = "cpu") -> None:
        self._model, self.description, self._device = model.to(device).eval(), description, torch.device(device)

    @torch.inference_mode()
    def __call__(self, clips_MVTHWC: np.ndarray, extras: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """The means of the last maps over time and space, joined, of clips in one view each: float32 [M, C].

        Args:
            clips_MVTHWC: uint8 [M, 1, T, H, W, 3].
            extras: not used.
        """
        parts = []
        for clips_BTHWC in torch.from_numpy(clips_MVTHWC[:, 0]).split(VIEWS_AT_ONCE):
            x_BTCHW = normalize_clips(
                clips_BTHWC.to(self._device), mean=self.description.mean, std=self.description.std
            )
            maps = self._model(x_BTCHW).features
            parts.append(torch.cat([map_BTCHW.mean(dim=(1, 3, 4)) for map_BTCHW in maps], dim=1).float().cpu())
        return torch.cat(parts).numpy()

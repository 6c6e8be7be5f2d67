"""What did a model see in one clip: its scores, the output of its attentions, and one map of where it looked?

Axes: T frames, H height, W width, C = 3 colours, S side of the square frames, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from w3ray.evaluation.head_scores import combined_scores, scores_of_logits
from w3ray.evaluation.normalize import normalize_clips
from w3ray.explaining.gradcam import grad_cam
from w3ray.explaining.maps import last_of_stages, mean_map, stretch
from w3ray.explaining.record import FloatArray, Look, record
from w3ray.heads import Heads
from w3ray.models._common import VideoModel
from w3ray.models.side_inputs import chosen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """A model's answer for one clip, with what can be shown about how the model found it."""

    name: str
    """The model's name in pictures."""
    classes: tuple[str, ...]
    """Class names in the order of the scores."""
    scores_K: FloatArray
    """Softmax of the model's class scores; sigmoids of a multi-label model."""
    looks: tuple[Look, ...]
    """What the model's attentions did, first block to last."""
    source: Literal["attention", "gradcam"]
    """What the map is made of: the masks of the stages, or Grad-CAM for the predicted class if there are no masks."""
    map_TSS: FloatArray
    """Where the model looks, [T, S, S] at the frames' size, with the values over the clip stretched to [0, 1]."""
    evidence_T: FloatArray | None
    """Mean of Grad-CAM at each frame. None: the map is made of masks."""

    @property
    def predicted(self) -> int:
        """The class with the best score."""
        return int(self.scores_K.argmax())

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` best classes with their scores, best first."""
        order = np.argsort(-self.scores_K, kind="stable")[:count]
        return [(self.classes[label], float(self.scores_K[label])) for label in order]

    def activity(self) -> dict[str, tuple[FloatArray, float, float]]:
        """How strong the attention of each stage is over time: name -> ([T'] stretched to [0, 1], least, greatest).

        The value at a frame is the mean of the channel gate of the stage's last attention, or the mean of its mask if
        it has no channel gate. A model without attention has one curve: the mean of Grad-CAM. T' is the stage's own
        number of frames.
        """
        curves: dict[str, FloatArray] = {}
        for look in self.looks:
            if look.gate_TC is not None:
                curves[f"stage {look.stage}"] = look.gate_TC.mean(axis=1)
            elif look.mask_THW is not None:
                curves[f"stage {look.stage}"] = look.mask_THW.mean(axis=(1, 2))
        if not curves and self.evidence_T is not None:
            curves["Grad-CAM"] = self.evidence_T
        return {name: (stretch(curve), float(curve.min()), float(curve.max())) for name, curve in curves.items()}

    def document(self, top: int) -> dict[str, Any]:
        """For JSON: the `top` best classes, and the activity at each frame for each block with attention."""
        blocks = [
            {
                "stage": look.stage,
                "block": look.block,
                "kind": look.kind,
                "channel_activity": None if look.gate_TC is None else _numbers(look.gate_TC.mean(axis=1)),
                "spatial_activity": None if look.mask_THW is None else _numbers(look.mask_THW.mean(axis=(1, 2))),
            }
            for look in self.looks
        ]
        return {
            "name": self.name,
            "map": self.source,
            "predicted": self.classes[self.predicted],
            "top": [{"class": name, "score": score} for name, score in self.top(top)],
            "map_activity": _numbers(self.map_TSS.mean(axis=(1, 2))),
            "activity": {name: _numbers(curve_T) for name, (curve_T, _, _) in self.activity().items()},
            "blocks": blocks,
        }


def explain_clip(
    model: VideoModel,
    frames_THWC: npt.NDArray[np.uint8],
    *,
    classes: Sequence[str],
    head_sizes: Sequence[tuple[str, int]] = (),
    multi_label: bool = False,
    name: str = "model",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    extras: Mapping[str, np.ndarray] | None = None,
) -> Explanation:
    """Run one clip through a model, in eval mode, and keep what can be shown. Then restore the model's mode.

    Args:
        model: any model of w3ray, on any device.
        frames_THWC: uint8 [T, S, S, 3], as `load_clip` returns them.
        classes: names in the order of the scores.
        head_sizes: as in `w3ray.heads.Heads`. With several heads, the classes are the combinations of their classes.
        multi_label: scores are sigmoids, and Grad-CAM is for the class with the best one.
        name: the model's name in pictures.
        mean, std: of the pixels. None: the model's own.
        extras: side inputs of the clip by name, as `w3ray.data.side_inputs.extras_of` returns them.

    Raises:
        ValueError: a side input of the model is absent.
    """
    heads = Heads(tuple(classes), tuple(head_sizes), () if multi_label else None)
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            clip_BTHWC = torch.from_numpy(np.ascontiguousarray(frames_THWC))[None].to(device)
            x_BTCHW = normalize_clips(clip_BTHWC, mean=mean or model.pixels.mean, std=std or model.pixels.std)
            side_inputs = chosen(model, {name: values[None] for name, values in (extras or {}).items()}, device)
            output, looks = record(model, x_BTCHW, side_inputs)
            logits_BS = output.logits_BK.float()
            several = heads.several
            scores_BK = combined_scores(logits_BS, heads).exp() if several else scores_of_logits(logits_BS, heads)
            scores_K = scores_BK[0].cpu().numpy()
            num_frames, size = frames_THWC.shape[:2]
            masks = [look.mask_THW for look in last_of_stages(looks) if look.mask_THW is not None]
            evidence_T = None
            if not masks:
                best = int(scores_K.argmax())
                labels = (best,) if multi_label else tuple(head.start + head.label(best) for head in heads.each())
                cam_THW = grad_cam(model, x_BTCHW, *labels, side_inputs=side_inputs)
                masks, evidence_T = [cam_THW], cam_THW.mean(axis=(1, 2))
    finally:
        for module, training in modes:  # a model in training may have parts in eval mode, such as frozen norms
            module.training = training
    return Explanation(
        name=name,
        classes=heads.answers(),
        scores_K=scores_K,
        looks=tuple(looks),
        source="attention" if evidence_T is None else "gradcam",
        map_TSS=mean_map(masks, num_frames, size),
        evidence_T=evidence_T,
    )


def _numbers(values_T: FloatArray) -> list[float]:
    return [float(value) for value in values_T]

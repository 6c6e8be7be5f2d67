"""Which video model does a name stand for?"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from w3ray.attention import AttentionConfig, add_attention, attention_config
from w3ray.models import BACKBONES, BACKBONES_3D, MODELS
from w3ray.models._common import VideoModel
from w3ray.models.clip_network import ClipNetwork
from w3ray.models.shift import ShiftMode
from w3ray.models.tsm import TSM
from w3ray.models.tsn import TSN
from w3ray.models.weights import load_weights


def _backbone(name: str) -> nn.Module:
    if name not in BACKBONES:
        raise ValueError(f"build_model: unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
    return BACKBONES[name]()


def build_tsm(name: str, *, backbone: str, shift_div: int, shift_mode: ShiftMode, **options: Any) -> VideoModel:
    return TSM(_backbone(backbone), shift_div=shift_div, shift_mode=shift_mode, **options)


def build_tsn(name: str, *, backbone: str, shift_div: int, shift_mode: ShiftMode, **options: Any) -> VideoModel:
    return TSN(_backbone(backbone), **options)


def build_3d(name: str, *, backbone: str, shift_div: int, shift_mode: ShiftMode, **options: Any) -> VideoModel:
    return ClipNetwork(BACKBONES_3D[name](), **options)


def build_model(
    name: str,
    *,
    backbone: str = "resnet50",
    num_classes: int,
    attention: Mapping[str, Any] | AttentionConfig | None = None,
    refinement: bool = True,
    dropout: float = 0.5,
    shift_div: int = 8,
    shift_mode: ShiftMode = "bidirectional",
    weights: str | None = None,
) -> VideoModel:
    """Build a video model.

    Args:
        name: a key of `MODELS`.
        backbone: a key of `BACKBONES`, for "tsm" and "tsn"; the 3D networks are their own backbone.
        num_classes: K of the new classifier, which starts as N(0, 0.001).
        attention: None, a config, or {"kind": a key of `ATTENTION`, ...its options}.
        refinement: AFR (Eq. 7-8); has an effect only with an attention that yields spatial masks.
        dropout: before the classifier, per frame.
        shift_div: 1/shift_div of the channels move each way (TSM only).
        shift_mode: "bidirectional" or "online" (TSM only).
        weights: None, a torchvision weights enum ("ResNet50_Weights.IMAGENET1K_V2"), or a local file; see
            `w3ray.models.weights`.

    Returns:
        A model whose forward takes [B, T, 3, H, W] and returns `VideoOutput`.

    Raises:
        ValueError: a name or option is unknown or out of range.
        InputError: the weights cannot be read or do not fit.
    """
    if name not in MODELS:
        raise ValueError(f"build_model: unknown model {name!r}; known: {', '.join(MODELS)}")
    model = MODELS[name](
        name, backbone=backbone, shift_div=shift_div, shift_mode=shift_mode, num_classes=num_classes, dropout=dropout
    )
    if attention is not None:
        add_attention(model, attention if isinstance(attention, AttentionConfig) else attention_config(attention))
        if refinement and model.has_spatial_masks():
            model.add_refinement()
    if weights is not None:
        load_weights(model, weights)
    return model

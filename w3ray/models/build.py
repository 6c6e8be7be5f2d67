"""Which video model does a name stand for?"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision import models as torchvision_models

from w3ray.attention import add_attention
from w3ray.models._common import VideoModel
from w3ray.models.clip_network import ClipNetwork
from w3ray.models.resnet_small import resnet_small
from w3ray.models.shift import ShiftMode
from w3ray.models.tsm import TSM
from w3ray.models.tsn import TSN
from w3ray.models.weights import load_weights

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "resnet18": torchvision_models.resnet18,
    "resnet34": torchvision_models.resnet34,
    "resnet50": torchvision_models.resnet50,
    "resnet101": torchvision_models.resnet101,
    "resnet_small": resnet_small,
}
"""2D backbones of TSM and TSN."""

BACKBONES_3D: dict[str, Callable[..., nn.Module]] = {
    "r3d_18": torchvision_models.video.r3d_18,
    "mc3_18": torchvision_models.video.mc3_18,
    "r2plus1d_18": torchvision_models.video.r2plus1d_18,
}
"""3D networks: model and backbone in one name."""


def _backbone(name: str) -> nn.Module:
    if name not in BACKBONES:
        raise ValueError(f"build_model: unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
    return BACKBONES[name]()


def _build_tsm(name: str, *, backbone: str, shift_div: int, shift_mode: ShiftMode, **options: Any) -> VideoModel:
    return TSM(_backbone(backbone), shift_div=shift_div, shift_mode=shift_mode, **options)


def _build_tsn(name: str, *, backbone: str, shift_div: int, shift_mode: ShiftMode, **options: Any) -> VideoModel:
    return TSN(_backbone(backbone), **options)


def _build_3d(name: str, *, backbone: str, shift_div: int, shift_mode: ShiftMode, **options: Any) -> VideoModel:
    return ClipNetwork(BACKBONES_3D[name](), **options)


MODELS: dict[str, Callable[..., VideoModel]] = {
    "tsm": _build_tsm,
    "tsn": _build_tsn,
    **dict.fromkeys(BACKBONES_3D, _build_3d),
}
"""Name -> function that builds the model without attention and weights."""


def build_model(
    name: str,
    *,
    backbone: str = "resnet50",
    num_classes: int,
    attention: dict[str, Any] | None = None,
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
        attention: None, or {"kind": a key of `ATTENTION`, ...its options}.
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
        InputError: the weights can not be read or do not fit.
    """
    if name not in MODELS:
        raise ValueError(f"build_model: unknown model {name!r}; known: {', '.join(MODELS)}")
    model = MODELS[name](
        name, backbone=backbone, shift_div=shift_div, shift_mode=shift_mode, num_classes=num_classes, dropout=dropout
    )
    if attention is not None:
        options = dict(attention)
        add_attention(model, options.pop("kind", "w3"), **options)
        if refinement and model.has_spatial_masks():
            model.add_refinement()
    if weights is not None:
        load_weights(model, weights)
    return model

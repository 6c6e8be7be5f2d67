"""Builds a video model from its name."""

from collections.abc import Mapping
from typing import Any

from w3ray._nearest import did_you_mean
from w3ray.attention import AttentionConfig, add_attention, attention_config
from w3ray.models import BACKBONES, model_family
from w3ray.models._common import VideoModel
from w3ray.models.flow import read_flow
from w3ray.models.options import ModelOptions
from w3ray.models.weights import load_weights


def build_model(
    name: str,
    *,
    backbone: str | None = "resnet50",
    options: Mapping[str, Any] | ModelOptions | None = None,
    num_classes: int,
    attention: Mapping[str, Any] | AttentionConfig | None = None,
    refinement: bool = True,
    dropout: float = 0.5,
    weights: str | None = None,
    flow_fields: int | None = None,
) -> VideoModel:
    """Build a video model.

    Args:
        name: a key of `MODELS`.
        backbone: a key of `BACKBONES`, for the frame networks. The other models have no backbone and ignore it.
        options: options of this family (`MODELS[name].options`), such as {"shift_div": 8} for TSM.
        num_classes: K of the new classifier. Its weights start as N(0, 0.001).
        attention: None, a config, or {"kind": a key of `ATTENTION`, ...its options}.
        refinement: AFR (Eq. 7-8). It has an effect only with an attention that returns spatial masks.
        dropout: before the classifier, per frame.
        weights: None, a torchvision weights enum ("ResNet50_Weights.IMAGENET1K_V2"), a local file, or a file on a store
            ("s3://..."); see `w3ray.models.weights`.
        flow_fields: the model reads stacks of so many fields of optical flow (`w3ray.models.flow`). None: RGB frames.

    Returns:
        A model. Its forward takes [B, T, C, H, W], with C = `model.pixels.channels`, and returns `VideoOutput`.

    Raises:
        ValueError: a name or option is unknown or out of range.
        InputError: the weights cannot be read or do not fit.
    """
    family = model_family(name)
    if options is None or isinstance(options, Mapping):
        options = family.options.from_options(options or {})
    elif type(options) is not family.options:
        raise ValueError(f"{name}: options are {type(options).__name__}: must be {family.options.__name__}")
    networks: list[Any] = []
    if family.takes_backbone:
        if backbone is None or backbone not in BACKBONES:
            hint = did_you_mean(str(backbone), BACKBONES)
            raise ValueError(f"{name}: unknown backbone {backbone!r}; {hint}known: {', '.join(BACKBONES)}")
        networks = [BACKBONES[backbone]()]
    model = family.build(*networks, options, num_classes=num_classes, dropout=dropout)
    if flow_fields is not None:
        read_flow(model, flow_fields)
    if attention is not None:
        add_attention(model, attention if isinstance(attention, AttentionConfig) else attention_config(attention))
        if refinement and model.has_spatial_masks():
            model.add_refinement()
    if weights is not None:
        model.loaded_weights = load_weights(model, weights)
    return model

"""Puts an attention into the sites of a network."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from w3ray.attention import ATTENTION, AttentionConfig, attention_kind
from w3ray.attention.blocks import adopt_blocks, is_resnet, is_video_resnet
from w3ray.attention.sites import Site, Stages

Model = TypeVar("Model", bound=nn.Module)


def network_stages(model: nn.Module) -> Stages:
    """The sites of a network by stage, first to last.

    Supported: every model with a method `stages()` that returns its sites (all models of w3ray have one), and
    torchvision's ResNet and VideoResNet. The residual blocks of these two become sites in place.

    Raises:
        ValueError: the model is none of these.
    """
    own = getattr(model, "stages", None)
    if callable(own):
        return own()
    if is_resnet(model) or is_video_resnet(model):
        network: Any = model
        return adopt_blocks([network.layer1, network.layer2, network.layer3, network.layer4])
    found = f"{type(model).__module__}.{type(model).__name__}"
    raise ValueError(
        f"add_attention: {found} has no known sites; supported: torchvision's ResNet (resnet18/34/50/101) and "
        "VideoResNet (r3d_18, mc3_18, r2plus1d_18), w3ray's models, any model with stages() (w3ray.attention.sites)"
    )


def add_attention(
    model: Model, kind: str | AttentionConfig = "w3", *, num_frames: int | None = None, **options: Any
) -> Model:
    """Put an attention into the sites of a model, in place: into all sites, or into those that its config selects.

    Existing parameters keep their names. The attention's parameters are `<site>.attention.*`.

    Args:
        model: a model of w3ray, a torchvision ResNet over folded clips ([B*T, 3, H, W]), a torchvision VideoResNet
            ([B, 3, T, H, W]), or any model with `stages()`.
        kind: a key of `w3ray.attention.ATTENTION`, or a config that holds all options.
        num_frames: T of the folded clips. A bare torchvision ResNet needs it, because it cannot pass T to its sites.
        options: options of this attention: fields of `W3Config`, `CBAMConfig` or `NonLocalConfig`.

    Returns:
        The same model.

    Raises:
        ValueError: unknown kind, option or model; the model already has attention; num_frames is missing; the config
            selects no site.
    """
    if isinstance(kind, AttentionConfig):
        if options:
            raise ValueError(f"add_attention: {', '.join(options)}: set options in the config, not beside it")
        config = kind
    else:
        config = attention_kind(kind).from_options(options)  # checked before the first block is replaced
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"add_attention: num_frames={num_frames}: must be >= 1")
    if is_resnet(model) and num_frames is None:
        raise ValueError(
            "add_attention: a bare ResNet does not know the clip length: pass num_frames (batch = clips * num_frames)"
        )
    stages = network_stages(model)
    if any(site.attention is not None for stage in stages for site in stage):
        raise ValueError(f"add_attention: this {type(model).__name__} already has attention at its sites")
    entered = [site for i, stage in enumerate(stages) for j, site in enumerate(stage) if config.enters(i, j)]
    if not entered:
        counts = ", ".join(str(len(stage)) for stage in stages)
        raise ValueError(
            f"add_attention: {config.label} enters no site of this {type(model).__name__}: its {len(stages)} stages "
            f"have {counts} sites; change stages, every or first"
        )
    if getattr(config, "gain", "gate") == "norm":
        for site in entered:
            _check_norm(site)
    for site in entered:
        attention = ATTENTION[config.kind].module(site.channels, config)
        reference = next(site.parameters(), None)
        if reference is not None:
            attention = attention.to(device=reference.device, dtype=reference.dtype)
        site.attention = attention.train(site.training)
        if site.layout == "frames":
            site.num_frames = num_frames
    scale_norms(model)
    return model


def scale_norms(model: nn.Module) -> None:
    """Multiply each norm before an attention by the gain that the attention expects (`gain: norm`), in place.

    Call this after the norms got the weights of a network without attention.
    """
    for stage in network_stages(model):
        for site in stage:
            if (gain := getattr(site.attention, "norm_gain", 1.0)) != 1.0:
                scale_last_norm(site, gain)


@torch.no_grad()
def scale_last_norm(site: Site, factor: float) -> None:
    """Multiply scale and shift of the norm before a site's attention.

    Raises:
        ValueError: there is no norm before the attention.
    """
    for parameter in _check_norm(site):
        parameter.mul_(factor)


def _check_norm(site: Site) -> tuple[Tensor, Tensor]:
    """Scale and shift of the norm before a site's attention. Raises ValueError if they cannot hold a gain."""
    norm = site.last_norm
    if norm is None:
        raise ValueError(
            f"attention with gain=norm: {type(site).__name__} has no norm right before its attention; use gain=gate"
        )
    scale, shift = (getattr(norm, name, None) for name in ("weight", "bias"))
    is_norm = not isinstance(norm, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if not (is_norm and isinstance(scale, Tensor) and isinstance(shift, Tensor)):
        raise ValueError(
            f"attention with gain=norm: the residual branch ends in {type(norm).__name__}, which has no scale and "
            "shift to hold the gain; use gain=gate"
        )
    return scale, shift

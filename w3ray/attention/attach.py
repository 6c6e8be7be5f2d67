"""How is an attention put into the residual blocks of a network?"""

from typing import Any, TypeVar

from torch import nn
from torchvision.models import ResNet
from torchvision.models.video import VideoResNet

from w3ray.attention import ATTENTION, AttentionConfig, attention_kind
from w3ray.attention.blocks import ClipBasicBlock, ClipBottleneck, adopt_blocks

Model = TypeVar("Model", bound=nn.Module)


def residual_stages(model: nn.Module) -> list[nn.Sequential]:
    """The stages of residual blocks of a network that attention can enter, first to last.

    Known are torchvision's ResNet and VideoResNet, and every model with a method `residual_stages()` (ours have it).

    Raises:
        ValueError: another model.
    """
    own = getattr(model, "residual_stages", None)
    if callable(own):
        return own()
    if isinstance(model, ResNet | VideoResNet):
        return [model.layer1, model.layer2, model.layer3, model.layer4]
    found = f"{type(model).__module__}.{type(model).__name__}"
    raise ValueError(
        f"add_attention: {found} has no residual stages known here; known: torchvision's ResNet (resnet18/34/50/101) "
        "and VideoResNet (r3d_18, mc3_18, r2plus1d_18), w3ray's models, any model with residual_stages()"
    )


def add_attention(
    model: Model, kind: str | AttentionConfig = "w3", *, num_frames: int | None = None, **options: Any
) -> Model:
    """Put an attention into the residual blocks of a model, in place: all of them, or those that its kind enters.

    Existing parameters keep their names; the attention's are `<block>.attention.*`.

    Args:
        model: a TSM or TSN of ours, a torchvision ResNet over folded clips ([B*T, 3, H, W]), a torchvision
            VideoResNet ([B, 3, T, H, W]), or any model with `residual_stages()`.
        kind: a key of `w3ray.attention.ATTENTION`, or a config, which holds its options.
        num_frames: T of the folded clips; needed for a bare torchvision ResNet, which cannot pass it on.
        options: the options of that attention: the fields of `W3Config`, `CBAMConfig` or `NonLocalConfig`.

    Returns:
        The same model.

    Raises:
        ValueError: unknown kind, option or model; attention already there; num_frames missing.
    """
    if isinstance(kind, AttentionConfig):
        if options:
            raise ValueError(f"add_attention: {', '.join(options)}: the config holds all options; put them there")
        config = kind
    else:
        config = attention_kind(kind).from_options(options)  # before the first block is replaced
    stages = residual_stages(model)
    if any(getattr(block, "attention", None) is not None for stage in stages for block in stage):
        raise ValueError(f"add_attention: this {type(model).__name__} already has attention in its blocks")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"add_attention: num_frames={num_frames}: must be >= 1")
    if isinstance(model, ResNet) and num_frames is None:
        raise ValueError(
            "add_attention: a bare ResNet does not know its clips: pass num_frames (batch = clips * num_frames)"
        )
    places = [(i, j) for i, stage in enumerate(stages) for j in range(len(stage))]
    blocks = [block for place, block in zip(places, adopt_blocks(stages), strict=True) if config.enters(*place)]
    if getattr(config, "gain", "gate") == "norm":
        for block in blocks:
            block.check_last_norm()
    for block in blocks:
        attention = ATTENTION[config.kind].module(block.channels, config)
        reference = next(block.parameters())
        block.attention = attention.to(device=reference.device, dtype=reference.dtype).train(block.training)
        if not isinstance(block, ClipBasicBlock | ClipBottleneck):
            block.num_frames = num_frames
    scale_norms(model)
    return model


def scale_norms(model: nn.Module) -> None:
    """Multiply the norms before gates by the gain that these expect of them (`gain: norm`), in place.

    To be called when the norms have got weights of a network without attention.
    """
    blocks: list[Any] = [block for stage in residual_stages(model) for block in stage]
    for block in blocks:
        if (gain := getattr(block.attention, "norm_gain", 1.0)) != 1.0:
            block.scale_last_norm(gain)

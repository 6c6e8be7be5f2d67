"""The contracts of models and of their backbones."""

from collections.abc import Iterable
from typing import Any

from w3ray.testing._common import close, require, require_gradients, seeded


def check_model(name: str) -> None:
    """Check a family of `w3ray.models.MODELS`: a small network of it, plain and with W3.

    The family's options say what is small, and which clips the network takes (`ModelOptions.small`, `small_clips`).
    """
    from w3ray.models import MODELS, build_model

    options = MODELS[name].options
    with seeded():
        for attention in (None, {"kind": "w3"}):
            model = build_model(
                name, backbone="resnet_small", options=options.small, num_classes=4, attention=attention
            )
            check_forward_and_backward(model, "with W3" if attention else "without attention", options.small_clips)
            _check_clips_apart(model, options.small_clips[0])


def check_backbone(name: str) -> None:
    """Check a network of `w3ray.models.BACKBONES`: plain in TSN, and with W3 in TSM."""
    from w3ray.models import build_model

    with seeded():
        for family, attention in (("tsn", None), ("tsm", {"kind": "w3"})):
            model = build_model(family, backbone=name, num_classes=4, attention=attention)
            check_forward_and_backward(model, f"under {family}", ((4, 32, 32), (3, 64, 32)))


def check_forward_and_backward(model: Any, what: str, clips: Iterable[tuple[int, int, int]]) -> None:
    """Check the outputs and the gradients for two clips of each T, height and width."""
    import torch

    from w3ray.models.side_inputs import example

    batch = 2
    for frames, height, width in clips:
        x_BTCHW = torch.randn(batch, frames, model.pixels.channels, height, width)
        out = model(x_BTCHW, **example(model, x_BTCHW))
        require(
            out.logits_BK.shape == (batch, 4),
            f"{what}: the scores of {batch} clips and 4 classes are {tuple(out.logits_BK.shape)}",
        )
        require(isinstance(out.features, tuple) and out.features, f"{what}: features must be a tuple of last maps")
        for map_BTCHW in out.features:
            good = map_BTCHW.dim() == 5 and map_BTCHW.shape[0] == batch
            require(good, f"{what}: last maps must be [B, T, C, H, W], not {tuple(map_BTCHW.shape)}")
    (out.logits_BK.sum() + sum(map_BTCHW.square().sum() for map_BTCHW in out.features)).backward()
    require_gradients(model, what)
    classifier = {id(parameter) for parameter in model.classifier_parameters()}
    own = {id(parameter) for parameter in model.parameters()}
    require(classifier and classifier <= own, f"{what}: classifier_parameters are not parameters of the model")
    require(sum(map(len, model.stages())) > 0, f"{what}: has no site for an attention")


def _check_clips_apart(model: Any, clip: tuple[int, int, int]) -> None:
    import torch

    from w3ray.models.side_inputs import example

    frames, height, width = clip
    x_BTCHW = torch.randn(2, frames, model.pixels.channels, height, width)
    together = model.eval()(x_BTCHW, **example(model, x_BTCHW)).logits_BK
    one_by_one = x_BTCHW.split(1)
    alone = torch.cat([model(one_BTCHW, **example(model, one_BTCHW)).logits_BK for one_BTCHW in one_by_one])
    close(alone, together, "the clips of a batch influence each other in evaluation", rtol=1e-3, atol=1e-4)

"""Every parameter of the 3D networks learns once the last norms have left their start at 0."""

import pytest
import torch
from torch import nn

from w3ray.models import MODELS, build_model
from w3ray.models.lfb import AttentionLayer
from w3ray.models.side_inputs import example

NAMES = ("i3d_r50", "i3d_gcn", "lfb", "i3d_r18", "i3d_inception", "slowfast_r50")


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    options = MODELS[name].options
    # A single hidden channel may lie below its ReLU everywhere.
    attention = {"kind": "w3", "start": "plain", "hidden": 8}
    model = build_model(name, num_classes=4, options=options.small, attention=attention, dropout=0.0)
    for parameter in model.classifier_parameters():
        nn.init.normal_(parameter)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
        if isinstance(module, AttentionLayer):  # its last layer starts at 0, too
            nn.init.normal_(module.out.weight)
    x_BTCHW = torch.randn(2, 16, 3, 48, 48)
    out = model(x_BTCHW, **example(model, x_BTCHW))
    (out.logits_BK.square().sum() + sum(one.square().mean() for one in out.features)).backward()
    still = [key for key, one in model.named_parameters() if one.grad is None or not one.grad.abs().max() > 0]
    assert still == []

"""The contract of attentions."""

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from w3ray.testing._common import ContractBroken, close, require, require_gradients, seeded
from w3ray.testing.models import check_forward_and_backward

if TYPE_CHECKING:
    from torch import nn


_MOST_GATES = 3
"""Kinds of gates that an attention may have, one after the other: of channels, places and frames."""


def check_attention(kind: str, **options: Any) -> None:
    """Check config and module of an attention, and a small network with it.

    Args:
        kind: a key of `w3ray.attention.ATTENTION`.
        options: of its config, if they differ from the defaults.

    Raises:
        ContractBroken: the attention breaks the contract (`w3ray.attention._common.Attention`).
    """
    from w3ray.attention import ATTENTION

    row = ATTENTION[kind]
    config = row.config.from_options(options)
    _check_config(config)
    with seeded():
        _check_attention_module(row.module, config)
        _check_in_network(config)


def _check_config(config: Any) -> None:
    name = type(config).__name__
    written = config.written_out()
    require(json.loads(json.dumps(written)) == written, f"{name}: its options are not plain JSON values")
    again = type(config).from_options({key: value for key, value in written.items() if key != "kind"})
    require(again == config, f"{name}: its written options give another config")
    try:
        type(config).from_options({"no_such_option": 1})
    except ValueError as error:
        require("no_such_option" in str(error), f"{name}: the error for an unknown option does not name the option")
    else:
        raise ContractBroken(f"{name}: accepts an unknown option")
    try:
        dataclasses.replace(config, every=0)
    except ValueError:
        return
    raise ContractBroken(f"{name}: does not check the fields of AttentionConfig; call its __post_init__")


def _check_attention_module(build: Callable[[int, Any], "nn.Module"], config: Any) -> None:
    import torch

    attention: Any = build(16, config)
    for field in ("placement", "has_spatial_mask", "norm_gain", "constant_start"):
        require(hasattr(attention, field), f"the module has no {field}")
    require(attention.placement in ("before", "after"), f"placement={attention.placement!r}: must be before or after")
    require(
        attention.has_spatial_mask == config.has_spatial_mask,
        f"has_spatial_mask is {attention.has_spatial_mask} in the module and {config.has_spatial_mask} in its config",
    )
    if attention.constant_start is not None:
        _check_start(copy.deepcopy(attention).eval())
    names = list(attention.state_dict())
    require(list(build(16, config).state_dict()) == names, "two modules of one config have different state names")
    attention.eval()  # in training mode, a batch norm refuses a single value per channel
    for shape in ((1, 1, 16, 1, 1), (2, 3, 16, 5, 4), (1, 9, 16, 1, 8)):
        x_BTCHW = torch.randn(shape)
        out = attention(x_BTCHW)
        require(isinstance(out, tuple) and len(out) == 2, "its forward must return an AttentionOutput(features, mask)")
        require(out[0].shape == shape, f"features of shape {shape} come out as {tuple(out[0].shape)}")
        require(out[0].isfinite().all(), f"features of shape {shape} come out with numbers that are not finite")
        require(
            (out[1] is not None) == config.has_spatial_mask, "has_spatial_mask contradicts what its forward returns"
        )
        if out[1] is not None:
            expected = (*shape[:2], *shape[3:])
            require(out[1].shape == expected, f"its mask must be [B, T, H, W] = {expected}, not {tuple(out[1].shape)}")
        identity_BTCHW = torch.randn(shape)
        added = attention(x_BTCHW, identity_BTCHW)[0]
        close(added, out[0] + identity_BTCHW, "the shortcut is not added to the features", rtol=1e-4, atol=1e-4)
    x_BTCHW = torch.randn(3, 4, 16, 5, 5)
    together = attention(x_BTCHW)[0]
    alone = torch.cat([attention(x_BTCHW[b : b + 1])[0] for b in range(3)])
    close(alone, together, "the clips of a batch influence each other", rtol=1e-4, atol=1e-4)
    strided_BTCHW = x_BTCHW.transpose(1, 2).contiguous().transpose(1, 2)
    message = "features with other strides, as in 3D networks, give another result"
    close(attention(strided_BTCHW)[0], together, message, rtol=1e-4, atol=1e-4)
    half = copy.deepcopy(attention).bfloat16()(x_BTCHW.bfloat16())[0]
    require(half.dtype == torch.bfloat16, f"bfloat16 features come out as {half.dtype}")
    attention.train()
    attention(x_BTCHW.requires_grad_())[0].square().sum().backward()
    require_gradients(attention, "the module")
    require(x_BTCHW.grad is not None and x_BTCHW.grad.isfinite().all(), "the gradient of the features is not finite")


def _check_start(attention: Any) -> None:
    """A fresh module whose gates all have one value multiplies its features by it, once for each kind of gate."""
    import torch

    start = attention.constant_start
    x_BTCHW = torch.rand(2, 4, 16, 5, 5) + 0.5
    out_BTCHW, mask_BTHW = attention(x_BTCHW)
    if mask_BTHW is not None:
        message = f"constant_start={start}: a fresh mask has other values"
        close(mask_BTHW, torch.full_like(mask_BTHW, start), message, rtol=1e-4, atol=1e-5)
    products = {start**gates for gates in range(1, _MOST_GATES + 1)}
    same = any(torch.allclose(out_BTCHW, x_BTCHW * product, rtol=1e-4, atol=1e-5) for product in products)
    require(same, f"constant_start={start}: a fresh module does not multiply features by that; correct it, or say None")


def _check_in_network(config: Any) -> None:
    import torch

    from w3ray.models import build_model

    everywhere = dataclasses.replace(config, stages=None, every=1, first=1)
    model = build_model("tsm", backbone="resnet_small", num_classes=4, attention=everywhere)
    check_forward_and_backward(model, "a network with it", ((4, 32, 32), (3, 64, 32)))
    again = build_model("tsm", backbone="resnet_small", num_classes=4, attention=everywhere)
    again.load_state_dict(model.state_dict())
    x_BTCHW = torch.randn(2, 4, 3, 32, 32)
    one, other = (network.eval()(x_BTCHW).logits_BK for network in (model, again))
    require(torch.equal(one, other), "a network with the same weights gives another result")

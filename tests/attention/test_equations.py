"""The code computes each equation of W3 (arXiv:2004.01278, Eq. 1-6). The reference is plain loops."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from w3ray.attention.w3 import W3, ChannelTemporalAttention, SpatioTemporalAttention, W3Config

B, T, C, H, W = 2, 3, 4, 3, 5


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def random_weights(module: torch.nn.Module) -> torch.nn.Module:
    """Draw all parameters at random: zeros or a small start could hide a wrong term of an equation."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module.double()


def clips(seed: int = 0) -> Tensor:
    return torch.randn(B, T, C, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_mlp(module: ChannelTemporalAttention, values: list[float]) -> list[float]:
    hidden = []
    for row, bias in zip(module.reduce.weight.tolist(), module.reduce.bias.tolist(), strict=True):
        hidden.append(max(0.0, bias + sum(w * v for w, v in zip(row, values, strict=True))))
    out = []
    for row, bias in zip(module.expand.weight.tolist(), module.expand.bias.tolist(), strict=True):
        out.append(bias + sum(w * h for w, h in zip(row, hidden, strict=True)))
    return out


def loop_frame_gate(module: ChannelTemporalAttention, x_BTCHW: Tensor) -> Tensor:
    """Eq. 3."""
    gate_BTC = torch.zeros(x_BTCHW.shape[:3], dtype=torch.float64)
    for b, t in product(range(B), range(T)):
        cells = [x_BTCHW[b, t, c].flatten().tolist() for c in range(C)]
        average = loop_mlp(module, [sum(values) / len(values) for values in cells])
        maximum = loop_mlp(module, [max(values) for values in cells])
        for c in range(C):
            gate_BTC[b, t, c] = sigmoid(average[c] + maximum[c])
    return gate_BTC


def loop_conv1d(layer: torch.nn.Conv1d, x_BTC: Tensor) -> Tensor:
    """A zero-padded convolution over T, depthwise or dense."""
    out_BTC = torch.zeros_like(x_BTC)
    kernel = layer.kernel_size[0]
    for b, t, c in product(range(B), range(T), range(C)):
        total = layer.bias[c].item()
        inputs = [c] if layer.groups == C else range(C)
        for position, source in enumerate(inputs):
            for k in range(kernel):
                at = t + k - kernel // 2
                if 0 <= at < T:
                    total += layer.weight[c, position, k].item() * x_BTC[b, at, source].item()
        out_BTC[b, t, c] = total
    return out_BTC


def loop_conv(weight: Tensor, bias: float, x: Tensor) -> Tensor:
    """A zero-padded convolution of [channels, *space] with one filter [channels, *kernel] -> [*space]."""
    out = torch.full(x.shape[1:], bias, dtype=torch.float64)
    for at in product(*(range(size) for size in x.shape[1:])):
        for channel, *tap in product(*(range(size) for size in weight.shape)):
            source = [a + k - size // 2 for a, k, size in zip(at, tap, weight.shape[1:], strict=True)]
            if all(0 <= s < size for s, size in zip(source, x.shape[1:], strict=True)):
                out[at] += weight[(channel, *tap)] * x[(channel, *source)]
    return out


def loop_frame_mask(module: SpatioTemporalAttention, x_BTCHW: Tensor) -> Tensor:
    """Eq. 5."""
    mask_BTHW = torch.zeros(B, T, H, W, dtype=torch.float64)
    for b, t in product(range(B), range(T)):
        pooled_2HW = torch.zeros(2, H, W, dtype=torch.float64)
        for h, w in product(range(H), range(W)):
            values = x_BTCHW[b, t, :, h, w].tolist()
            pooled_2HW[0, h, w] = sum(values) / C
            pooled_2HW[1, h, w] = max(values)
        scores_HW = loop_conv(module.frame.weight[0].detach(), module.frame.bias[0].item(), pooled_2HW)
        for h, w in product(range(H), range(W)):
            mask_BTHW[b, t, h, w] = sigmoid(scores_HW[h, w].item())
    return mask_BTHW


def loop_video_mask(module: SpatioTemporalAttention, frame_BTHW: Tensor) -> Tensor:
    """Eq. 6: 3D convolutions. Their weights are stored as [out, in * K, K, K]."""
    kernel = module.time1.kernel_size[0]
    weight1, weight2 = (
        layer.weight.detach().view(layer.out_channels, -1, kernel, kernel, kernel)
        for layer in (module.time1, module.time2)
    )
    mask_BTHW = torch.zeros(B, T, H, W, dtype=torch.float64)
    for b in range(B):
        hidden = [
            loop_conv(weight1[n], module.time1.bias[n].item(), frame_BTHW[b : b + 1])
            for n in range(module.time1.out_channels)
        ]
        hidden = [torch.tensor([max(0.0, v) for v in plane.flatten().tolist()]).view(T, H, W) for plane in hidden]
        scores = loop_conv(weight2[0], module.time2.bias[0].item(), torch.stack(hidden).double())
        mask_BTHW[b] = torch.tensor([sigmoid(v) for v in scores.flatten().tolist()]).view(T, H, W)
    return mask_BTHW


SCALES = [("unit", 2.0), ("near_open", 1.0), ("plain", 1.0)]
"""Start -> factor of a gate's last sigmoid. Inner sigmoids have no factor."""


@pytest.mark.parametrize(("start", "scale"), SCALES)
def test_equation_3_frame_gate(start: str, scale: float) -> None:
    module = random_weights(ChannelTemporalAttention(C, W3Config(reduction=2, temporal=False, start=start)))
    torch.testing.assert_close(module(clips()), scale * loop_frame_gate(module, clips()))


@pytest.mark.parametrize(("start", "scale"), SCALES)
@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("channel_kernel", [1, 3, 5])
def test_equation_4_gate_over_time(depthwise: bool, channel_kernel: int, start: str, scale: float) -> None:
    config = W3Config(reduction=2, depthwise=depthwise, channel_kernel=channel_kernel, start=start)
    module = random_weights(ChannelTemporalAttention(C, config))
    expected = loop_conv1d(module.time1, loop_frame_gate(module, clips())).clamp(min=0)
    expected = loop_conv1d(module.time2, expected).apply_(sigmoid)
    torch.testing.assert_close(module(clips()), scale * expected)


@pytest.mark.parametrize(("start", "scale"), SCALES)
@pytest.mark.parametrize("spatial_kernel", [3, 7])
def test_equation_5_frame_mask(spatial_kernel: int, start: str, scale: float) -> None:
    config = W3Config(spatial_kernel=spatial_kernel, temporal=False, start=start)
    module = random_weights(SpatioTemporalAttention(config))
    torch.testing.assert_close(module(clips()), scale * loop_frame_mask(module, clips()))


@pytest.mark.parametrize(("start", "scale"), SCALES)
@pytest.mark.parametrize(("temporal_kernel", "hidden"), [(3, 1), (3, 2), (1, 1), (5, 2)])
def test_equation_6_mask_over_time(temporal_kernel: int, hidden: int, start: str, scale: float) -> None:
    config = W3Config(spatial_kernel=3, temporal_kernel=temporal_kernel, hidden=hidden, start=start)
    module = random_weights(SpatioTemporalAttention(config))
    expected = scale * loop_video_mask(module, loop_frame_mask(module, clips()))
    torch.testing.assert_close(module(clips()), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shortcut", [False, True])
def test_equations_1_and_2_sequence(shortcut: bool) -> None:
    """F^c = M^c(F) * F, then F^s = M^s(F^c) * F^c: the input of the spatial mask is the channel-attended features."""
    w3 = random_weights(W3(C, W3Config(reduction=2, spatial_kernel=3)))
    x_BTCHW, identity_BTCHW = clips(), clips(seed=5)
    gate_BTC, channel_BTCHW = w3.channel(x_BTCHW), torch.zeros_like(x_BTCHW)
    for b, t, c, h, w in product(range(B), range(T), range(C), range(H), range(W)):
        channel_BTCHW[b, t, c, h, w] = gate_BTC[b, t, c].item() * x_BTCHW[b, t, c, h, w].item()
    mask_BTHW, expected_BTCHW = w3.spatial(channel_BTCHW), torch.zeros_like(x_BTCHW)
    for b, t, c, h, w in product(range(B), range(T), range(C), range(H), range(W)):
        expected_BTCHW[b, t, c, h, w] = mask_BTHW[b, t, h, w].item() * channel_BTCHW[b, t, c, h, w].item()
    if shortcut:
        expected_BTCHW += identity_BTCHW
    out = w3(x_BTCHW, identity_BTCHW if shortcut else None)
    torch.testing.assert_close(out.x_BTCHW, expected_BTCHW)
    torch.testing.assert_close(out.mask_BTHW, mask_BTHW)


@pytest.mark.parametrize("off", ["channel", "spatial"])
def test_ablations(off: str) -> None:
    w3 = random_weights(W3(C, W3Config(reduction=2, spatial_kernel=3, **{off: False})))
    out = w3(clips())
    if off == "spatial":
        assert out.mask_BTHW is None
        torch.testing.assert_close(out.x_BTCHW, clips() * w3.channel(clips())[..., None, None])
    else:
        torch.testing.assert_close(out.x_BTCHW, clips() * w3.spatial(clips())[:, :, None])
    assert not any(name.startswith(off) for name, _ in w3.named_parameters())

"""The hand-written gradients equal autograd's own."""

import pytest
import torch
from torch import Tensor

from w3ray.attention import gating
from w3ray.attention.gating import apply_gate, mean_max

SHAPE = (3, 4, 6, 5, 2)


def features(seed: int = 0, layout: str = "plain") -> Tensor:
    x_BTCHW = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if layout == "channels_last":
        x_BTCHW = x_BTCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, SHAPE[:2])
    if layout == "clips":
        x_BTCHW = x_BTCHW.transpose(1, 2).contiguous().transpose(1, 2)
    return x_BTCHW.requires_grad_()


@pytest.fixture(params=[1, 600, 2000, 1 << 20])
def part_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts of one frame, two frames, one clip (960 bytes per clip, 480 per frame), and everything in one part."""
    monkeypatch.setattr(gating, "PART_BYTES", request.param)
    return request.param


def test_parts_cover_every_frame_once(part_bytes: int) -> None:
    seen = torch.zeros(SHAPE[:2])
    for part in gating._parts(features()):
        seen[part] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("layout", ["plain", "channels_last", "clips"])
@pytest.mark.parametrize("dims", [(3, 4), (2,)])
def test_mean_max(part_bytes: int, dims: tuple[int, ...], layout: str) -> None:
    x, y = features(layout=layout), features(layout=layout)
    mean, maximum = mean_max(x, dims)
    expected = y.mean(dim=dims, keepdim=True), y.amax(dim=dims, keepdim=True)
    torch.testing.assert_close((mean, maximum), expected)
    (mean.sin() + maximum.cos()).sum().backward()
    (expected[0].sin() + expected[1].cos()).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("dims", [(3, 4), (2,)])
def test_equal_maxima_share_the_gradient(dims: tuple[int, ...]) -> None:
    x = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)
    y = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)
    mean_max(x, dims)[1].sum().backward()
    y.amax(dim=dims).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("layout", ["plain", "channels_last", "clips"])
@pytest.mark.parametrize("gate_shape", [(3, 4, 6, 1, 1), (3, 4, 1, 5, 2)])
@pytest.mark.parametrize("shortcut", [False, True])
def test_apply_gate(part_bytes: int, gate_shape: tuple[int, ...], shortcut: bool, layout: str) -> None:
    inputs, twins = [], []
    for seed, shape in ((0, SHAPE), (1, gate_shape), (2, SHAPE)):
        for tensors in (inputs, twins):
            value = features(seed, layout).detach()[:, :, : shape[2], : shape[3], : shape[4]]
            tensors.append(value.clone().requires_grad_())
    out = apply_gate(inputs[0], inputs[1], inputs[2] if shortcut else None)
    expected = twins[0] * twins[1] + (twins[2] if shortcut else 0)
    torch.testing.assert_close(out, expected)
    out.sin().sum().backward()
    expected.sin().sum().backward()
    for x, y in zip(inputs[: 3 if shortcut else 2], twins, strict=False):
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("dims", [(3, 4), (2,)])
def test_gradcheck(dims: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(lambda x: mean_max(x, dims), (features(),))
    gate = torch.rand(3, 4, 1, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(apply_gate, (features(), gate, features(1)))


def test_strides_are_kept() -> None:
    for layout in ("plain", "channels_last", "clips"):
        x = features(layout=layout)
        out = apply_gate(x, torch.ones(3, 4, 6, 1, 1, dtype=torch.float64))
        assert out.stride() == x.stride()


@pytest.mark.parametrize("dims", [(3, 4), (2,)])
def test_compiled_mean_max_with_equal_maxima(dims: tuple[int, ...]) -> None:
    x = features().detach().round().requires_grad_()
    y = x.detach().clone().requires_grad_()
    found = torch.compile(lambda one: mean_max(one, dims), backend="aot_eager", fullgraph=True)(x)
    expected = y.mean(dim=dims, keepdim=True), y.amax(dim=dims, keepdim=True)
    torch.testing.assert_close(found, expected)
    (found[0].sin() + found[1].cos()).sum().backward()
    (expected[0].sin() + expected[1].cos()).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("gate_shape", [(3, 4, 6, 1, 1), (3, 4, 1, 5, 2)])
def test_compiled_apply_gate(gate_shape: tuple[int, ...]) -> None:
    inputs, twins = [], []
    for seed, shape in ((0, SHAPE), (1, gate_shape), (2, SHAPE)):
        for tensors in (inputs, twins):
            value = features(seed).detach()[:, :, : shape[2], : shape[3], : shape[4]]
            tensors.append(value.clone().requires_grad_())
    out = torch.compile(apply_gate, backend="aot_eager", fullgraph=True)(*inputs)
    expected = twins[0] * twins[1] + twins[2]
    torch.testing.assert_close(out, expected)
    out.sin().sum().backward()
    expected.sin().sum().backward()
    for x, y in zip(inputs, twins, strict=True):
        torch.testing.assert_close(x.grad, y.grad)

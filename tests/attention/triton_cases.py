"""Are the Triton kernels of pooling and gating equal to the plain formulas? `test_gating_triton.py` runs this file.

Its process has TRITON_INTERPRET=1, which must be there before triton is imported, or a GPU.
"""

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from w3ray.attention import gating, gating_triton
from w3ray.attention.gating import apply_gate, mean_max, triton_kernels
from w3ray.models import build_model

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
SHAPE = (2, 2, 5, 2, 3)
POOLED = [(3, 4), (2,)]
LAYOUTS = ["plain", "channels_last", "clips"]
TYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    with triton_kernels(True):
        yield


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles for each result, the last one only partly inside."""
    monkeypatch.setattr(gating_triton, "_TILE", 8)
    monkeypatch.setattr(gating_triton, "_NARROW", 4)


@pytest.fixture(params=TYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if request.param == torch.float64:
        request.getfixturevalue("small_tiles")
    return request.param


def random(shape: tuple[int, ...], seed: int, dtype: torch.dtype, layout: str = "plain") -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)
    if layout == "channels_last":
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])
    if layout == "clips":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    return x


def gate_shape(dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if dim in dims else length for dim, length in enumerate(SHAPE))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dims", POOLED)
def test_pooling(dims: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    x = random(SHAPE, 0, dtype, layout).requires_grad_()
    y = x.detach().double().requires_grad_()
    found = mean_max(x, dims)
    expected = y.mean(dim=dims, keepdim=True), y.amax(dim=dims, keepdim=True)
    torch.testing.assert_close(found, tuple(one.to(dtype) for one in expected))
    grads = [random(tuple(found[0].shape), seed, dtype) for seed in (1, 2)]
    torch.autograd.backward(found, grads)
    torch.autograd.backward(expected, [one.double() for one in grads])
    assert x.grad is not None
    assert y.grad is not None
    torch.testing.assert_close(x.grad, y.grad.to(dtype))
    assert x.grad.stride() == x.stride()


@pytest.mark.parametrize("dims", POOLED)
def test_equal_maxima_share_the_gradient(small_tiles: None, dims: tuple[int, ...]) -> None:
    x = random(SHAPE, 0, torch.float64).round().requires_grad_()
    y = x.detach().clone().requires_grad_()
    mean_max(x, dims)[1].square().sum().backward()
    y.amax(dim=dims).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("dims", POOLED)
def test_what_is_no_number_stays_none(small_tiles: None, dims: tuple[int, ...]) -> None:
    x = random(SHAPE, 0, torch.float32)
    x[0, 1, 2, 1, 2] = torch.nan
    x[1, 1] = -torch.inf
    mean, maximum = mean_max(x, dims)
    torch.testing.assert_close(mean, x.mean(dim=dims, keepdim=True), equal_nan=True)
    torch.testing.assert_close(maximum, x.amax(dim=dims, keepdim=True), equal_nan=True)


@pytest.mark.parametrize(("layout", "of_gradient"), [*zip(LAYOUTS, LAYOUTS[1:] + LAYOUTS[:1], strict=True)])
@pytest.mark.parametrize("dims", POOLED)
def test_gating(dims: tuple[int, ...], layout: str, of_gradient: str, dtype: torch.dtype) -> None:
    shortcut = layout == "clips"
    x, gate = random(SHAPE, 0, dtype, layout), random(gate_shape(dims), 1, dtype)
    beside = random(SHAPE, 2, dtype) if shortcut else None
    inputs = [one.requires_grad_() for one in (x, gate, beside) if one is not None]
    twins = [one.detach().double().requires_grad_() for one in inputs]
    grad = random(SHAPE, 3, dtype, of_gradient)
    apply_gate(*inputs).backward(grad)
    (twins[0] * twins[1] + (twins[2] if shortcut else 0)).backward(grad.double())
    for one, twin in zip(inputs, twins, strict=True):
        assert one.grad is not None
        assert twin.grad is not None
        torch.testing.assert_close(one.grad, twin.grad.to(dtype))


@pytest.mark.parametrize("dims", POOLED)
def test_gradients_that_are_not_stored_evenly(dims: tuple[int, ...]) -> None:
    x, gate = random(SHAPE, 0, torch.float64).requires_grad_(), random(gate_shape(dims), 1, torch.float64)
    apply_gate(x, gate.requires_grad_())[..., 1:].sum().backward()
    found = x.grad, gate.grad
    x.grad = gate.grad = None
    (x * gate)[..., 1:].sum().backward()
    torch.testing.assert_close(found, (x.grad, gate.grad))
    uneven = random((*SHAPE[:3], SHAPE[3], 2 * SHAPE[4]), 2, torch.float64)[..., : SHAPE[4]]
    x.grad = gate.grad = None
    apply_gate(x, gate).backward(uneven)
    torch.testing.assert_close((x.grad, gate.grad), (uneven * gate, (uneven * x).sum(dim=dims, keepdim=True)))


def test_features_of_another_kind_get_the_plain_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mean_max", "mean_max_gradient", "gate_gradient"):
        monkeypatch.setattr(gating_triton, name, None)
    uneven = random((*SHAPE[:3], SHAPE[3], 2 * SHAPE[4]), 0, torch.float32)[..., : SHAPE[4]].requires_grad_()
    mean, maximum = mean_max(uneven, (3, 4))
    apply_gate(uneven, mean + maximum).sum().backward()
    small = random((2, 3, 4, 1, 1), 0, torch.float32).requires_grad_()
    apply_gate(small, torch.ones(2, 3, 1, 1, 1, device=DEVICE)).sum().backward()
    assert gating._kernels(random(SHAPE, 0, torch.float32), (2, 3, 4)) is None
    with triton_kernels(False):
        mean_max(random(SHAPE, 0, torch.float32).requires_grad_(), (2,))[0].sum().backward()


def test_a_network_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    plan = gating_triton._plan
    monkeypatch.setattr(gating_triton, "_plan", lambda *arguments: calls.append(arguments) or plan(*arguments))
    found = []
    for wanted in (False, True):
        torch.manual_seed(0)
        model = build_model("tsm", backbone="resnet_small", num_classes=3, attention={"kind": "w3", "start": "plain"})
        model.to(DEVICE, torch.float64).eval()
        clips = random((1, 4, 3, 16, 16), 0, torch.float64)
        with triton_kernels(wanted):
            scores = model(clips).logits_BK
            scores.square().sum().backward()
        assert bool(calls) == wanted
        found.append([scores, *(one.grad for one in model.parameters())])
    torch.testing.assert_close(*found)

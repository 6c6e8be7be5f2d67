"""W3 as a module: gradients, shapes, types, start, names, compilation, errors."""

import copy

import pytest
import torch

from w3ray.attention import ATTENTION, W3, W3Config

NAMES = [
    "channel.reduce.weight",
    "channel.reduce.bias",
    "channel.expand.weight",
    "channel.expand.bias",
    "channel.time1.weight",
    "channel.time1.bias",
    "channel.time2.weight",
    "channel.time2.bias",
    "spatial.frame.weight",
    "spatial.frame.bias",
    "spatial.time1.weight",
    "spatial.time1.bias",
    "spatial.time2.weight",
    "spatial.time2.bias",
]
"""Checkpoints rest on these names: a change here makes every stored W3 unreadable."""

VARIANTS = [
    {},
    {"depthwise": False},
    {"temporal": False},
    {"channel": False},
    {"spatial": False},
    {"hidden": 2, "channel_kernel": 5, "temporal_kernel": 1, "identity_start": False},
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_state_names() -> None:
    assert list(W3(32).state_dict()) == NAMES


@pytest.mark.parametrize("options", VARIANTS)
def test_gradcheck(options: dict) -> None:
    w3 = W3(4, reduction=2, spatial_kernel=3, **options).double()
    x_BTCHW = torch.randn(1, 2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    identity_BTCHW = torch.randn(1, 2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    names = list(dict(w3.named_parameters()))

    def run(x: torch.Tensor, identity: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state = dict(zip(names, parameters, strict=True))
        out = torch.func.functional_call(w3, state, (x, identity))
        return tuple(tensor for tensor in out if tensor is not None)

    parameters = [parameter.detach().clone().requires_grad_() for parameter in w3.parameters()]
    assert torch.autograd.gradcheck(run, (x_BTCHW, identity_BTCHW, *parameters))


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("shape", [(1, 1, 16, 1, 1), (2, 3, 16, 5, 4), (1, 9, 16, 1, 8), (5, 2, 16, 7, 7)])
def test_any_shape(kind: str, shape: tuple[int, ...]) -> None:
    attention = ATTENTION[kind](16).eval()  # in training a batch norm refuses a single value for each channel
    out, mask = attention(torch.randn(shape))
    assert out.shape == shape
    assert attention.has_spatial_mask == (mask is not None)
    if mask is not None:
        assert mask.shape == (*shape[:2], *shape[3:])
        assert ((mask > 0) & (mask < 1)).all()


@pytest.mark.parametrize("options", VARIANTS)
def test_clips_do_not_mix(options: dict) -> None:
    w3 = W3(16, **options)
    x_BTCHW = torch.randn(3, 4, 16, 5, 5)
    together = w3(x_BTCHW).x_BTCHW
    for b in range(3):
        torch.testing.assert_close(together[b : b + 1], w3(x_BTCHW[b : b + 1]).x_BTCHW)


def test_frames_mix_only_with_time() -> None:
    x_BTCHW = torch.randn(1, 4, 16, 5, 5)
    other_BTCHW = x_BTCHW.clone()
    other_BTCHW[:, 3] = torch.randn(1, 16, 5, 5)
    for temporal in (True, False):
        w3 = W3(16, temporal=temporal, identity_start=False)
        same = torch.equal(w3(x_BTCHW).x_BTCHW[:, 2], w3(other_BTCHW).x_BTCHW[:, 2])
        assert same != temporal


def test_bf16() -> None:
    w3 = W3(32)
    x_BTCHW = torch.randn(2, 4, 32, 6, 6)
    expected = w3(x_BTCHW).x_BTCHW
    half = copy.deepcopy(w3).bfloat16()(x_BTCHW.bfloat16())
    assert half.x_BTCHW.dtype == half.mask_BTHW.dtype == torch.bfloat16
    torch.testing.assert_close(half.x_BTCHW.float(), expected, atol=0.03, rtol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = w3(x_BTCHW.bfloat16().requires_grad_())
    assert mixed.x_BTCHW.dtype == torch.bfloat16  # float gates must not widen the features
    torch.testing.assert_close(mixed.x_BTCHW.float(), expected, atol=0.03, rtol=0.02)
    mixed.x_BTCHW.float().square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in w3.parameters())


@pytest.mark.parametrize("options", VARIANTS[:5])
def test_starts_near_identity(options: dict) -> None:
    """Two gates of about sigmoid(3) = 0.95 each; without the option two of about 0.5."""
    x_BTCHW = torch.randn(2, 4, 64, 8, 8)
    gates = 1 if options in ({"channel": False}, {"spatial": False}) else 2
    ratio = W3(64, **options)(x_BTCHW).x_BTCHW / x_BTCHW
    assert ratio.mean().item() == pytest.approx(0.953**gates, abs=0.03)
    ratio = W3(64, **options, identity_start=False)(x_BTCHW).x_BTCHW / x_BTCHW
    assert ratio.mean().item() == pytest.approx(0.5**gates, abs=0.15)


@pytest.mark.parametrize("options", VARIANTS)
def test_every_parameter_learns_from_the_start(options: dict) -> None:
    """No layer starts behind a dead ReLU: after one backward pass each parameter has some gradient."""
    w3 = W3(32, **options)
    w3(torch.randn(2, 4, 32, 6, 6)).x_BTCHW.square().sum().backward()
    dead = [name for name, p in w3.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.slow
def test_compile_fullgraph() -> None:
    w3 = W3(16)
    compiled = torch.compile(w3, fullgraph=True, backend="inductor")
    x_BTCHW, y_BTCHW = (torch.randn(2, 3, 16, 5, 5, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    x_BTCHW.requires_grad_(), y_BTCHW.requires_grad_()
    out, expected = compiled(x_BTCHW), w3(y_BTCHW)
    torch.testing.assert_close(tuple(out), tuple(expected), atol=1e-5, rtol=1e-5)
    out.x_BTCHW.sin().sum().backward()
    expected.x_BTCHW.sin().sum().backward()
    torch.testing.assert_close(x_BTCHW.grad, y_BTCHW.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"reduction": 0}, "reduction=0"),
        ({"reduction": 2.0}, "reduction=2.0"),
        ({"channel_kernel": 2}, "channel_kernel=2: must be odd"),
        ({"spatial_kernel": 4}, "spatial_kernel=4: must be odd"),
        ({"temporal_kernel": 6}, "temporal_kernel=6: must be odd"),
        ({"hidden": 0}, "hidden=0"),
        ({"depthwise": "yes"}, "depthwise='yes'"),
        ({"placement": "inside"}, "placement='inside': must be one of before, after"),
        ({"channel": False, "spatial": False}, "nothing is left"),
        ({"reductoin": 8}, "unknown option reductoin; known: reduction"),
    ],
)
def test_errors(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        W3(16, **options)


def test_config_defaults() -> None:
    config = W3Config()
    assert (config.reduction, config.channel_kernel, config.spatial_kernel, config.temporal_kernel) == (16, 3, 7, 3)
    assert config.depthwise
    assert config.identity_start
    assert config.placement == "before"

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
MARK = "gate_scale"
"""Only if gates are 2 sigmoid(z)."""
"""Checkpoints use these names: a change here makes every stored W3 unreadable."""

VARIANTS = [
    {},
    {"depthwise": False},
    {"temporal": False},
    {"channel": False},
    {"spatial": False},
    {"hidden": 2, "channel_kernel": 5, "temporal_kernel": 1, "start": "plain"},
    {"start": "near_open"},
    {"borders": "replicate"},
    {"temporal_norm": "batch"},
    {"causal": True},
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def trained(w3: W3) -> W3:
    """Give it weights as after some training: none is 0."""
    for parameter in w3.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return w3


def test_state_names() -> None:
    assert sorted(W3(32).state_dict()) == sorted([*NAMES, MARK])
    for options in ({"start": "near_open"}, {"start": "plain"}, {"gain": "norm"}):
        assert list(W3(32, W3Config(**options)).state_dict()) == NAMES


@pytest.mark.parametrize("options", VARIANTS)
def test_gradcheck(options: dict) -> None:
    w3 = W3(4, W3Config(reduction=2, spatial_kernel=3, **options)).double().eval()  # eval: norms keep their statistics
    for parameter in w3.parameters():  # zeros would hide half of the computation
        torch.nn.init.normal_(parameter)
    x_BTCHW = torch.randn(1, 2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    identity_BTCHW = torch.randn(1, 2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    names = list(dict(w3.named_parameters()))

    def run(x: torch.Tensor, identity: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state = dict(zip(names, parameters, strict=True))
        out = torch.func.functional_call(w3, state, (x, identity))
        return tuple(tensor for tensor in out if tensor is not None)

    parameters = [parameter.detach().clone().requires_grad_() for parameter in w3.parameters()]
    assert torch.autograd.gradcheck(run, (x_BTCHW, identity_BTCHW, *parameters))


@pytest.mark.parametrize("kind", ["w3", "cbam"])
def test_masks_lie_between_0_and_2(kind: str) -> None:
    mask_BTHW = ATTENTION[kind].module(16)(torch.randn(2, 3, 16, 5, 4)).mask_BTHW
    assert ((mask_BTHW > 0) & (mask_BTHW < 2)).all()


@pytest.mark.parametrize("options", VARIANTS)
def test_clips_do_not_mix(options: dict) -> None:
    w3 = trained(W3(16, W3Config(**options))).eval()
    x_BTCHW = torch.randn(3, 4, 16, 5, 5)
    together = w3(x_BTCHW).x_BTCHW
    for b in range(3):
        torch.testing.assert_close(together[b : b + 1], w3(x_BTCHW[b : b + 1]).x_BTCHW)


def test_frames_mix_only_with_time() -> None:
    x_BTCHW = torch.randn(1, 4, 16, 5, 5)
    other_BTCHW = x_BTCHW.clone()
    other_BTCHW[:, 3] = torch.randn(1, 16, 5, 5)
    for temporal in (True, False):
        w3 = trained(W3(16, W3Config(temporal=temporal)))
        same = torch.equal(w3(x_BTCHW).x_BTCHW[:, 2], w3(other_BTCHW).x_BTCHW[:, 2])
        assert same != temporal


def test_bf16() -> None:
    w3 = W3(32, W3Config(start="plain"))
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
def test_starts(options: dict) -> None:
    """All gates are exactly 1, about sigmoid(3) = 0.95, or about 0.5."""
    x_BTCHW = torch.randn(2, 4, 64, 8, 8)
    gates = 1 if options in ({"channel": False}, {"spatial": False}) else 2
    assert torch.equal(W3(64, W3Config(**options, start="unit"))(x_BTCHW).x_BTCHW, x_BTCHW)
    for start, gate, tolerance in (("near_open", 0.953, 0.03), ("plain", 0.5, 0.15)):
        w3 = W3(64, W3Config(**options, start=start))
        ratio = w3(x_BTCHW).x_BTCHW / x_BTCHW
        assert ratio.mean().item() == pytest.approx(gate**gates, abs=tolerance)
        assert w3.gate_start == pytest.approx(gate, abs=1e-3)


@pytest.mark.parametrize("options", VARIANTS)
def test_every_parameter_learns_from_the_start(options: dict) -> None:
    """No layer starts after a dead ReLU. With unit gates the last layer is 0, so the others learn one step later."""
    w3 = W3(32, W3Config(**options))
    optimizer = torch.optim.SGD(w3.parameters(), lr=1e-6)  # so small that no gate saturates
    for _ in range(2):
        optimizer.zero_grad()
        w3(torch.randn(2, 4, 32, 6, 6)).x_BTCHW.square().sum().backward()
        optimizer.step()
    dead = [name for name, p in w3.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_replicated_borders_see_no_border() -> None:
    """Features that are the same everywhere give a gate that is the same everywhere."""
    x_BTCHW = torch.randn(16, generator=torch.Generator().manual_seed(3))[None, None, :, None, None].expand(
        1, 5, 16, 9, 9
    )
    for borders, even in (("replicate", True), ("zeros", False)):
        w3 = W3(16, W3Config(borders=borders))
        for parameter in w3.parameters():
            torch.nn.init.uniform_(parameter, 0.0, 0.1)  # not negative: a ReLU would hide the borders
        gate_BTC, mask_BTHW = w3.channel(x_BTCHW), w3(x_BTCHW).mask_BTHW
        assert torch.allclose(gate_BTC, gate_BTC[:, :1]) == even
        assert torch.allclose(mask_BTHW, mask_BTHW[:, 2:3, 4:5, 4:5]) == even


def test_the_old_name_of_the_start() -> None:
    assert W3Config.from_options({"identity_start": True}).start == "near_open"
    assert W3Config.from_options({"identity_start": False}).start == "plain"
    assert W3Config().start == "unit"


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
        ({"reductoin": 8}, "unknown option reductoin; did you mean 'reduction'\\? known: reduction"),
        ({"start": "open"}, "start='open': must be one of unit, near_open, plain"),
        ({"start": "unit", "identity_start": True}, "start and identity_start are both given; remove identity_start"),
        ({"identity_start": 1}, "identity_start=1: must be true or false"),
        ({"borders": "mirror"}, "borders='mirror': must be one of zeros, replicate"),
        ({"temporal_norm": "layer"}, "temporal_norm='layer': must be one of none, batch"),
        ({"gain": "norm", "start": "near_open"}, "gain=norm holds the factor of start=unit, but start=near_open"),
        ({"gain": "norm", "placement": "after"}, "there is no norm between the sum with the shortcut and the gate"),
    ],
)
def test_errors(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        W3Config.from_options(options)


def test_config_defaults() -> None:
    config = W3Config()
    assert (config.reduction, config.channel_kernel, config.spatial_kernel, config.temporal_kernel) == (16, 3, 7, 3)
    assert config.depthwise
    assert (config.start, config.gain, config.borders, config.temporal_norm) == ("unit", "gate", "zeros", "none")
    assert config.placement == "before"


class TestCausal:
    @pytest.mark.parametrize("options", [{}, {"depthwise": False, "channel_kernel": 5}, {"hidden": 3}])
    def test_later_frames_change_nothing(self, options: dict[str, int | bool]) -> None:
        w3 = trained(W3(8, W3Config(causal=True, **options))).eval()
        x_BTCHW = torch.randn(2, 6, 8, 5, 5)
        other = x_BTCHW.clone()
        other[:, 4:] += 1
        first, second = w3(x_BTCHW), w3(other)
        assert torch.equal(first.x_BTCHW[:, :4], second.x_BTCHW[:, :4])
        assert not torch.allclose(first.x_BTCHW[:, 4], second.x_BTCHW[:, 4])

    def test_it_is_the_other_one_seen_later(self) -> None:
        """With the same weights, the mask of a frame is what the plain W3 gives the frame K - 1 places before it."""
        causal, plain = W3(8, W3Config(causal=True, channel=False)), W3(8, W3Config(channel=False))
        plain.load_state_dict(trained(causal).state_dict())
        x_BTCHW = torch.randn(1, 9, 8, 5, 5)
        late, early = causal(x_BTCHW).mask_BTHW, plain(x_BTCHW).mask_BTHW
        # Away from the ends, where the two have different borders.
        torch.testing.assert_close(late[:, 4:], early[:, 2:-2])

    def test_the_start_is_a_copy_of_the_same_frame(self) -> None:
        w3 = W3(8, W3Config(causal=True, start="near_open"))
        assert float(w3.channel.time1.weight[:, 0, -1].min()) > 0.8
        kernel = w3.spatial.time1.weight.view(3, 3, 3)
        assert int(kernel.argmax()) == 2 * 9 + 4

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="causal=True with borders=replicate"):
            W3Config(causal=True, borders="replicate")
        with pytest.raises(ValueError, match="causal=1: must be true or false"):
            W3Config(causal=1)

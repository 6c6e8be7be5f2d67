"""The models keep their contract: shapes, frame-level scores, shift, refinement, heads."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.attention import ATTENTION
from w3ray.models import MODELS, VideoOutput, build_model
from w3ray.models.refinement import AttentionGuidedRefinement
from w3ray.models.shift import temporal_shift
from w3ray.models.side_inputs import example

SMALL = {"backbone": "resnet_small", "num_classes": 4}
W3_SMALL = {**SMALL, "attention": {"kind": "w3"}}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", [None, *ATTENTION])
@pytest.mark.parametrize("name", MODELS)
def test_forward_and_backward(name: str, kind: str | None) -> None:
    options = MODELS[name].options
    model = build_model(name, **SMALL, options=options.small, attention=None if kind is None else {"kind": kind})
    clips = options.small_clips if options.small else ((4, 32, 32), (3, 40, 24))
    for batch, (frames, height, width) in zip((2, 1), clips, strict=False):
        x_BTCHW = torch.randn(batch, frames, 3, height, width).contiguous()
        out = model(x_BTCHW, **example(model, x_BTCHW))
        assert isinstance(out, VideoOutput)
        assert out.logits_BK.shape == (batch, 4)
        assert out.features[0].shape[0] == batch
        assert out.features[0].shape[2] == model.num_features
        if name in ("tsm", "tsn"):
            assert out.features[0].shape[1] == frames
    (out.logits_BK.sum() + out.features[0].square().sum()).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["tsm", "tsn", "mc3_18"])
def test_logits_are_the_mean_of_frame_scores(name: str) -> None:
    model = build_model(name, **W3_SMALL, dropout=0.0).eval()
    out = model(torch.randn(2, 4, 3, 32, 32))
    frames = [
        F.linear(out.features[0][:, t].mean(dim=(2, 3)), model.classifier.weight, model.classifier.bias)
        for t in range(out.features[0].shape[1])
    ]
    torch.testing.assert_close(out.logits_BK, torch.stack(frames).mean(dim=0))


def test_only_time_aware_models_see_order() -> None:
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    expectations = [("tsn", None, False), ("tsn", {"kind": "w3", "temporal": False}, False), ("tsm", None, True)]
    expectations += [("tsn", {"kind": "w3", "identity_start": False}, True), ("r3d_18", None, True)]
    for name, attention, sees_order in expectations:
        model = build_model(name, **SMALL, attention=attention).eval()
        nn.init.normal_(model.classifier.weight)
        forwards, backwards = model(x_BTCHW).logits_BK, model(x_BTCHW.flip(1)).logits_BK
        assert torch.allclose(forwards, backwards, atol=1e-4, rtol=1e-4) != sees_order, (name, attention)


@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize("mode", ["bidirectional", "online"])
def test_shift_values_and_gradient(mode: str, num_frames: int) -> None:
    x_NCHW = torch.randn(2 * num_frames, 16, 1, 2, dtype=torch.float64, requires_grad=True)
    out_BTCHW = temporal_shift(x_NCHW, num_frames, 8, mode).unflatten(0, (2, num_frames))
    x_BTCHW = x_NCHW.detach().unflatten(0, (2, num_frames))
    source = {0: 1, 1: 1, 2: -1, 3: -1} if mode == "bidirectional" else {0: -1, 1: -1}
    for t in range(num_frames):
        for c in range(16):
            at = t + source.get(c, 0)
            expected = x_BTCHW[:, at, c] if 0 <= at < num_frames else torch.zeros(2, 1, 2, dtype=torch.float64)
            torch.testing.assert_close(out_BTCHW[:, t, c], expected)
    assert torch.autograd.gradcheck(lambda x: temporal_shift(x, num_frames, 8, mode), (x_NCHW,))


def test_online_shift_never_looks_ahead() -> None:
    model = build_model("tsm", **SMALL, options={"shift_mode": "online"}).eval()
    x_BTCHW = torch.randn(1, 5, 3, 32, 32)
    other_BTCHW = x_BTCHW.clone()
    other_BTCHW[:, 3:] = 0
    same = [
        torch.equal(a, b) for a, b in zip(model(x_BTCHW).features[0][0], model(other_BTCHW).features[0][0], strict=True)
    ]
    assert same == [True, True, True, False, False]


def test_refinement_equations_7_and_8() -> None:
    """Compared with the equations written for each frame, with adaptive pooling as plain means."""
    afr = AttentionGuidedRefinement(3, 5).double()
    x_BTCHW = torch.randn(2, 3, 5, 2, 3, dtype=torch.float64)
    masks = [torch.rand(2, 3, 2 * k, 3 * k, dtype=torch.float64) for k in (4, 2, 1)]
    out_BTCHW = afr(x_BTCHW, masks)
    weight_CN, bias_C = afr.conv.weight[:, :, 0, 0], afr.conv.bias
    for b in range(2):
        for t in range(3):
            for h in range(2):
                for w in range(3):
                    ms_N = torch.stack(
                        [
                            m[b, t, h * k : (h + 1) * k, w * k : (w + 1) * k].mean()
                            for m, k in zip(masks, (4, 2, 1), strict=True)
                        ]
                    )
                    expected_C = x_BTCHW[b, t, :, h, w] + (weight_CN @ ms_N + bias_C).clamp(min=0)
                    torch.testing.assert_close(out_BTCHW[b, t, :, h, w], expected_C)


def test_refinement_takes_the_last_blocks_mask_of_each_stage() -> None:
    model = build_model("tsm", backbone="resnet18", num_classes=4, attention={"kind": "w3", "start": "plain"}).eval()
    seen: list[Tensor] = []
    for stage in model.stages():
        stage[-1].attention.register_forward_hook(lambda module, inputs, out: seen.append(out.mask_BTHW))
    plain: list[Tensor] = []
    model.stages()[-1][-1].register_forward_hook(lambda module, inputs, out: plain.append(out[0]))
    features_BTCHW = model(torch.randn(1, 3, 3, 64, 64)).features[0]
    assert [tuple(mask.shape) for mask in seen] == [(1, 3, 16, 16), (1, 3, 8, 8), (1, 3, 4, 4), (1, 3, 2, 2)]
    expected = model.refinement(plain[0].unflatten(0, (1, 3)), seen)
    torch.testing.assert_close(features_BTCHW, expected)
    assert not torch.allclose(features_BTCHW, plain[0].unflatten(0, (1, 3)))


def test_refinement_switch() -> None:
    assert build_model("tsm", **W3_SMALL).refinement is not None
    assert build_model("tsm", **W3_SMALL, refinement=False).refinement is None
    assert build_model("tsm", **SMALL).refinement is None
    assert build_model("tsm", **SMALL, attention={"kind": "w3", "spatial": False}).refinement is None
    with pytest.raises(ValueError, match="needs an attention with spatial masks"):
        build_model("tsm", **SMALL).add_refinement()


def test_classifier() -> None:
    model = build_model("tsm", backbone="resnet18", num_classes=500)
    assert isinstance(model.classifier, nn.Linear)
    assert {id(p) for p in model.classifier_parameters()} == {id(model.classifier.weight), id(model.classifier.bias)}
    assert model.classifier.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert model.classifier.bias.abs().max() == 0
    assert not [name for name in model.state_dict() if ".fc." in name]


def test_dropout_is_per_frame() -> None:
    model = build_model("tsn", **SMALL, dropout=0.5).train()
    seen: list[Tensor] = []
    model.classifier.dropout.register_forward_hook(lambda module, inputs, out: seen.append(out))
    model(torch.randn(2, 4, 3, 32, 32))
    assert seen[0].shape == (2, 4, 128)


def test_bf16_autocast_trains() -> None:
    model = build_model("tsm", **W3_SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(torch.randn(2, 4, 3, 32, 32))
    F.cross_entropy(out.logits_BK.float(), torch.tensor([0, 1])).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_channels_last_gives_the_same() -> None:
    model = build_model("tsm", **W3_SMALL)
    x_BTCHW = torch.randn(2, 4, 3, 32, 32)
    expected = model.eval()(x_BTCHW)
    last = model.to(memory_format=torch.channels_last)
    x_BTCHW = x_BTCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 4))
    out = last(x_BTCHW)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    assert out.features[0].flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_compile_fullgraph() -> None:
    model = build_model("tsm", **W3_SMALL, dropout=0.0)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x_BTCHW = torch.randn(2, 4, 3, 32, 32)
    model.eval()
    expected = model(x_BTCHW)
    torch.testing.assert_close(compiled(x_BTCHW), expected, atol=1e-4, rtol=1e-4)
    compiled(x_BTCHW).logits_BK.sum().backward()
    grads = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    model(x_BTCHW).logits_BK.sum().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(grads[key], parameter.grad, atol=1e-4, rtol=1e-3, msg=key)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("tsx", {}, "unknown model 'tsx'; did you mean 'tsn'\\? known: tsm, tsn, "),
        ("tsm", {"backbone": "alexnet"}, "unknown backbone 'alexnet'; known: resnet18"),
        ("tsm", {"num_classes": 0}, "num_classes=0"),
        ("tsm", {"dropout": 1.0}, "dropout=1.0"),
        ("tsm", {"options": {"shift_div": 1}}, "shift_div=1"),
        ("tsm", {"options": {"shift_mode": "both"}}, "shift_mode='both': must be one of bidirectional, online"),
        ("tsm", {"attention": {"kind": "w4"}}, "unknown kind 'w4'"),
        ("tsm", {"attention": {"kind": "w3", "r": 2}}, "unknown option r; known: reduction"),
    ],
)
def test_errors(name: str, options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build_model(name, **(SMALL | options))


def test_input_errors() -> None:
    model = build_model("tsm", **SMALL)
    with pytest.raises(ValueError, match=r"must be \[B, T, 3, H, W\]"):
        model(torch.randn(2, 3, 4, 32, 32))
    with pytest.raises(ValueError, match="must be float"):
        model(torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8))

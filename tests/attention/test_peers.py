"""CBAM and the non-local block, compared with the equations of their papers."""

import pytest
import torch
from torch import nn

from w3ray.attention import CBAMConfig, NonLocalConfig, add_attention, attention_config
from w3ray.attention.cbam import CBAM
from w3ray.attention.nonlocal_block import NonLocal
from w3ray.models import build_model
from w3ray.recipe import load_recipe


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def features(B=2, T=3, C=8, H=6, W=4):
    return torch.randn(B, T, C, H, W, dtype=torch.float64)


def test_cbam_is_its_equations_frame_by_frame():
    cbam = CBAM(8, CBAMConfig(reduction=4, spatial_kernel=3, start="plain")).double()
    x_BTCHW = features()
    expected = torch.empty_like(x_BTCHW)
    mlp = nn.Sequential(cbam.channel.reduce, nn.ReLU(), cbam.channel.expand)
    for b in range(2):
        for t in range(3):
            frame = x_BTCHW[b, t]
            channel = torch.sigmoid(mlp(frame.mean((1, 2))) + mlp(frame.amax((1, 2))))
            frame = frame * channel[:, None, None]
            pooled = torch.stack([frame.mean(0), frame.amax(0)])
            expected[b, t] = frame * torch.sigmoid(cbam.spatial.frame(pooled[None])[0])
    out = cbam(x_BTCHW)
    torch.testing.assert_close(out.x_BTCHW, expected)
    assert out.mask_BTHW.shape == (2, 3, 6, 4)
    assert not [name for name, _ in cbam.named_parameters() if "time" in name], "each frame separately"


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("pool", ["none", "input", "output"])
def test_the_non_local_block_is_its_equations(pool, scale):
    block = NonLocal(8, NonLocalConfig(pool=pool, scale=scale)).double().eval()
    nn.init.normal_(block.norm.weight)
    x_BTCHW = features()
    expected = torch.empty_like(x_BTCHW)
    for b in range(2):
        frames = x_BTCHW[b]
        keys = nn.functional.max_pool2d(frames, 2) if pool == "input" else frames
        phi, g = block.phi(keys), block.g(keys)
        if pool == "output":
            phi, g = nn.functional.max_pool2d(phi, 2), nn.functional.max_pool2d(g, 2)
        theta, phi, g = (each.transpose(0, 1).flatten(1) for each in (block.theta(frames), phi, g))
        weights = torch.softmax(theta.T @ phi * (0.5 if scale else 1.0), dim=1)  # 4 inner channels: 4 ** -0.5
        y = (g @ weights.T).unflatten(1, (3, 6, 4)).transpose(0, 1)
        expected[b] = block.norm(block.expand(y)) + frames
    out = block(x_BTCHW)
    torch.testing.assert_close(out.x_BTCHW, expected)
    assert out.mask_BTHW is None


def test_where_it_pools_makes_different_functions():
    block = NonLocal(8).double().eval()
    nn.init.normal_(block.norm.weight)
    outs = []
    for pool in ("none", "input", "output"):
        other = NonLocal(8, NonLocalConfig(pool=pool)).double().eval()
        other.load_state_dict(block.state_dict())
        outs.append(other(features_once).x_BTCHW)
    assert not any(torch.allclose(outs[i], outs[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


features_once = torch.randn(1, 2, 8, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_authors_start():
    block = NonLocal(64, NonLocalConfig(weight_start="gaussian"))
    for convolution in (block.theta, block.phi, block.g, block.expand):
        assert convolution.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert not convolution.bias.any()
    assert not block.norm.weight.any()


@pytest.mark.parametrize("weight_start", ["torch", "gaussian"])
def test_the_non_local_block_starts_as_the_identity_and_sees_other_frames(weight_start):
    block = NonLocal(8, NonLocalConfig(weight_start=weight_start)).double().eval()
    x_BTCHW = features(B=1)
    torch.testing.assert_close(block(x_BTCHW).x_BTCHW, x_BTCHW, rtol=0, atol=0)
    nn.init.ones_(block.norm.weight)
    nn.init.normal_(block.theta.weight)
    other = x_BTCHW.clone()
    other[:, 2] += 1.0
    assert not torch.allclose(block(other).x_BTCHW[:, 0], block(x_BTCHW).x_BTCHW[:, 0])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_non_local_block_takes_maps_of_any_size(size):
    block = NonLocal(4)
    out = block(torch.randn(2, 3, 4, size, size, requires_grad=True)).x_BTCHW
    assert out.shape == (2, 3, 4, size, size)
    out.sum().backward()


def entered(model) -> list[str]:
    return sorted({name.split(".attention")[0] for name in model.state_dict() if ".attention." in name})


def test_which_blocks_are_entered():
    """Non-local enters five blocks of a ResNet-50, as in its paper. CBAM enters all blocks."""
    nonlocal50 = build_model("tsm", backbone="resnet50", num_classes=4, attention={"kind": "nonlocal"})
    assert entered(nonlocal50) == [f"backbone.layer{stage}" + f".{block}" for stage, block in
                                   ((2, 0), (2, 2), (3, 0), (3, 2), (3, 4))]  # fmt: skip
    cbam50 = build_model("tsm", backbone="resnet50", num_classes=4, attention={"kind": "cbam"})
    assert len(entered(cbam50)) == 16
    authors = {"kind": "nonlocal", "first": 2}
    nonlocal50 = build_model("tsm", backbone="resnet50", num_classes=4, attention=authors)
    assert entered(nonlocal50) == [f"backbone.layer{stage}" + f".{block}" for stage, block in
                                   ((2, 1), (2, 3), (3, 1), (3, 3), (3, 5))]  # fmt: skip


@pytest.mark.parametrize(("kind", "refines"), [("cbam", True), ("nonlocal", False), ("w3", True)])
def test_a_recipe_of_each_kind_makes_a_model_that_trains(kind, refines):
    recipe = load_recipe("quickstart", [f"model.attention={{kind: {kind}}}"])
    stage = recipe.resolved_stages()[0]
    assert stage.model.refines is refines
    model = build_model(**{**stage.model.build_arguments(), "weights": None, "num_classes": 4})
    assert model.has_spatial_masks() is refines
    output = model(torch.randn(2, 8, 3, 40, 40))
    output.logits_BK.sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "attention" in name)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("cbam", {"spatial_kernel": 4}, "CBAM: spatial_kernel=4: must be odd"),
        ("cbam", {"temporal_kernel": 3}, "CBAM: unknown option temporal_kernel; .*known: reduction"),
        ("cbam", {"placement": "below"}, "CBAM: placement='below'"),
        ("nonlocal", {"reduction": 0}, "non-local: reduction=0"),
        ("nonlocal", {"subsample": 1}, "non-local: subsample=1"),
        ("nonlocal", {"pool": "outside"}, "non-local: pool='outside': must be one of none, input, output"),
        ("nonlocal", {"scale": 2}, "non-local: scale=2: must be true or false"),
        ("nonlocal", {"weight_start": "zero"}, "non-local: weight_start='zero'"),
        ("nonlocal", {"pool": "none", "subsample": True}, "non-local: pool and subsample are both given"),
    ],
)
def test_wrong_options(kind, options, said):
    with pytest.raises(ValueError, match=said):
        attention_config({"kind": kind, **options})
    with pytest.raises(ValueError, match=said):
        add_attention(build_model("tsm", backbone="resnet_small", num_classes=4), kind, **options)

"""An attention enters every residual block and leaves the rest of the network unchanged."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from w3ray.attention import add_attention
from w3ray.attention.blocks import ResidualBlock
from w3ray.models import build_model

NETWORKS_2D = {"resnet18": 8, "resnet34": 16, "resnet50": 16, "resnet101": 33}
NETWORKS_3D = {"r3d_18": 8, "mc3_18": 8, "r2plus1d_18": 8}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def silence(model: nn.Module) -> None:
    """Open all gates fully, so that attention changes nothing."""
    for block in model.modules():
        if isinstance(block, ResidualBlock):
            for gate in (block.attention.channel.time2, block.attention.spatial.time2):
                nn.init.zeros_(gate.weight)
                nn.init.constant_(gate.bias, 100.0)


@pytest.mark.parametrize("name", NETWORKS_2D)
def test_torchvision_2d(name: str) -> None:
    model = getattr(torchvision.models, name)(num_classes=5).eval()
    clips_NCHW = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(clips_NCHW)
        names = list(model.state_dict())
        assert add_attention(model, "w3", num_frames=2, start="near_open") is model
        assert [key for key in model.state_dict() if ".attention." not in key] == names
        assert "layer1.0.attention.channel.reduce.weight" in model.state_dict()
        blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
        assert len(blocks) == NETWORKS_2D[name]
        assert not torch.allclose(model(clips_NCHW), expected, rtol=1e-3, atol=1e-3)
        silence(model)
        torch.testing.assert_close(model(clips_NCHW), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS_3D)
@pytest.mark.parametrize("placement", ["before", "after"])
def test_torchvision_3d(name: str, placement: str) -> None:
    model = getattr(torchvision.models.video, name)(num_classes=5).eval()
    clips_BCTHW = torch.randn(2, 3, 5, 16, 16)
    with torch.no_grad():
        expected = model(clips_BCTHW)
        names = list(model.state_dict())
        add_attention(model, placement=placement, start="near_open")
        assert [key for key in model.state_dict() if ".attention." not in key] == names
        assert len([m for m in model.modules() if isinstance(m, ResidualBlock)]) == NETWORKS_3D[name]
        assert not torch.allclose(model(clips_BCTHW), expected, rtol=1e-3, atol=1e-3)
        silence(model)
        torch.testing.assert_close(model(clips_BCTHW), expected, rtol=1e-4, atol=1e-4)


def test_plain_adoption_changes_nothing() -> None:
    """Our TSN around a torchvision network gives the same features as that network."""
    backbone = torchvision.models.resnet18(num_classes=5)
    tsn = build_model("tsn", backbone="resnet18", num_classes=5, dropout=0.0).eval()
    state = {key: value for key, value in backbone.state_dict().items() if not key.startswith("fc.")}
    tsn.backbone.load_state_dict(state)
    tsn.classifier.load_state_dict(backbone.fc.state_dict())
    clips_BTCHW = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        expected = backbone.eval()(clips_BTCHW.flatten(0, 1)).unflatten(0, (2, 3)).mean(dim=1)
        torch.testing.assert_close(tsn(clips_BTCHW).logits_BK, expected)


@pytest.mark.parametrize("kind", ["resnet18", "r3d_18"])
@pytest.mark.parametrize("placement", ["before", "after"])
def test_placement(kind: str, placement: str) -> None:
    """Compared with a block written by hand."""
    if kind == "resnet18":
        model = add_attention(torchvision.models.resnet18(), num_frames=3, placement=placement)
        block, x = model.layer2[0].eval(), torch.randn(6, 64, 8, 8)
        branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))).unflatten(0, (2, 3))
        identity = block.downsample(x).unflatten(0, (2, 3))
    else:
        model = add_attention(torchvision.models.video.r3d_18(), placement=placement)
        block, x = model.layer2[0].eval(), torch.randn(2, 64, 3, 8, 8)
        branch = block.conv2(block.conv1(x)).transpose(1, 2)
        identity = block.downsample(x).transpose(1, 2)
    if placement == "before":
        expected = torch.relu(block.attention(branch).x_BTCHW + identity)
    else:
        expected = block.attention(torch.relu(branch + identity)).x_BTCHW
    expected = expected.flatten(0, 1) if kind == "resnet18" else expected.transpose(1, 2)
    torch.testing.assert_close(block(x), expected)


def test_deepcopy_and_sync_batch_norm() -> None:
    model = build_model("tsm", backbone="resnet_small", num_classes=4, attention={"kind": "w3"}).eval()
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(x_BTCHW), model(x_BTCHW))
    nn.init.constant_(twin.backbone.layer1[0].attention.channel.time2.bias, -9.0)
    assert not torch.allclose(twin(x_BTCHW).features[0], model(x_BTCHW).features[0])
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert list(synced.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(synced(x_BTCHW), model(x_BTCHW))


def test_device_type_and_mode_follow_the_model() -> None:
    model = add_attention(torchvision.models.resnet18().double().eval(), num_frames=2)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert not any(module.training for module in model.modules())


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"torchvision.models.vgg.VGG has no known sites; supported: torchvision"):
        add_attention(torchvision.models.vgg11())
    with pytest.raises(ValueError, match="pass num_frames"):
        add_attention(torchvision.models.resnet18())
    with pytest.raises(ValueError, match="num_frames=0"):
        add_attention(torchvision.models.resnet18(), num_frames=0)
    with pytest.raises(ValueError, match="unknown kind 'w4'; known: w3"):
        add_attention(torchvision.models.resnet18(), "w4", num_frames=2)
    with pytest.raises(ValueError, match="already has attention"):
        add_attention(add_attention(torchvision.models.resnet18(), num_frames=2), num_frames=2)
    model = add_attention(torchvision.models.resnet18(), num_frames=3)
    with pytest.raises(ValueError, match="4 frames in the batch do not divide into clips of 3"):
        model(torch.randn(4, 3, 32, 32))


def test_unknown_block_changes_nothing() -> None:
    model = torchvision.models.resnet18()
    model.layer4[1] = nn.Identity()
    with pytest.raises(
        ValueError, match=r"unknown residual block torch.nn.modules.linear.Identity; known: .*BasicBlock"
    ):
        add_attention(model, num_frames=2)
    assert not any(isinstance(module, ResidualBlock) for module in model.modules())


def test_wrong_option_changes_nothing() -> None:
    model = torchvision.models.resnet18()
    with pytest.raises(ValueError, match="reduction=0"):
        add_attention(model, num_frames=2, reduction=0)
    assert not any(isinstance(module, ResidualBlock) for module in model.modules())

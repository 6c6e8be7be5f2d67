"""Networks that read stacks of optical flow start from weights for RGB."""

import pytest
import torch

from w3ray.models import build_model
from w3ray.models.profiling import profile
from w3ray.training.optimizer import parameter_groups


@pytest.mark.parametrize(("name", "backbone"), [("tsm", "resnet18"), ("tsn", "bninception"), ("r3d_18", None)])
def test_weights_for_rgb_are_averaged(tmp_path, name, backbone):
    rgb = build_model(name, backbone=backbone, num_classes=3)
    torch.save(rgb.state_dict(), tmp_path / "rgb.pth")
    flow = build_model(name, backbone=backbone, num_classes=3, flow_fields=5, weights=str(tmp_path / "rgb.pth"))
    assert flow.pixels.channels == 10
    assert flow.pixels.mean == (0.5,) * 10
    changed = [
        key for key, value in rgb.state_dict().items() if flow.state_dict()[key].shape != value.shape
    ]  # the first convolution alone
    (key,) = changed
    weight = flow.state_dict()[key]
    for channel in range(10):
        torch.testing.assert_close(weight[:, channel], rgb.state_dict()[key].mean(dim=1))
    same = [key for key, value in rgb.state_dict().items() if key not in changed]
    for key in same:
        torch.testing.assert_close(flow.state_dict()[key], rgb.state_dict()[key], rtol=0, atol=0)


def test_weights_for_flow_load_as_they_are(tmp_path):
    torch.manual_seed(0)
    one = build_model("tsn", backbone="resnet18", num_classes=3, flow_fields=2)
    with torch.no_grad():
        one.backbone.conv1.weight.normal_()
    torch.save(one.state_dict(), tmp_path / "flow.pth")
    two = build_model("tsn", backbone="resnet18", num_classes=3, flow_fields=2, weights=str(tmp_path / "flow.pth"))
    torch.testing.assert_close(two.backbone.conv1.weight, one.backbone.conv1.weight, rtol=0, atol=0)


def test_cost():
    """ZOO.md, section 1, row 5: 18.46 G for 8 stacks of 5 fields; 16.26 G for RGB."""
    model = build_model("tsn", backbone="bninception", num_classes=174, flow_fields=5)
    assert profile(model, 8, 224).macs / 1e9 == pytest.approx(18.46 - 0.005, rel=1e-3)
    with pytest.raises(ValueError, match=r"must be \[B, T, 10, H, W\]"):
        model(torch.zeros(1, 2, 3, 64, 64))


def test_the_first_convolution_learns_faster():
    """TSN's and TSM's code: 5 times for its weight, 10 times for its bias."""
    model = build_model("tsn", backbone="bninception", num_classes=3, flow_fields=5)
    groups = {group["name"]: group for group in parameter_groups(model, lr=0.1, weight_decay=0.01)}
    assert groups["flow_weight"]["parameter_names"] == ["backbone.conv1.0.weight"]
    assert groups["flow_bias"]["parameter_names"] == ["backbone.conv1.0.bias"]
    assert [groups[f"flow_{part}"]["lr_multiplier"] for part in ("weight", "bias")] == [5.0, 10.0]
    assert [groups[f"flow_{part}"]["weight_decay"] for part in ("weight", "bias")] == [0.01, 0.0]
    rgb = build_model("tsn", backbone="bninception", num_classes=3)
    assert not {"flow_weight", "flow_bias"} & {group["name"] for group in parameter_groups(rgb, lr=1, weight_decay=0)}


@pytest.mark.parametrize("fields", [0, True, "5"])
def test_bad_fields(fields):
    with pytest.raises(ValueError, match=r"flow_fields=.*: must be a whole number >= 1"):
        build_model("tsn", backbone="resnet_small", num_classes=3, flow_fields=fields)

"""Multiply-adds and parameters are counted as in the literature."""

import pytest
import torch

from w3ray.models import build_model, profile

DENSE = {"kind": "w3", "depthwise": False}


@pytest.mark.parametrize(
    ("attention", "num_frames", "gmac"),
    [
        (None, 8, 32.71),
        (None, 16, 65.43),
        ({"kind": "w3"}, 8, 32.77),
        ({"kind": "w3"}, 16, 65.54),
        (DENSE, 8, 33.74),
        (DENSE, 16, 67.47),
    ],
)
def test_resnet50_at_224(attention: dict | None, num_frames: int, gmac: float) -> None:
    """TSM on ResNet-50 with 1000 classes. W3 without AFR (AFR adds 0.4 MMAC per frame)."""
    with torch.device("meta"):
        model = build_model("tsm", num_classes=1000, attention=attention, refinement=False)
    assert round(profile(model, num_frames, 224).macs / 1e9, 2) == gmac


def test_parameters_of_w3() -> None:
    def millions(**options: object) -> float:
        with torch.device("meta"):
            return profile(build_model("tsm", num_classes=1000, **options), 8, 224).parameters / 1e6

    plain = millions()
    assert plain == pytest.approx(25.557, abs=1e-3)
    assert millions(attention={"kind": "w3"}, refinement=False) - plain == pytest.approx(2.65, abs=0.01)
    assert millions(attention=DENSE, refinement=False) - plain == pytest.approx(123.28, abs=0.01)


@pytest.mark.parametrize("name", ["tsm", "r3d_18"])
def test_parts_add_up(name: str) -> None:
    model = build_model(name, backbone="resnet_small", num_classes=10, attention={"kind": "w3"})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = profile(model, 8, 64)
    names = ["stem", "stage1", "stage2", "stage3", "stage4", "attention", "refinement", "classifier"]
    assert [part.name for part in result.parts] == names
    assert sum(part.macs for part in result.parts) == result.macs
    assert sum(part.parameters for part in result.parts) == result.parameters
    assert result.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert all(part.macs > 0 and part.parameters > 0 for part in result.parts)
    torch.testing.assert_close(model.state_dict(), before)
    assert model.training


def test_a_convolution_by_hand() -> None:
    model = build_model("tsn", backbone="resnet_small", num_classes=10)
    parts = {part.name: part for part in profile(model, 3, 48).parts}
    assert parts["stem"].macs == 3 * (3 * 9 * 16) * 24 * 24
    assert parts["stage1"].macs == 3 * 2 * (16 * 9 * 16) * 24 * 24
    assert parts["classifier"].macs == 3 * 128 * 10


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_frames=0"):
        profile(build_model("tsn", backbone="resnet_small", num_classes=2), 0, 32)

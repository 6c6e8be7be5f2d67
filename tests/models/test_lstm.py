"""VGG16, and the LSTM over frames, against the figures of their specification and torchvision's files."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights, profile


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_cost() -> None:
    """247.3 G and 121.96 M at 83 classes (16 frames of 224 pixels); W3 at 5 sites adds 0.17 G."""
    with torch.device("meta"):
        plain, w3 = (
            build_model(
                "lstm",
                backbone="vgg16",
                num_classes=83,
                options={"fc6": 4096},
                attention=attention,
                refinement=False,
            )
            for attention in (None, {"kind": "w3"})
        )
    costs = [profile(model, 16, 224) for model in (plain, w3)]
    assert costs[0].parameters == 121_959_059
    assert costs[0].macs == pytest.approx(247.3e9, rel=1e-3)
    assert costs[1].macs - costs[0].macs == pytest.approx(0.17e9, rel=0.05)
    assert [part.name for part in costs[0].parts] == ["stem", *(f"stage{i}" for i in range(1, 6)), "classifier"]
    # The LSTM itself: 16 steps of four gates over 4096 inputs and 256 states.
    of_lstm = 16 * 4 * 256 * (4096 + 256)
    head = next(part.macs for part in costs[0].parts if part.name == "classifier")
    assert head == of_lstm + 16 * (25_088 * 4096 + 256 * 83)


def test_the_head_is_fc6_then_lstm_then_a_mean_over_steps() -> None:
    model = build_model("lstm", backbone="resnet_small", num_classes=4, options={"fc6": 10, "units": 6}).eval()
    head = model.classifier
    features_BTCHW = torch.randn(2, 3, 128, 14, 14)
    pooled_NF = nn.functional.max_pool2d(features_BTCHW.flatten(0, 1), 2).flatten(1)
    x_BTF = torch.relu(head.fc6(pooled_NF)).unflatten(0, (2, 3))
    hidden = cell = torch.zeros(2, 6)
    scores = []
    for t in range(3):
        gates = x_BTF[:, t] @ head.lstm.weight_ih_l0.T + head.lstm.bias_ih_l0
        gates = gates + hidden @ head.lstm.weight_hh_l0.T + head.lstm.bias_hh_l0
        take, keep, new, show = gates.chunk(4, dim=1)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        hidden = show.sigmoid() * cell.tanh()
        scores.append(head.last(hidden))
    torch.testing.assert_close(head(features_BTCHW), torch.stack(scores).mean(dim=0))


def test_it_sees_order() -> None:
    model = build_model("lstm", backbone="resnet_small", num_classes=4).eval()
    nn.init.normal_(model.classifier.last.weight)
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    assert not torch.allclose(model(x_BTCHW).logits_BK, model(x_BTCHW.flip(1)).logits_BK, atol=1e-3)
    assert model.classifier.fc6 is None
    last = {id(parameter) for parameter in model.classifier_parameters()}
    assert {id(model.classifier.last.weight), id(model.classifier.last.bias)} == last


def small_vgg16() -> nn.Module:
    """torchvision's VGG16 with small fully connected layers: the convolutions are the real ones."""
    network = torchvision_models.vgg16()
    network.classifier[0] = nn.Linear(512 * 7 * 7, 8)
    network.classifier[3] = nn.Linear(8, 8)
    network.classifier[6] = nn.Linear(8, 5)
    return network.eval()


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    torch.manual_seed(3)
    network = small_vgg16()
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(network.state_dict(), path)
    return path, network


def test_torchvision_weights(torchvision_file: tuple[Path, nn.Module]) -> None:
    path, network = torchvision_file
    model = build_model("tsn", backbone="vgg16", num_classes=5, weights=str(path)).eval()
    x_NCHW = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = network.features[:-1](x_NCHW)  # without the last pool
        torch.testing.assert_close(model(x_NCHW.unsqueeze(1)).features[0][:, 0], expected)
    loaded = load_weights(model, str(path))
    assert loaded.layout == "VGG16"
    assert loaded.left_out == tuple(f"classifier.{i}.{tensor}" for i in (0, 3, 6) for tensor in ("weight", "bias"))
    assert loaded.fresh == ("classifier.weight", "classifier.bias")


def test_torchvision_weights_with_fc6(torchvision_file: tuple[Path, nn.Module]) -> None:
    path, network = torchvision_file
    model = build_model("lstm", backbone="vgg16", num_classes=5, options={"fc6": 8, "units": 4})
    loaded = load_weights(model, str(path))
    assert torch.equal(model.classifier.fc6.weight, network.classifier[0].weight)
    assert loaded.left_out == tuple(f"classifier.{i}.{tensor}" for i in (3, 6) for tensor in ("weight", "bias"))
    assert all(name.startswith(("classifier.lstm.", "classifier.last.")) for name in loaded.fresh)
    state = dict(network.state_dict(), odd=torch.zeros(1))
    del state["features.5.bias"]
    torch.save(state, path.parent / "odd.pth")
    with pytest.raises(InputError, match=r"1 missing \(backbone.block2.convs.0.bias\); 1 unexpected \(odd\)"):
        load_weights(model, str(path.parent / "odd.pth"))


def test_weights_for_other_pixels_are_refused(torchvision_file: tuple[Path, nn.Module]) -> None:
    path, network = torchvision_file
    state = {key: value * float("nan") if "classifier" in key else value for key, value in network.state_dict().items()}
    torch.save(state, path.parent / "features.pth")
    with pytest.raises(InputError, match=r"IMAGENET1K_FEATURES expect other pixels .* use VGG16_Weights.IMAGENET1K_V1"):
        build_model("tsn", backbone="vgg16", num_classes=5, weights=str(path.parent / "features.pth"))


def test_a_temporal_module_enters_every_site_but_the_one_that_reads_pixels() -> None:
    with torch.device("meta"):
        for name in ("tsm", "tam"):
            model = build_model(name, backbone="vgg16", num_classes=2)
            moved = [key for key, one in model.named_modules() if getattr(one, "temporal", None) is not None]
            assert moved == [f"backbone.block{number}" for number in range(2, 6)]


def test_wrong_options() -> None:
    for name, value, least in (("units", 0, 1), ("fc6", -1, 0)):
        with pytest.raises(ValueError, match=f"LSTM: {name}={value}: must be a whole number >= {least}"):
            build_model("lstm", backbone="resnet_small", num_classes=2, options={name: value})

"""A fresh network with unit gates computes the same bits as the network without attention, and it learns."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from w3ray.attention import W3Config, add_attention, attention_config, attention_from_before
from w3ray.models import build_model
from w3ray.models.weights import load_weights

KINDS = [
    {"kind": "w3"},
    {"kind": "w3", "gain": "norm"},
    {"kind": "w3", "borders": "replicate"},
    {"kind": "w3", "placement": "after"},
    {"kind": "w3", "temporal": False},
    {"kind": "w3", "channel": False, "gain": "norm"},
    {"kind": "w3", "spatial": False, "gain": "norm"},
    {"kind": "w3", "temporal_norm": "batch"},
    {"kind": "w3", "causal": True},
    {"kind": "cbam"},
    {"kind": "cbam", "gain": "norm"},
]


def pair(name: str, attention: dict[str, Any], **options: Any) -> tuple[nn.Module, nn.Module]:
    """The same network without and with attention."""
    models = []
    for one in (None, attention):
        torch.manual_seed(0)
        models.append(build_model(name, num_classes=5, attention=one, dropout=0.0, **options))
    return models[0], models[1]


@pytest.mark.parametrize("attention", KINDS, ids=str)
@pytest.mark.parametrize("refinement", [False, True])
def test_a_fresh_network_is_the_plain_one(attention: dict[str, Any], refinement: bool) -> None:
    """Also in training mode: logits, features, gradients of the backbone and running statistics are the same bits."""
    plain, attended = pair("tsm", attention, backbone="resnet_small", refinement=refinement)
    clips_BTCHW = torch.randn(2, 4, 3, 32, 32)
    for training in (True, False):
        first, second = (model.train(training)(clips_BTCHW) for model in (plain, attended))
        assert torch.equal(first.logits_BK, second.logits_BK)
        assert torch.equal(first.features[0], second.features[0])
    gradients = []
    for model in (plain, attended):
        model.train()(clips_BTCHW).logits_BK.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if "attention" not in name})
    exact = {name for name in gradients[0] if attention.get("gain") != "norm" or "bn2" not in name}
    for name in exact:
        torch.testing.assert_close(gradients[1][name], gradients[0][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18"])
@pytest.mark.parametrize("gain", ["gate", "norm"])
def test_a_fresh_3d_network_is_the_plain_one(name: str, gain: str) -> None:
    plain, attended = pair(name, {"kind": "w3", "gain": gain})
    clips_BTCHW = torch.randn(1, 8, 3, 24, 24)
    with torch.no_grad():
        first, second = (model.eval()(clips_BTCHW) for model in (plain, attended))
    assert torch.equal(first.logits_BK, second.logits_BK)
    assert torch.equal(first.features[0], second.features[0])


@pytest.mark.parametrize("gain", ["gate", "norm"])
def test_weights_of_another_training_keep_their_function(gain: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    trained = torchvision.models.resnet18()
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    plain, attended = pair(
        "tsn", {"kind": "w3", "gain": gain}, backbone="resnet18", weights=str(tmp_path / "weights.safetensors")
    )
    attended.classifier.load_state_dict(plain.classifier.state_dict())
    clips_BTCHW = torch.randn(1, 4, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(plain.eval()(clips_BTCHW).logits_BK, attended.eval()(clips_BTCHW).logits_BK)
    # A network of the user's own, to which add_attention is applied, too.
    twin = add_attention(copy.deepcopy(trained), num_frames=4, gain=gain)
    with torch.no_grad():
        frames_NCHW = clips_BTCHW.flatten(0, 1)
        assert torch.equal(trained.eval()(frames_NCHW), twin.eval()(frames_NCHW))


def test_gates_and_refinement_learn_from_the_start() -> None:
    _, model = pair("tsm", {"kind": "w3", "reduction": 2}, backbone="resnet_small")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)  # moves every parameter with a gradient
    labels_B = torch.tensor([0, 1, 2, 3])
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(4, 4, 3, 32, 32)).logits_BK, labels_B).backward()
        optimizer.step()
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


@pytest.mark.parametrize("norm", [nn.Identity(), nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64, affine=False)])
def test_the_gain_needs_a_norm_that_can_hold_it(norm: nn.Module) -> None:
    model = torchvision.models.resnet18()
    model.layer1[1].bn2 = norm
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=f"ends in {type(norm).__name__}, which has no scale and shift to hold the gain"
    ):
        add_attention(model, num_frames=2, gain="norm")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    add_attention(model, num_frames=2, gain="gate")


def test_weights_of_the_other_gates_are_refused(tmp_path: Path) -> None:
    from w3ray.errors import InputError

    old, new = (
        build_model("tsm", backbone="resnet_small", num_classes=5, attention={"kind": "w3", "start": start})
        for start in ("near_open", "unit")
    )
    save_file(old.state_dict(), tmp_path / "old.safetensors")
    save_file(new.state_dict(), tmp_path / "new.safetensors")
    with pytest.raises(
        InputError, match=r"gates are sigmoid\(z\), the model's are 2 sigmoid\(z\).*start=near_open.*--gain gate"
    ):
        load_weights(new, str(tmp_path / "old.safetensors"))
    with pytest.raises(
        InputError, match=r"gates are 2 sigmoid\(z\), the model's are sigmoid\(z\).*start=unit.*--gain norm"
    ):
        load_weights(old, str(tmp_path / "new.safetensors"))
    load_weights(new, str(tmp_path / "new.safetensors"))


@pytest.mark.parametrize(
    ("options", "before"),
    [
        ({"kind": "w3", "start": "near_open"}, {"kind": "w3"}),
        ({"kind": "w3", "reduction": 16, "start": "near_open"}, {"kind": "w3"}),
        ({"kind": "w3", "reduction": 8, "identity_start": True}, {"kind": "w3", "reduction": 8}),
        ({"kind": "w3", "start": "plain"}, {"kind": "w3", "identity_start": False}),
        ({"kind": "cbam", "start": "plain", "borders": "zeros"}, {"kind": "cbam"}),
        ({"kind": "nonlocal"}, {"kind": "nonlocal"}),
        ({"kind": "w3", "start": "unit", "gain": "gate"}, {"kind": "w3", "start": "unit"}),
    ],
)
def test_hashes_of_before_are_kept(options: dict[str, Any], before: dict[str, Any]) -> None:
    assert attention_config(options).as_before() == before
    assert attention_from_before(before) == attention_config(options)


def test_all_options_are_written_out() -> None:
    written = attention_config({"kind": "w3"}).written_out()
    assert written["start"] == "unit"
    assert written["reduction"] == 16
    assert attention_config(written) == attention_config({}) == W3Config()
    assert attention_from_before({"kind": "w3"}).start == "near_open"
    assert attention_from_before({"kind": "cbam"}).start == "plain"
    assert attention_from_before({"kind": "w3", "identity_start": False}).start == "plain"

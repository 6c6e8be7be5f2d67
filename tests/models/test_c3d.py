"""C3D against the figures of its specification, its equations, and its public files."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights, profile
from w3ray.models.clip_options import C3DOptions

SMALL = {"width": 4, "size": 32}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_cost() -> None:
    """19.30 and 38.55 G, 78.34 M at 83 classes (8 and 16 frames of 112 pixels); W3 adds 0.04 G at 16 frames."""
    with torch.device("meta"):
        plain, w3 = (
            build_model("c3d", num_classes=83, attention=attention, refinement=False)
            for attention in (None, {"kind": "w3"})
        )
    costs = [profile(model, frames, 112) for model, frames in ((plain, 8), (plain, 16), (w3, 16))]
    assert costs[0].parameters == costs[1].parameters == 78_335_827
    assert costs[0].macs == pytest.approx(19.30e9, rel=1e-3)
    assert costs[1].macs == pytest.approx(38.55e9, rel=1e-3)
    assert costs[2].macs - costs[1].macs == pytest.approx(0.04e9, rel=0.01)
    with torch.no_grad():
        maps = plain.eval()(torch.empty(2, 16, 3, 112, 112, device="meta")).features
    assert [one.shape for one in maps] == [(2, 2, 512, 7, 7)]
    assert plain.classifier.fc6.in_features == 8192


def by_hand(state: dict[str, Tensor], x_BCTHW: Tensor) -> Tensor:
    """Fig. 3 from a public file's own keys. The file reads BGR."""
    x_BCTHW = x_BCTHW.flip(1)
    for name in ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b"):
        x_BCTHW = torch.relu(
            F.conv3d(
                x_BCTHW, state[f"backbone.conv{name}.conv.weight"], state[f"backbone.conv{name}.conv.bias"], padding=1
            )
        )
        if name == "1a":
            x_BCTHW = F.max_pool3d(x_BCTHW, (1, 2, 2))
        elif name in ("2a", "3b", "4b"):
            x_BCTHW = F.max_pool3d(x_BCTHW, 2)
    x_BF = F.max_pool3d(x_BCTHW, 2, padding=(0, 1, 1)).flatten(1)
    for name in ("backbone.fc6", "backbone.fc7"):
        x_BF = torch.relu(F.linear(x_BF, state[f"{name}.weight"], state[f"{name}.bias"]))
    return F.linear(x_BF, state["cls_head.fc_cls.weight"], state["cls_head.fc_cls.bias"])


def public_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors under mmaction2's names, with the first convolution for BGR."""
    state = {}
    for key, value in model.state_dict().items():
        if found := re.match(r"backbone\.block(\d)\.convs\.(\d)\.(.*)", key):
            letter = "ab"[int(found[2]) // 2]
            first = found[1] == "1" and found[3] == "weight"
            state[f"backbone.conv{found[1]}{letter}.conv.{found[3]}"] = value.flip(1) if first else value
        else:
            name = key.removeprefix("classifier.")
            state[name.replace("last", "cls_head.fc_cls") if name.startswith("last") else f"backbone.{name}"] = value
    return state


def test_public_weights(tmp_path: Path) -> None:
    theirs, ours = (build_model("c3d", num_classes=5, options=SMALL).double().eval() for _ in range(2))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0.0, 0.2)
    state = public_state(theirs)
    torch.save({"state_dict": state, "meta": {"epoch": 45}}, tmp_path / "c3d.pth")
    loaded = load_weights(ours, str(tmp_path / "c3d.pth"))
    assert (loaded.layout, loaded.loaded, loaded.fresh, loaded.left_out) == ("C3D", 22, (), ())
    x_BTCHW = torch.randn(2, 16, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x_BTCHW).logits_BK, by_hand(state, x_BTCHW.transpose(1, 2)))
    del state["backbone.fc6.bias"]
    state["backbone.fc8.bias"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"1 unexpected \(backbone.fc8.bias\)"):
        load_weights(ours, str(tmp_path / "odd.pth"))


def test_the_file_from_sports_1m_has_no_prefix_and_other_classes(tmp_path: Path) -> None:
    theirs, ours = (build_model("c3d", num_classes=classes, options=SMALL) for classes in (487, 5))
    state = {key.removeprefix("backbone."): value for key, value in public_state(theirs).items()}
    torch.save(state, tmp_path / "c3d_sports1m.pth")
    loaded = load_weights(ours, str(tmp_path / "c3d_sports1m.pth"))
    assert sorted(loaded.left_out) == ["classifier.last.bias", "classifier.last.weight"]
    assert torch.equal(ours.classifier.fc7.weight, theirs.classifier.fc7.weight)


def test_clips_that_it_cannot_take() -> None:
    with pytest.raises(ValueError, match="C3D: clips of 12 frames: this network takes 8 or 16"):
        C3DOptions().check_clip(12, 112)
    with pytest.raises(ValueError, match="C3D: frames of 224 x 224 pixels: this network takes 112 x 112; set"):
        C3DOptions().check_clip(16, 224)
    model = build_model("c3d", num_classes=2, options=SMALL)
    with pytest.raises(ValueError, match="C3D: frames of 48 x 48 pixels: this network takes 32 x 32"):
        model(torch.zeros(1, 8, 3, 32, 48))
    for name, value in (("width", 0), ("size", 15)):
        with pytest.raises(ValueError, match=f"C3D: {name}={value}: must be a whole number"):
            C3DOptions(**{name: value})


def test_its_pixels_are_those_of_its_public_weights() -> None:
    pixels = build_model("c3d", num_classes=2, options=SMALL).pixels
    assert [round(255 * value) for value in (*pixels.mean, *pixels.std)] == [128, 117, 104, 1, 1, 1]

"""Files of the reference TSM with non-local blocks, and what these blocks cost."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from w3ray.errors import InputError
from w3ray.models import build_model, profile
from w3ray.models.weights import load_weights

PLACES = ("layer2.0", "layer3.0")
AS_TSM = {"kind": "nonlocal", "pool": "output"}


class ReferenceNonLocal(nn.Module):
    """The block as TSM's code has it, in three dimensions and with its names; nothing of w3ray."""

    def __init__(self, channels: int, num_frames: int, pools: bool = True) -> None:
        super().__init__()
        inner, self.num_frames = channels // 2, num_frames
        self.theta = nn.Conv3d(channels, inner, 1)
        self.g, self.phi = nn.Conv3d(channels, inner, 1), nn.Conv3d(channels, inner, 1)
        if pools:
            self.g = nn.Sequential(self.g, nn.MaxPool3d((1, 2, 2)))
            self.phi = nn.Sequential(self.phi, nn.MaxPool3d((1, 2, 2)))
        self.W = nn.Sequential(nn.Conv3d(inner, channels, 1), nn.BatchNorm3d(channels))
        nn.init.normal_(self.W[1].weight)
        nn.init.normal_(self.W[1].running_mean, std=0.1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x = x_NCHW.unflatten(0, (-1, self.num_frames)).transpose(1, 2)
        theta, phi, g = (layer(x).flatten(2).transpose(1, 2) for layer in (self.theta, self.phi, self.g))
        y = torch.softmax(theta @ phi.transpose(1, 2), dim=-1) @ g
        z = self.W(y.transpose(1, 2).unflatten(2, x.shape[2:])) + x
        return z.transpose(1, 2).flatten(0, 1)


def reference_file(path: Path, pools: bool = True) -> dict[str, ReferenceNonLocal]:
    """Write a file of a ResNet-18 with the keys of TSM_*_nl.pth. Returns its non-local blocks by place."""
    torch.manual_seed(0)
    state = {}
    for key, value in torchvision.models.resnet18().state_dict().items():
        parts = key.split(".")
        if parts[0].startswith("layer"):
            if parts[2] == "conv1":
                parts.insert(3, "net")
            if ".".join(parts[:2]) in PLACES:
                parts.insert(2, "block")
        if parts[0] != "fc":
            state["module.base_model." + ".".join(parts)] = value
    blocks = {"layer2.0": ReferenceNonLocal(128, 3, pools), "layer3.0": ReferenceNonLocal(256, 3, pools)}
    for place, block in blocks.items():
        state |= {f"module.base_model.{place}.nl.{key}": value for key, value in block.state_dict().items()}
    state |= {"module.new_fc.weight": torch.randn(5, 512) * 0.1, "module.new_fc.bias": torch.randn(5)}
    torch.save({"state_dict": state}, path)
    return {place: block.eval() for place, block in blocks.items()}


@pytest.mark.parametrize(("pools", "pool"), [(True, "output"), (False, "none")])
def test_a_file_with_non_local_blocks_gives_the_same_scores(tmp_path: Path, pools: bool, pool: str) -> None:
    path = str(tmp_path / "TSM_nl.pth")
    blocks = reference_file(Path(path), pools)
    model = build_model("tsm", backbone="resnet18", num_classes=5, attention={"kind": "nonlocal", "pool": pool})
    report = load_weights(model, path)
    held = set(torch.load(path)["state_dict"])
    assert (report.layout, report.loaded, report.left_out, report.fresh) == ("tsm", len(held), (), ())
    plain = build_model("tsm", backbone="resnet18", num_classes=5).eval()
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if ".attention." not in key})
    for place, block in blocks.items():
        plain.get_submodule(f"backbone.{place}").register_forward_hook(
            lambda module, inputs, output, block=block: (block(output[0]), output[1])
        )
    clips_BTCHW = torch.randn(2, 3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(clips_BTCHW).logits_BK, plain(clips_BTCHW).logits_BK)


@pytest.mark.parametrize(
    ("attention", "said"),
    [
        (
            {"kind": "nonlocal"},
            "have pool=output and scale=false, the model's pool=input and scale=false; set model.att",
        ),
        ({**AS_TSM, "scale": True}, "have pool=output and scale=false, the model's pool=output and scale=true"),
        ({**AS_TSM, "stages": [2]}, r"13 unexpected \(backbone.layer3.0.attention"),
        ({**AS_TSM, "reduction": 4}, r"of another shape \(backbone.layer2.0.attention.theta.weight"),
        (None, "26 unexpected"),
        ({"kind": "w3", "start": "plain"}, "26 unexpected"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, attention: dict | None, said: str) -> None:
    reference_file(tmp_path / "nl.pth")
    with pytest.raises(InputError, match=said):
        build_model("tsm", backbone="resnet18", num_classes=5, attention=attention, weights=str(tmp_path / "nl.pth"))


# ZOO.md, section 5.11: what an attention adds to TSM on ResNet-50 at 16 frames of 224 x 224, in GMAC.
ADDED = [
    ({"kind": "nonlocal", "stages": [3], "every": 2, "pool": "none"}, 49.94),
    ({"kind": "nonlocal", "stages": [3], "every": 1, "pool": "none", "reduction": 4}, 49.94),
    ({"kind": "nonlocal"}, 68.39),
    ({"kind": "nonlocal", "pool": "output"}, 146.12 - 65.40),
    ({"kind": "nonlocal", "pool": "none"}, 224.22),
    ({"kind": "nonlocal", "stages": [2]}, 48.50),
    ({"kind": "nonlocal", "stages": [3]}, 19.88),
    ({"kind": "nonlocal", "stages": [3], "every": 1}, 39.77),
]


def gmac(attention: dict | None, refinement: bool = False) -> float:
    with torch.device("meta"):
        model = build_model("tsm", num_classes=174, attention=attention, refinement=refinement)
    return profile(model, 16, 224).macs / 1e9


@pytest.mark.parametrize(("attention", "added"), ADDED)
def test_what_a_non_local_block_costs(attention: dict, added: float) -> None:
    assert gmac(None) == pytest.approx(65.400, rel=1e-3)
    assert gmac(attention) - gmac(None) == pytest.approx(added, rel=1e-3)


@pytest.mark.parametrize(
    ("attention", "refinement", "added"),
    [
        ({"kind": "cbam"}, False, 0.10),
        ({"kind": "w3"}, True, 0.12),
        ({"kind": "w3", "depthwise": False}, True, 2.05),
    ],
)
def test_what_the_other_attentions_of_table_6_cost(attention: dict, refinement: bool, added: float) -> None:
    assert gmac(attention, refinement) - gmac(None) == pytest.approx(added, abs=0.005)

"""ECO against the figures of its specification, its definition, and its public files."""

from pathlib import Path

import pytest
import torch
from test_bninception import public_state as public_frames
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights, profile
from w3ray.models.clip_options import ECOOptions
from w3ray.models.eco import PreNormBlock

FULL, LITE = {"width": 8}, {"width": 8, "lite": True}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("options", "giga", "parameters"),
    [({}, (32.206, 64.413), 47_154_766), ({"lite": True}, (23.24, 46.49), 37_387_918)],
)
def test_cost(options: dict[str, bool], giga: tuple[float, float], parameters: int) -> None:
    """8 and 16 frames of 224 pixels, 174 classes. The page has 47.16 M for Full: 47.155 rounded twice."""
    with torch.device("meta"):
        model = build_model("eco", num_classes=174, options=options)
    costs = [profile(model, frames, 224) for frames in (8, 16)]
    assert [cost.macs for cost in costs] == [pytest.approx(one * 1e9, rel=3e-4) for one in giga]
    assert costs[0].parameters == parameters


def test_four_lites_of_the_ensemble() -> None:
    """En-Lite: 267.3 G at 16 + 20 + 24 + 32 frames."""
    with torch.device("meta"):
        model = build_model("eco", num_classes=174, options={"lite": True})
    assert sum(profile(model, frames, 224).macs for frames in (16, 20, 24, 32)) == pytest.approx(267.3e9, rel=1e-3)


def test_maps() -> None:
    with torch.device("meta"), torch.no_grad():
        clip_BTCHW = torch.empty(2, 8, 3, 224, 224)
        full, lite = (build_model("eco", num_classes=5, options={"lite": lite}).eval() for lite in (False, True))
        assert [one.shape for one in full(clip_BTCHW).features] == [(2, 2, 512, 7, 7), (2, 8, 1024, 7, 7)]
        assert [one.shape for one in lite(clip_BTCHW).features] == [(2, 2, 512, 7, 7)]
    assert [path.channels for path in full.paths()] == [512, 1024]
    assert [len(stage) for stage in full.stages()] == [2, 1, 2, 2, 5, 3]
    assert [len(stage) for stage in lite.stages()] == [2, 1, 2, 2]


def test_each_path_is_refined_with_its_own_masks() -> None:
    model = build_model("eco", num_classes=5, options=FULL, attention={"kind": "w3", "start": "plain"})
    assert [(one.conv.in_channels, one.conv.out_channels) for one in model.refinement] == [(4, 32), (3, 1024)]


def by_hand(state: dict[str, Tensor], x_BCTHW: Tensor) -> Tensor:
    """The 3D network from a public file's own keys, up to the mean of its map. Batch norms in evaluation mode."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        return F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=stride, padding=1)

    def norm(name: str, x: Tensor) -> Tensor:
        tensors = [state[f"{name}.{one}"] for one in ("running_mean", "running_var", "weight", "bias")]
        return torch.relu(F.batch_norm(x, *tensors))

    total = conv("res3a_2", x_BCTHW)
    a = norm("res3a_bn", total)
    total = conv("res3b_2", norm("res3b_1_bn", conv("res3b_1", a))) + total
    a = norm("res3b_bn", total)
    for stage in "45":
        total = conv(f"res{stage}a_2", norm(f"res{stage}a_1_bn", conv(f"res{stage}a_1", a, 2)))
        total = total + conv(f"res{stage}a_down", a, 2)
        a = norm(f"res{stage}a_bn", total)
        total = conv(f"res{stage}b_2", norm(f"res{stage}b_1_bn", conv(f"res{stage}b_1", a))) + total
        a = norm(f"res{stage}b_bn", total)
    return a.mean(dim=(2, 3, 4))


def public_volume(width: int) -> dict[str, Tensor]:
    """The 3D layers of a public file."""
    state: dict[str, Tensor] = {}

    def add(name: str, num_in: int, num_out: int) -> None:
        state[f"{name}.weight"] = torch.randn(num_out, num_in, 3, 3, 3) / (27 * num_in) ** 0.5
        state[f"{name}.bias"] = torch.randn(num_out)

    def add_norm(name: str, channels: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(channels) + 0.5, torch.randn(channels)
        state[f"{name}.running_mean"], state[f"{name}.running_var"] = torch.randn(channels), torch.rand(channels) + 0.5

    add("res3a_2", 96, width)
    for block, num_in, num_out in (
        ("3b", width, width),
        ("4a", width, 2 * width),
        ("4b", 2 * width, 2 * width),
        ("5a", 2 * width, 4 * width),
        ("5b", 4 * width, 4 * width),
    ):
        add(f"res{block}_1", num_in, num_out)
        add_norm(f"res{block}_1_bn", num_out)
        add(f"res{block}_2", num_out, num_out)
        add_norm(f"res{block}_bn", num_out)
        if num_in != num_out:
            add(f"res{block}_down", num_in, num_out)
    add_norm("res3a_bn", width)
    return state


def public_state(lite: bool) -> dict[str, Tensor]:
    frames = {key: value for key, value in public_frames(5).items() if not key.startswith("last_linear")}
    if lite:
        kept = ("conv", "inception_3a", "inception_3b", "inception_3c_double_3x3_reduce", "inception_3c_double_3x3_1")
        frames = {key: value for key, value in frames.items() if key.startswith(kept)}
    for key, value in frames.items():
        if value.ndim == 4:
            frames[key] = value / value[0].numel() ** 0.5
    state = {f"module.base_model.{key}": value for key, value in {**frames, **public_volume(8)}.items()}
    state["module.new_fc.weight"] = torch.randn(5, 32 if lite else 1024 + 32)
    state["module.new_fc.bias"] = torch.randn(5)
    return state


@pytest.mark.parametrize("lite", [True, False])
def test_public_weights(tmp_path: Path, lite: bool) -> None:
    state = public_state(lite)
    torch.save({"state_dict": state}, tmp_path / "eco.pth.tar")
    model = build_model("eco", num_classes=5, options={"width": 8, "lite": lite}).eval()
    loaded = load_weights(model, str(tmp_path / "eco.pth.tar"))
    assert (loaded.layout, loaded.loaded, loaded.fresh, loaded.left_out) == ("ECO", len(state), (), ())
    seen: list[Tensor] = []
    model.backbone3d.first.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    with torch.no_grad():
        out = model(torch.rand(1, 4, 3, 32, 32))
    plain = {key.removeprefix("module.base_model."): value for key, value in state.items()}
    volume_BC = by_hand(plain, seen[0])
    torch.testing.assert_close(out.features[0].mean(dim=(1, 3, 4)), volume_BC)
    # The authors join the features of the frames and those of the 3D network, in this order.
    features = [volume_BC] if lite else [out.features[1].mean(dim=(1, 3, 4)), volume_BC]
    expected = F.linear(torch.cat(features, dim=1), state["module.new_fc.weight"], state["module.new_fc.bias"])
    torch.testing.assert_close(out.logits_BK, expected, rtol=1e-3, atol=1e-3)


def test_nothing_of_a_file_is_dropped_in_silence(tmp_path: Path) -> None:
    torch.save({"state_dict": public_state(lite=False)}, tmp_path / "full.pth.tar")
    with pytest.raises(InputError, match=r"\d+ unexpected \(backbone.inception_3c"):
        build_model("eco", num_classes=5, options=LITE, weights=str(tmp_path / "full.pth.tar"))
    state = public_state(lite=True)
    del state["module.base_model.res4a_down.bias"]
    torch.save({"state_dict": state}, tmp_path / "torn.pth.tar")
    with pytest.raises(InputError, match=r"1 missing \(backbone3d.block4a.project.bias\)"):
        build_model("eco", num_classes=5, options=LITE, weights=str(tmp_path / "torn.pth.tar"))


def test_the_shared_maps_are_those_of_3c() -> None:
    """Full computes them once: 3c's double branch goes on from them."""
    whole = build_model("tsn", backbone="bninception", num_classes=5).eval()
    eco = build_model("eco", num_classes=5, options=FULL).eval()
    eco.backbone.load_state_dict(whole.backbone.state_dict())
    x_BTCHW = torch.rand(1, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(eco(x_BTCHW).features[1], whole(x_BTCHW).features[0])


def test_an_attention_works_on_the_branch() -> None:
    class Closed(nn.Module):
        """An attention that lets nothing of the branch pass."""

        placement, has_spatial_mask, constant_start = "before", False, None

        def forward(self, branch_BTCHW: Tensor, shortcut_BTCHW: Tensor) -> tuple[Tensor, None]:
            return shortcut_BTCHW + 0 * branch_BTCHW, None

    block = PreNormBlock(3, 3).eval()
    block.attention = Closed()
    x_BCTHW = torch.randn(1, 3, 4, 5, 5)
    assert torch.equal(block(x_BCTHW), x_BCTHW)
    with pytest.raises(ValueError, match="PreNormBlock has no norm right before its attention; use gain=gate"):
        build_model("eco", num_classes=5, options=LITE, attention={"kind": "w3", "gain": "norm", "stages": [2]})


def test_it_sees_order() -> None:
    model = build_model("eco", num_classes=5, options=LITE).eval()
    nn.init.normal_(model.classifier.weight)
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    assert not torch.allclose(model(x_BTCHW).logits_BK, model(x_BTCHW.flip(1)).logits_BK, atol=1e-3)


def test_clips_that_it_cannot_take() -> None:
    with pytest.raises(ValueError, match="ECO: clips of 6 frames: this network takes multiples of 4"):
        ECOOptions().check_clip(6, 224)
    with pytest.raises(ValueError, match="ECO: frames of 112 x 112 pixels: this network takes multiples of 32"):
        ECOOptions().check_clip(8, 112)
    with pytest.raises(ValueError, match="ECO: clips of 3 frames"):
        build_model("eco", num_classes=5, options=LITE)(torch.zeros(1, 3, 3, 32, 32))
    for name, value in (("lite", 1), ("width", 0)):
        with pytest.raises(ValueError, match=f"ECO: {name}={value}: must be"):
            ECOOptions(**{name: value})

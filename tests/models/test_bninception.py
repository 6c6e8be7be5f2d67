"""BNInception, compared with the figures of its specification, and its public files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights, profile
from w3ray.models.bninception import MODULES, STAGES, InceptionModule


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ["tsn", "tsm"])
def test_cost(name: str) -> None:
    """16.254 G and 10.45 M at 174 classes, 11.295 M at 1000; W3 adds 0.014 G and 0.70 M (8 frames of 224 pixels)."""
    with torch.device("meta"):
        plain = build_model(name, backbone="bninception", num_classes=174)
        wide = build_model(name, backbone="bninception", num_classes=1000)
        w3 = build_model(name, backbone="bninception", num_classes=174, attention={"kind": "w3"}, refinement=False)
    costs = [profile(model, 8, 224) for model in (plain, wide, w3)]
    assert [cost.parameters for cost in costs] == [10_448_590, 11_295_240, 11_149_530]
    assert costs[0].macs == 16_254_033_920
    assert costs[2].macs - costs[0].macs == pytest.approx(0.014e9, rel=0.02)
    assert [part.name for part in costs[0].parts] == ["stem", "stage1", "stage2", "stage3", "classifier"]


def test_maps_of_the_stages() -> None:
    model = build_model("tsn", backbone="bninception", num_classes=2).eval()
    shapes: list[tuple[int, ...]] = []
    for stage in model.stages():
        for site in stage:
            site.register_forward_hook(lambda module, inputs, out: shapes.append(tuple(out[0].shape[1:])))
    with torch.no_grad():
        model(torch.randn(1, 1, 3, 224, 224))
    widths = [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]
    sides = [28, 28, 14, 14, 14, 14, 14, 7, 7, 7]
    assert shapes == [(width, side, side) for width, side in zip(widths, sides, strict=True)]
    assert [name for stage in STAGES for name in stage] == list(MODULES)


def test_a_shift_leaves_the_pool_branch_as_it_is() -> None:
    module = InceptionModule(*MODULES["3a"]).eval()
    entry, x = torch.randn(2, 192, 8, 8), torch.randn(2, 192, 8, 8)
    first, second = module.body(entry, x), module.body(x, x)
    assert torch.equal(first[:, -32:], second[:, -32:])
    assert not torch.allclose(first[:, :-32], second[:, :-32])
    model = build_model("tsm", backbone="bninception", num_classes=2)
    shifted = [name for name, one in model.named_modules() if getattr(one, "temporal", None) is not None]
    assert shifted == ["backbone.conv2", *(f"backbone.inception_{name}" for name in MODULES)]


def test_only_with_a_shift_does_it_see_order() -> None:
    x_BTCHW = torch.randn(1, 4, 3, 64, 64)
    for name, sees_order in (("tsn", False), ("tsm", True)):
        model = build_model(name, backbone="bninception", num_classes=4).eval()
        torch.nn.init.normal_(model.classifier.weight)
        forwards, backwards = model(x_BTCHW).logits_BK, model(x_BTCHW.flip(1)).logits_BK
        assert torch.allclose(forwards, backwards, atol=1e-4, rtol=1e-4) != sees_order


def test_every_parameter_learns_with_w3_and_refinement() -> None:
    model = build_model("tsm", backbone="bninception", num_classes=4, attention={"kind": "w3", "start": "plain"})
    out = model(torch.randn(2, 2, 3, 64, 64))
    (out.logits_BK.sum() + out.features[0].square().sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.refinement is not None
    assert model.refinement.conv.in_channels == 3


def public_state(num_classes: int) -> dict[str, Tensor]:
    """The content of a public file: flat keys, batch norms of shape [1, C] as in older files."""
    state: dict[str, Tensor] = {}

    def add(name: str, num_in: int, num_out: int, kernel: int) -> None:
        state[f"{name}.weight"] = torch.randn(num_out, num_in, kernel, kernel)
        state[f"{name}.bias"] = torch.randn(num_out)
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}_bn.{tensor}"] = torch.rand(1, num_out)

    add("conv1_7x7_s2", 3, 64, 7)
    add("conv2_3x3_reduce", 64, 64, 1)
    add("conv2_3x3", 64, 192, 3)
    for module, (num_in, one, three, double, _, project, _) in MODULES.items():
        branches = {"1x1": (num_in, one, 1), "3x3_reduce": (num_in, three[0], 1), "3x3": (*three, 3)}
        branches |= {"double_3x3_reduce": (num_in, double[0], 1), "double_3x3_1": (*double[:2], 3)}
        branches |= {"double_3x3_2": (*double[1:], 3), "pool_proj": (num_in, project, 1)}
        for branch, numbers in branches.items():
            if numbers[1]:
                add(f"inception_{module}_{branch}", *numbers)
    state["last_linear.weight"] = torch.randn(num_classes, 1024)
    state["last_linear.bias"] = torch.randn(num_classes)
    return state


def test_public_weights(tmp_path: Path) -> None:
    state, file = public_state(5), tmp_path / "bn_inception.pth"
    torch.save(state, file)
    model = build_model("tsn", backbone="bninception", num_classes=5)
    loaded = load_weights(model, str(file))
    assert (loaded.layout, loaded.loaded, loaded.fresh, loaded.left_out) == ("BNInception", len(state), (), ())
    own = model.state_dict()
    assert torch.equal(own["backbone.conv1.0.weight"], state["conv1_7x7_s2.weight"].flip(1))
    assert torch.equal(own["backbone.inception_3c.branch_double.2.0.weight"], state["inception_3c_double_3x3_2.weight"])
    assert torch.equal(
        own["backbone.inception_5b.branch_pool.1.running_var"], state["inception_5b_pool_proj_bn.running_var"][0]
    )
    assert torch.equal(own["classifier.weight"], state["last_linear.weight"])


@pytest.mark.parametrize("prefix", ["base_model.", "module.base_model."])
def test_weights_of_segment_networks_have_a_prefix(tmp_path: Path, prefix: str) -> None:
    state = {f"{prefix}{key}": value for key, value in public_state(5).items() if not key.startswith("last")}
    state[f"{prefix.removesuffix('base_model.')}new_fc.weight"] = torch.randn(5, 1024)
    state[f"{prefix.removesuffix('base_model.')}new_fc.bias"] = torch.randn(5)
    torch.save({"state_dict": state}, tmp_path / "tsn.pth.tar")
    model = build_model("tsm", backbone="bninception", num_classes=5, attention={"kind": "w3"})
    loaded = load_weights(model, str(tmp_path / "tsn.pth.tar"))
    assert loaded.loaded == len(state)
    assert all(".attention." in name or name.startswith("refinement.") for name in loaded.fresh)


def test_nothing_of_a_file_is_dropped_in_silence(tmp_path: Path) -> None:
    state = public_state(5)
    state["inception_6a_1x1.weight"] = torch.zeros(1)
    del state["inception_4d_3x3_bn.bias"]
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(
        InputError, match=r"1 missing \(backbone.inception_4d.branch_3x3.1.1.bias\); 1 unexpected \(inception_6a_1x1"
    ):
        load_weights(build_model("tsn", backbone="bninception", num_classes=5), str(tmp_path / "odd.pth"))


def test_sides_that_do_not_divide_are_refused() -> None:
    model = build_model("tsn", backbone="bninception", num_classes=2)
    with pytest.raises(ValueError, match="bninception: frames of 48 x 64 pixels: sides must be multiples of 32"):
        model(torch.randn(1, 1, 3, 48, 64))


def test_its_pixels_are_those_of_its_public_weights() -> None:
    pixels = build_model("tsn", backbone="bninception", num_classes=2).pixels
    assert [round(255 * value) for value in (*pixels.mean, *pixels.std)] == [128, 117, 104, 1, 1, 1]

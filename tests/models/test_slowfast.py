"""SlowFast: the figures of its specification, its two paths, and its public files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights, profile
from w3ray.models.clip_options import SlowFastOptions

SMALL = {"width": 16, "blocks": [1, 2, 1, 2], "beta_inverse": 4}
MMACTION = {**SMALL, "pixels": "imagenet", "lateral_norm": False}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("size", "options", "gmac", "parameters"),
    [
        (256, {}, 65.71, 34_045_558),
        (224, {}, 50.31, 34_045_558),
        (256, {"fusion_kernel": 5}, 65.30, 33_959_286),
    ],
)
def test_cost(size: int, options: dict, gmac: float, parameters: int) -> None:
    """32 frames, 174 classes. Published: 65 G at 256 pixels."""
    with torch.device("meta"):
        model = build_model("slowfast_r50", num_classes=174, options=options)
    cost = profile(model, 32, size)
    assert cost.macs == pytest.approx(gmac * 1e9, rel=1e-4)
    assert cost.parameters == parameters


def test_w3_costs_little_in_both_paths() -> None:
    with torch.device("meta"):
        plain, slow, both = (
            build_model("slowfast_r50", num_classes=174, attention=attention, refinement=False)
            for attention in (None, {"kind": "w3", "stages": [1, 2, 3, 4]}, {"kind": "w3"})
        )
    macs = [profile(model, 32, 224).macs / 1e9 for model in (plain, slow, both)]
    assert macs[1] - macs[0] == pytest.approx(0.06, abs=0.005)
    assert macs[2] - macs[1] == pytest.approx(0.07, abs=0.005)


def lively(network: nn.Module) -> nn.Module:
    """Batch norms and a classifier as after training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    nn.init.normal_(network.classifier.weight)
    return network


def test_the_slow_path_takes_every_fourth_frame_and_hears_of_the_others() -> None:
    model = lively(build_model("slowfast_r50", num_classes=3, options=SMALL)).eval()
    seen: list[Tensor] = []
    model.backbone.slow.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x_BTCHW = torch.randn(1, 8, 3, 32, 32)
    slow_BTCHW, fast_BTCHW = model(x_BTCHW).features
    assert torch.equal(seen[0], x_BTCHW[:, [0, 4]].transpose(1, 2))
    assert (slow_BTCHW.shape[:3], fast_BTCHW.shape[:3]) == ((1, 2, 512), (1, 8, 128))
    other_BTCHW = x_BTCHW.clone()
    other_BTCHW[:, [1, 2, 3, 5, 6, 7]] += 1
    assert not torch.allclose(model(other_BTCHW).features[0], slow_BTCHW, atol=1e-3)
    for lateral in model.backbone.lateral:
        nn.init.zeros_(lateral[0].weight)
    torch.testing.assert_close(model(other_BTCHW).features[0], model(x_BTCHW).features[0])


def test_the_last_norm_of_each_block_starts_at_zero() -> None:
    model = build_model("slowfast_r50", num_classes=3, options=SMALL)
    assert all(site.last_norm.weight.abs().max() == 0 for stage in model.stages() for site in stage)


def pytorchvideo_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model under the names of PyTorchVideo's files."""
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "classifier":
            state[f"blocks.6.proj.{parts[1]}"] = value
        elif parts[1] == "lateral":
            layer = "conv_fast_to_slow" if parts[3] == "0" else "norm"
            state[f"blocks.{parts[2]}.multipathway_fusion.{layer}.{parts[4]}"] = value
        else:
            path = f"multipathway_blocks.{('slow', 'fast').index(parts[1])}"
            if parts[2] in ("conv1", "bn1"):
                state[f"blocks.0.{path}.{'conv' if parts[2] == 'conv1' else 'norm'}.{parts[3]}"] = value
                continue
            if parts[4] == "downsample":
                inner = ("branch1_conv", "branch1_norm")[int(parts[5])]
            else:
                inner = f"branch2.{'conv' if parts[4].startswith('conv') else 'norm'}_{'abc'[int(parts[4][-1]) - 1]}"
            state[f"blocks.{parts[2][-1]}.{path}.res_blocks.{parts[3]}.{inner}.{parts[-1]}"] = value
    return state


def mmaction_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model under the names of mmaction2's files. Its classifier reads the fast path first."""
    state = {}
    for key, value in model.state_dict().items():
        *layers, tensor = key.split(".")
        if key == "classifier.weight":
            width = model.num_features
            state["cls_head.fc_cls.weight"] = torch.cat([value[:, width:], value[:, :width]], dim=1)
        elif key == "classifier.bias":
            state["cls_head.fc_cls.bias"] = value
        elif layers[1] == "lateral":
            name = "conv1" if layers[2] == "0" else f"layer{layers[2]}"
            state[f"backbone.slow_path.{name}_lateral.{('conv', 'bn')[int(layers[3])]}.{tensor}"] = value
        else:
            layers[1] = f"{layers[1]}_path"
            if layers[-2] == "downsample":
                layers[-1] = ("conv", "bn")[int(layers[-1])]
            else:
                kind, number = layers[-1][:-1], layers[-1][-1]
                layers[-1:] = [f"conv{number}", kind]
            state[".".join([*layers, tensor])] = value
    return state


@pytest.mark.parametrize(
    ("options", "make", "container", "layout"),
    [
        (SMALL, pytorchvideo_state, "model_state", "PyTorchVideo"),
        (MMACTION, mmaction_state, "state_dict", "mmaction2"),
        ({**SMALL, "pixels": "imagenet"}, mmaction_state, "state_dict", "mmaction2"),
    ],
)
def test_public_files(
    tmp_path: Path, options: dict, make: Callable[[nn.Module], dict[str, Tensor]], container: str, layout: str
) -> None:
    theirs, ours, other = (lively(build_model("slowfast_r50", num_classes=n, options=options)) for n in (5, 5, 6))
    state = make(theirs)
    assert not set(state) & set(ours.state_dict())
    torch.save({container: state}, tmp_path / "public.pth")
    loaded = load_weights(ours, str(tmp_path / "public.pth"))
    assert (loaded.layout, loaded.fresh, loaded.left_out) == (layout, (), ())
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    left_out = load_weights(other, str(tmp_path / "public.pth")).left_out
    assert sorted(left_out) == ["classifier.bias", "classifier.weight"]
    torch.save({container: {**state, "blocks.9.extra": torch.zeros(1)}}, tmp_path / "more.pth")
    with pytest.raises(InputError, match=r"1 unexpected \(.*blocks.9.extra\)"):
        load_weights(ours, str(tmp_path / "more.pth"))


def test_mmaction2_scores(tmp_path: Path) -> None:
    """Its head is the linear layer over [fast, slow]."""
    theirs = lively(build_model("slowfast_r50", num_classes=5, options=MMACTION)).eval()
    state = mmaction_state(theirs)
    torch.save({"state_dict": state}, tmp_path / "public.pth")
    ours = build_model("slowfast_r50", num_classes=5, options=MMACTION, weights=str(tmp_path / "public.pth")).eval()
    x_BTCHW = torch.randn(1, 8, 3, 32, 32)
    slow_BC, fast_BC = (one.mean(dim=(1, 3, 4)) for one in theirs(x_BTCHW).features)
    weight, bias = state["cls_head.fc_cls.weight"], state["cls_head.fc_cls.bias"]
    expected = F.linear(torch.cat([fast_BC, slow_BC], dim=1), weight, bias)
    torch.testing.assert_close(ours(x_BTCHW).logits_BK, expected)


def test_weights_without_lateral_norms_do_not_fit_a_network_with_them(tmp_path: Path) -> None:
    theirs, ours = (build_model("slowfast_r50", num_classes=5, options=one) for one in (MMACTION, SMALL))
    torch.save({"state_dict": mmaction_state(theirs)}, tmp_path / "public.pth")
    with pytest.raises(InputError, match=r"16 missing \(backbone.lateral.0.1.weight"):
        load_weights(ours, str(tmp_path / "public.pth"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": 0}, "slowfast_r50: alpha=0: must be a whole number >= 1"),
        ({"beta_inverse": 7}, "width=64 with beta_inverse=7: the width must be a multiple"),
        ({"fusion_kernel": 4}, "fusion_kernel=4: must be odd"),
        ({"lateral_norm": 1}, "lateral_norm=1: must be true or false"),
    ],
)
def test_bad_options(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SlowFastOptions.from_options(options)


def test_clips_that_it_does_not_take() -> None:
    SlowFastOptions().check_clip(32, 224)
    SlowFastOptions(alpha=8).check_clip(8, 224)
    with pytest.raises(ValueError, match="slowfast_r50: num_frames=30: must be a multiple of alpha=4"):
        SlowFastOptions().check_clip(30, 224)

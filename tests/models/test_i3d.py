"""I3D on residual networks: the figures of its specification, inflation, and its public files."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import resnet

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights, profile
from w3ray.models.clip_options import I3DResNet50Options

SMALL_50 = {"width": 8, "blocks": [2, 2, 2, 2], "last_stride": 2}
SMALL_18 = {"width": 8, "blocks": [1, 1, 1, 1]}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "frames", "options", "attention", "gmac", "parameters"),
    [
        ("i3d_r50", 32, {}, None, 152.47, 27_580_398),
        ("i3d_r50", 32, {"last_stride": 2}, None, 113.63, 27_580_398),
        ("i3d_r50", 32, {"last_stride": 2, "stem_stride": 2}, None, 33.13, 27_580_398),
        ("i3d_r50", 32, {"temporal_kernels": "every"}, None, 170.56, 32_561_134),
        ("i3d_r50", 32, {}, {"kind": "nonlocal"}, 220.86, 34_938_862),
        ("i3d_r50", 32, {}, {"kind": "nonlocal", "pool": "output"}, 233.19, 34_938_862),
        ("i3d_r50", 32, {"last_stride": 2, "stem_stride": 2}, {"kind": "nonlocal"}, 41.26, 34_938_862),
        ("i3d_r50", 32, {}, {"kind": "w3"}, 152.64, 30_244_942),
        ("i3d_r18", 32, {}, None, 172.87, 33_255_534),
        ("i3d_r18", 64, {}, None, 345.74, 33_255_534),
        ("i3d_r18", 32, {"temporal_stride": True}, None, 89.89, 33_255_534),
        ("i3d_r18", 64, {"temporal_stride": True}, None, 179.78, 33_255_534),
    ],
)
def test_cost(name: str, frames: int, options: dict, attention: dict | None, gmac: float, parameters: int) -> None:
    """Frames of 224 pixels, 174 classes. Published: 153 G and 28.0 M (at 400 classes), 35.3 M with non-local blocks."""
    with torch.device("meta"):
        model = build_model(name, num_classes=174, options=options, attention=attention)
    cost = profile(model, frames, 224)
    assert cost.macs == pytest.approx(gmac * 1e9, rel=2e-4)
    assert cost.parameters == parameters


def test_where_it_convolves_over_time() -> None:
    with torch.device("meta"):
        plain, every = (
            build_model("i3d_r50", num_classes=2, options={"temporal_kernels": kind}) for kind in ("alternate", "every")
        )
    times = [[site.conv1.kernel_size[0] for site in stage] for stage in plain.stages()]
    assert times == [[3, 3, 3], [3, 1, 3, 1], [3, 1, 3, 1, 3, 1], [1, 3, 1]]
    assert {site.conv1.kernel_size[0] for stage in every.stages() for site in stage} == {3}
    assert all(site.bn3.weight.device.type == "meta" for stage in plain.stages() for site in stage)


def lively(network: nn.Module) -> nn.Module:
    """Batch norms as after training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


@pytest.mark.parametrize(
    ("name", "block", "blocks", "options", "frames", "border"),
    [
        ("i3d_r50", resnet.Bottleneck, [1, 1, 1, 2], {"last_stride": 2}, 24, 5),
        ("i3d_r18", resnet.BasicBlock, [1, 1, 1, 1], {}, 20, 9),
    ],
)
def test_on_a_still_clip_it_is_the_2d_network(
    tmp_path: Path, name: str, block: type, blocks: list[int], options: dict, frames: int, border: int
) -> None:
    """Frames that no convolution reads together with the zeros outside the clip have the 2D network's features."""
    flat = lively(resnet.ResNet(block, blocks, num_classes=7)).eval()
    torch.save(flat.state_dict(), tmp_path / "flat.pth")
    model = build_model(name, num_classes=7, options={**options, "blocks": blocks})
    loaded = load_weights(model, str(tmp_path / "flat.pth"))
    assert (loaded.layout, loaded.fresh, loaded.left_out) == ("ResNet", (), ())
    frame_1CHW = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    kept: list[Tensor] = []
    flat.double().layer4.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        flat(frame_1CHW)
        found_TCHW = model.double().eval()(frame_1CHW.repeat(frames, 1, 1, 1)[None]).features[0][0]
    inside = found_TCHW[border : len(found_TCHW) - border]
    assert len(inside) == 2
    # Loading divides in float32; all else is float64.
    torch.testing.assert_close(inside, kept[0].expand_as(inside), rtol=0, atol=1e-6)
    assert (found_TCHW[0] - kept[0][0]).abs().max() > 1e-3


def test_an_enum_of_2d_weights_inflates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's cache holds a file under the enum's own name."""
    enum = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (folder := tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    flat = torchvision.models.resnet18()
    torch.save(flat.state_dict(), folder / enum.url.rsplit("/", 1)[1])
    model = build_model("i3d_r18", num_classes=4, weights="ResNet18_Weights.IMAGENET1K_V1")
    expected = flat.conv1.weight.unsqueeze(2).expand(-1, -1, 3, -1, -1) / 3
    torch.testing.assert_close(model.backbone.conv1.weight, expected)


def pytorchvideo_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model under the names of PyTorchVideo's files."""
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "classifier":
            state[f"blocks.6.proj.{parts[1]}"] = value
        elif parts[1] in ("conv1", "bn1"):
            state[f"blocks.0.{'conv' if parts[1] == 'conv1' else 'norm'}.{parts[2]}"] = value
        else:
            block = {"layer1": 1, "layer2": 3, "layer3": 4, "layer4": 5}[parts[1]]
            if parts[3] == "downsample":
                inner = "branch1_conv" if parts[4] == "0" else "branch1_norm"
            else:
                letter = "abc"[int(parts[3][-1]) - 1]
                inner = f"branch2.{'conv' if parts[3].startswith('conv') else 'norm'}_{letter}"
            state[f"blocks.{block}.res_blocks.{parts[2]}.{inner}.{parts[-1]}"] = value
    return state


def mmaction_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model under the names of mmaction2's files."""
    state = {}
    for key, value in model.state_dict().items():
        *layers, tensor = key.split(".")
        if layers[0] == "classifier":
            state[f"cls_head.fc_cls.{tensor}"] = value
        elif layers[-2] == "downsample":
            state[".".join([*layers[:-1], "conv" if layers[-1] == "0" else "bn", tensor])] = value
        else:
            kind, number = layers[-1][:-1], layers[-1][-1]
            state[".".join([*layers[:-1], f"conv{number}", kind, tensor])] = value
    return state


def authors_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model under the names of `K400-I3D-ResNet-18-f32.pth.tar`."""
    return {
        f"module.{key.removeprefix('backbone.').replace('classifier.', 'fc.')}": value
        for key, value in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "options", "make", "container", "layout"),
    [
        ("i3d_r50", SMALL_50, pytorchvideo_state, "model_state", "PyTorchVideo"),
        ("i3d_r50", SMALL_50, mmaction_state, "state_dict", "mmaction2"),
        ("i3d_r18", SMALL_18, authors_state, "state_dict", "ResNet"),
    ],
)
def test_public_files(tmp_path: Path, name: str, options: dict, make: object, container: str, layout: str) -> None:
    theirs, ours, other = (lively(build_model(name, num_classes=classes, options=options)) for classes in (5, 5, 6))
    state = make(theirs)
    assert not set(state) & set(ours.state_dict())
    torch.save({container: state}, tmp_path / "public.pth")
    loaded = load_weights(ours, str(tmp_path / "public.pth"))
    assert (loaded.layout, loaded.fresh, loaded.left_out) == (layout, (), ())
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    assert sorted(load_weights(other, str(tmp_path / "public.pth")).left_out) == [
        "classifier.bias",
        "classifier.weight",
    ]
    torch.save({container: {**state, "blocks.9.extra": torch.zeros(1)}}, tmp_path / "more.pth")
    with pytest.raises(InputError, match=r"1 unexpected \(.*blocks.9.extra\)"):
        load_weights(ours, str(tmp_path / "more.pth"))
    lost = next(key for key in state if key.endswith("weight"))
    torch.save({container: {key: value for key, value in state.items() if key != lost}}, tmp_path / "less.pth")
    with pytest.raises(InputError, match=r"1 missing \(backbone.conv1.weight\)"):
        load_weights(ours, str(tmp_path / "less.pth"))


def test_a_file_of_another_i3d_is_refused(tmp_path: Path) -> None:
    """`K400-I3D-ResNet-50-f32.pth.tar` has 3x3x3 kernels in every block: it is another network."""
    model = build_model("i3d_r50", num_classes=5, options=SMALL_50)
    state = authors_state(model)
    for key, value in state.items():
        if key.endswith("conv2.weight"):
            state[key] = value.repeat(1, 1, 3, 1, 1)
    torch.save({"state_dict": state}, tmp_path / "other.pth.tar")
    with pytest.raises(InputError, match=r"8 of another shape \(backbone.layer1.0.conv2.weight \(8, 8, 3, 3, 3\) for"):
        load_weights(model, str(tmp_path / "other.pth.tar"))


def test_pixels() -> None:
    means = [
        build_model("i3d_r50", num_classes=2, options={**SMALL_50, "pixels": name}).pixels.mean[0]
        for name in ("imagenet", "pytorchvideo")
    ]
    assert means == [0.485, 0.45]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("i3d_r50", {"last_stride": 3}, "i3d_r50: last_stride=3: must be 1 or 2"),
        ("i3d_r50", {"stem_stride": True}, "i3d_r50: stem_stride=True: must be 1 or 2"),
        ("i3d_r50", {"temporal_kernels": "some"}, "temporal_kernels='some': must be one of alternate, every"),
        ("i3d_r50", {"pixels": "bgr"}, "pixels='bgr': must be one of imagenet, pytorchvideo"),
        ("i3d_r50", {"blocks": [3, 4, 6]}, "must list four numbers"),
        ("i3d_r50", {"blocks": [3, 4, 0, 3]}, "blocks=0: must be a whole number >= 1"),
        ("i3d_r18", {"temporal_stride": 2}, "temporal_stride=2: must be true or false"),
        ("i3d_r18", {"last_stride": 1}, "unknown option last_stride"),
    ],
)
def test_bad_options(name: str, options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build_model(name, num_classes=2, options=options)


def test_clips_that_are_too_short() -> None:
    I3DResNet50Options().check_clip(2, 32)
    with pytest.raises(ValueError, match="i3d_r50: num_frames=1: must be at least 2 with stem_stride=1"):
        I3DResNet50Options().check_clip(1, 224)
    strided = I3DResNet50Options(stem_stride=2)
    with pytest.raises(ValueError, match="num_frames=4: must be at least 5 with stem_stride=2"):
        strided.check_clip(4, 224)
    strided.check_clip(5, 32)
    model = build_model("i3d_r50", num_classes=2, options={**SMALL_50, "stem_stride": 2}).eval()
    assert model(torch.randn(1, 5, 3, 32, 32)).features[0].shape[1] == 1

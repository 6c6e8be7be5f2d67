"""Published weights are loaded into the right places, and a file that does not fit is an error."""

import argparse
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights

CLASSES = 7


def reference_shift(x_NCHW: Tensor, num_frames: int) -> Tensor:
    clips = x_NCHW.view(-1, num_frames, *x_NCHW.shape[1:])
    out = torch.zeros_like(clips)
    fold = x_NCHW.shape[1] // 8
    for t in range(num_frames):
        if t + 1 < num_frames:
            out[:, t, :fold] = clips[:, t + 1, :fold]
        if t > 0:
            out[:, t, fold : 2 * fold] = clips[:, t - 1, fold : 2 * fold]
        out[:, t, 2 * fold :] = clips[:, t, 2 * fold :]
    return out.view_as(x_NCHW)


def reference_scores(state: dict[str, Tensor], clips_BTCHW: Tensor) -> Tensor:
    """Class scores [B, K] of the reference TSM in evaluation mode, from the keys of a checkpoint.

    Uses no code of w3ray (Lin et al., arXiv:1811.08383). A convolution inside a shift has `.net.` in its key. The first
    eighth of the channels moves one frame to the left, the second eighth one frame to the right.
    """
    batch, num_frames = clips_BTCHW.shape[:2]
    key = "module.base_model."

    def norm(name: str, x: Tensor) -> Tensor:
        p = [state[f"{key}{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, p[0], p[1], p[2], p[3])

    x = F.conv2d(clips_BTCHW.reshape(-1, *clips_BTCHW.shape[2:]), state[f"{key}conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(norm("bn1", x)), 3, stride=2, padding=1)
    for stage in (1, 2, 3, 4):
        block = 0
        while any(k.startswith(f"{key}layer{stage}.{block}.") for k in state):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            shifted = f"{key}{name}.conv1.net.weight" in state
            first = state[f"{key}{name}.conv1.net.weight" if shifted else f"{key}{name}.conv1.weight"]
            entry = reference_shift(x, num_frames) if shifted else x
            if f"{key}{name}.conv3.weight" in state:
                out = F.relu(norm(f"{name}.bn1", F.conv2d(entry, first)))
                out = F.conv2d(out, state[f"{key}{name}.conv2.weight"], stride=stride, padding=1)
                out = F.conv2d(F.relu(norm(f"{name}.bn2", out)), state[f"{key}{name}.conv3.weight"])
                out = norm(f"{name}.bn3", out)
            else:
                out = F.relu(norm(f"{name}.bn1", F.conv2d(entry, first, stride=stride, padding=1)))
                out = norm(f"{name}.bn2", F.conv2d(out, state[f"{key}{name}.conv2.weight"], padding=1))
            if f"{key}{name}.downsample.0.weight" in state:
                x = norm(f"{name}.downsample.1", F.conv2d(x, state[f"{key}{name}.downsample.0.weight"], stride=stride))
            x = F.relu(out + x)
            block += 1
    frames = F.linear(x.mean(dim=(2, 3)), state["module.new_fc.weight"], state["module.new_fc.bias"])
    return frames.view(batch, num_frames, -1).mean(dim=1)


def reference_state(backbone: str, every: int = 1) -> dict[str, Tensor]:
    """A checkpoint in the reference project's format, with random weights and random batch norms."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, backbone)()
    network.fc = nn.Identity()
    generator = torch.Generator().manual_seed(3)
    state = {}
    for key, value in network.state_dict().items():
        if key.endswith("running_mean"):
            value = torch.randn(value.shape, generator=generator) * 0.1
        elif key.endswith(("running_var", "bn3.weight", "bn2.weight")):
            value = torch.rand(value.shape, generator=generator) + 0.5
        parts = key.split(".")
        if parts[0].startswith("layer") and parts[2] == "conv1" and int(parts[1]) % every == 0:
            parts.insert(3, "net")
        state["module.base_model." + ".".join(parts)] = value
    width = network.layer4[-1].bn2.num_features * (4 if hasattr(network.layer4[-1], "bn3") else 1)
    state["module.new_fc.weight"] = torch.randn(CLASSES, width, generator=generator) * 0.1
    state["module.new_fc.bias"] = torch.randn(CLASSES, generator=generator)
    return state


@pytest.mark.parametrize(("backbone", "every"), [("resnet18", 1), ("resnet50", 1), ("resnet101", 2)])
def test_published_tsm_gives_the_same_scores(tmp_path: Path, backbone: str, every: int) -> None:
    state = reference_state(backbone, every)
    path = tmp_path / "tsm.pth.tar"
    torch.save({"epoch": 50, "arch": backbone, "state_dict": state, "best_prec1": torch.tensor(45.6)}, path)
    model = build_model("tsm", backbone=backbone, num_classes=CLASSES, weights=str(path)).eval()
    clips_BTCHW = torch.randn(2, 4, 3, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(
            model(clips_BTCHW).logits_BK, reference_scores(state, clips_BTCHW), rtol=1e-4, atol=1e-4
        )
        # The reversed clip must score differently. Otherwise the shift had no effect in this test.
        assert not torch.allclose(model(clips_BTCHW.flip(1)).logits_BK, model(clips_BTCHW).logits_BK, atol=1e-3)


def test_tsm_file_in_other_models(tmp_path: Path) -> None:
    path = str(tmp_path / "tsm.pth.tar")
    torch.save({"state_dict": reference_state("resnet18")}, path)
    with pytest.raises(InputError, match=r"shifts in 8 blocks, the model in 0; they differ in layer1.0, layer1.1"):
        build_model("tsn", backbone="resnet18", num_classes=CLASSES, weights=path)
    with pytest.raises(InputError, match=r"shifts in 8 blocks, the model in 16"):
        build_model("tsm", backbone="resnet34", num_classes=CLASSES, weights=path)
    model = build_model("tsm", backbone="resnet18", num_classes=3, attention={"kind": "w3"})
    report = load_weights(model, path)
    assert report.layout == "tsm"
    assert report.left_out == ("classifier.weight", "classifier.bias")
    assert "refinement.conv.weight" in report.fresh
    assert "backbone.layer1.0.attention.channel.reduce.weight" in report.fresh


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_file(tmp_path: Path, suffix: str) -> None:
    network = torchvision.models.resnet18(num_classes=CLASSES).eval()
    path = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(network.state_dict(), path)
    else:
        save_file(network.state_dict(), path)
    tsn = build_model("tsn", backbone="resnet18", num_classes=CLASSES, weights=str(path)).eval()
    frame_NCHW = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(tsn(frame_NCHW.unsqueeze(1)).logits_BK, network(frame_NCHW))
    other = build_model("tsm", backbone="resnet18", num_classes=CLASSES + 1)
    assert sorted(load_weights(other, str(path)).left_out) == ["classifier.bias", "classifier.weight"]
    torch.testing.assert_close(other.backbone.conv1.weight, network.conv1.weight)


def test_3d_file(tmp_path: Path) -> None:
    network = torchvision.models.video.mc3_18(num_classes=CLASSES).eval()
    torch.save(network.state_dict(), tmp_path / "mc3.pth")
    model = build_model("mc3_18", num_classes=CLASSES, weights=str(tmp_path / "mc3.pth")).eval()
    clip_BCTHW = torch.randn(1, 3, 4, 16, 16)
    torch.testing.assert_close(model(clip_BCTHW.transpose(1, 2)).logits_BK, network(clip_BCTHW))


def test_own_file_is_strict(tmp_path: Path) -> None:
    options = {"backbone": "resnet_small", "num_classes": 4}
    model = build_model("tsm", **options, attention={"kind": "w3"})
    path = str(tmp_path / "own.safetensors")
    save_file(model.state_dict(), path)
    twin = build_model("tsm", **options, attention={"kind": "w3"}, weights=path)
    torch.testing.assert_close(twin.state_dict(), model.state_dict())
    with pytest.raises(InputError, match=r"62 unexpected \(backbone.layer1.0.attention.*and 57 more\)"):
        build_model("tsm", **options, weights=path)
    del (state := model.state_dict())["backbone.layer1.0.attention.spatial.frame.bias"]
    save_file(state, path)
    with pytest.raises(InputError, match=r"1 missing \(backbone.layer1.0.attention.spatial.frame.bias\)"):
        load_weights(twin, path)


def test_wrong_network_lists_keys(tmp_path: Path) -> None:
    path = str(tmp_path / "r34.pth")
    torch.save(torchvision.models.resnet34().state_dict(), path)
    with pytest.raises(
        InputError, match=r"r34.pth \(torchvision layout\) do not fit the model: \d+ unexpected"
    ) as error:
        build_model("tsm", backbone="resnet18", num_classes=4, weights=path)
    assert "\n" not in str(error.value)
    torch.save(torchvision.models.resnet18(width_per_group=64).state_dict(), path)
    with pytest.raises(InputError, match=r"missing .* of another shape \(backbone.layer1.0.conv1.weight"):
        build_model("tsm", backbone="resnet50", num_classes=4, weights=path)


def test_unreadable(tmp_path: Path) -> None:
    model = build_model("tsm", backbone="resnet_small", num_classes=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match="no such file, and not a torchvision enum"):
        load_weights(model, str(tmp_path / "absent.pth"))
    with pytest.raises(InputError, match=r"ResNet50_Weights.V9: torchvision has no such enum"):
        load_weights(model, "ResNet50_Weights.V9")
    for content in (b"not a checkpoint", b"junk\n", b"", bytes(range(256))):
        (tmp_path / "broken.pth").write_bytes(content)
        with pytest.raises(InputError, match="not readable as plain tensors"):
            load_weights(model, str(tmp_path / "broken.pth"))
    (tmp_path / "broken.safetensors").write_bytes(b"123")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_weights(model, str(tmp_path / "broken.safetensors"))
    torch.save({"weights": Path("x")}, tmp_path / "object.pth")
    with pytest.raises(InputError, match=r"it holds Python objects; if you trust it, .* safetensors.torch.save_file$"):
        load_weights(model, str(tmp_path / "object.pth"))
    (tmp_path / "caffe2.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": [1.0]}}, protocol=2))
    with pytest.raises(InputError, match=r"it holds Python objects; if you trust it, .* safetensors.torch.save_file$"):
        load_weights(model, str(tmp_path / "caffe2.pkl"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"unknown layout \(first keys: a\)"):
        load_weights(model, str(tmp_path / "other.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        load_weights(model, str(tmp_path / "list.pth"))
    torch.testing.assert_close(model.state_dict(), before)


def test_arguments_of_the_training_beside_the_weights(tmp_path: Path) -> None:
    """EPIC-Kitchens' files hold an argparse.Namespace, the one class that is allowed. Nothing may hide in it."""
    state = torchvision.models.resnet18(num_classes=CLASSES).state_dict()
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=0.01)}, tmp_path / "epic.pth.tar")
    model = build_model("tsn", backbone="resnet18", num_classes=CLASSES)
    assert load_weights(model, str(tmp_path / "epic.pth.tar")).left_out == ()
    torch.save({"state_dict": state, "args": argparse.Namespace(where=Path("x"))}, tmp_path / "odd.pth.tar")
    with pytest.raises(InputError, match="it holds Python objects"):
        load_weights(model, str(tmp_path / "odd.pth.tar"))


def test_enum_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weights enum reads torchvision's cache. This test puts a file with the enum's name there."""
    torch.manual_seed(0)
    enum = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), folder / enum.url.rsplit("/", 1)[1])
    model = build_model("tsm", backbone="resnet18", num_classes=4, weights="ResNet18_Weights.IMAGENET1K_V1")
    torch.testing.assert_close(model.backbone.conv1.weight, network.conv1.weight)

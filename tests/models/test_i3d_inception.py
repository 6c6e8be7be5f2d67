"""I3D Inception-v1: the figures of its specification, its padding, and its public files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights, profile
from w3ray.models.clip_options import I3DInceptionOptions
from w3ray.models.i3d_inception import pad_same

SMALL = {"width": 8}
WITHIN = {"branch_1x1": "b0", "branch_3x3": "b1", "branch_second": "b2", "branch_pool": "b3b"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("frames", "gmac"), [(32, 55.58), (64, 111.15)])
def test_cost(frames: int, gmac: float) -> None:
    """Frames of 224 pixels, 83 classes. Published: 108 G for 64 frames, 12 M."""
    with torch.device("meta"):
        model = build_model("i3d_inception", num_classes=83)
    cost = profile(model, frames, 224)
    assert cost.macs == pytest.approx(gmac * 1e9, rel=1e-4)
    assert cost.parameters == 12_372_339


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


def public_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model under the names of `rgb_imagenet.pt`."""
    outer = {"conv_1a": "Conv3d_1a_7x7", "conv_2b": "Conv3d_2b_1x1", "conv_2c": "Conv3d_2c_3x3"}
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "classifier":
            state[f"logits.conv3d.{parts[1]}"] = value.reshape(*value.shape, 1, 1, 1) if value.dim() == 2 else value
            continue
        layer = "conv3d" if parts[-2] == "conv" else "bn"
        if parts[1] in outer:
            name = outer[parts[1]]
        else:
            branch = WITHIN[parts[2]] + ("ab"[int(parts[3])] if parts[3].isdigit() else "")
            name = f"Mixed_{parts[1].removeprefix('mixed_')}.{branch}"
        state[f"{name}.{layer}.{parts[-1]}"] = value
    return state


def reference_scores(state: dict[str, Tensor], x_BCTHW: Tensor) -> Tensor:
    """Scores [B, K] from the file's own keys, without a module of w3ray."""

    def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        padding: list[int] = []
        for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
            total = max(k - s, 0) if size % s == 0 else max(k - size % s, 0)
            padding = [total // 2, total - total // 2, *padding]
        return F.pad(x, padding)

    def unit(name: str, x: Tensor, step: int = 1) -> Tensor:
        weight = state[f"{name}.conv3d.weight"]
        x = F.conv3d(padded(x, weight.shape[2:], (step,) * 3), weight, stride=step)
        mean, var, scale, shift = (
            state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(F.batch_norm(x, mean, var, scale, shift, eps=0.001))

    def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(padded(x, kernel, stride), kernel, stride)

    x = pool(unit("Conv3d_1a_7x7", x_BCTHW, 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"):
        if name == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if name == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        at = f"Mixed_{name}"
        branches = [unit(f"{at}.b0", x), unit(f"{at}.b1b", unit(f"{at}.b1a", x))]
        branches += [unit(f"{at}.b2b", unit(f"{at}.b2a", x)), unit(f"{at}.b3b", pool(x, (3, 3, 3), (1, 1, 1)))]
        x = torch.cat(branches, dim=1)
    x = F.avg_pool3d(x, (2, *x.shape[3:]), 1)
    logits = F.conv3d(x, state["logits.conv3d.weight"], state["logits.conv3d.bias"])
    return logits.mean(dim=(2, 3, 4))


@pytest.mark.parametrize(("frames", "height", "width"), [(16, 32, 64), (17, 33, 47), (10, 40, 24)])
def test_public_files_give_their_scores(tmp_path: Path, frames: int, height: int, width: int) -> None:
    state = public_state(lively(build_model("i3d_inception", num_classes=5, options=SMALL)))
    torch.save(state, tmp_path / "rgb_imagenet.pt")
    model = build_model("i3d_inception", num_classes=5, options=SMALL)
    loaded = load_weights(model, str(tmp_path / "rgb_imagenet.pt"))
    assert (loaded.layout, loaded.loaded, loaded.fresh, loaded.left_out) == ("I3D", len(state), (), ())
    x_BTCHW = torch.randn(2, frames, 3, height, width)
    with torch.no_grad():
        found, expected = model.eval()(x_BTCHW).logits_BK, reference_scores(state, x_BTCHW.transpose(1, 2))
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_public_files_that_do_not_fit(tmp_path: Path) -> None:
    model = build_model("i3d_inception", num_classes=6, options=SMALL)
    state = public_state(build_model("i3d_inception", num_classes=5, options=SMALL))
    torch.save(state, tmp_path / "five.pt")
    assert sorted(load_weights(model, str(tmp_path / "five.pt")).left_out) == ["classifier.bias", "classifier.weight"]
    torch.save({**state, "Mixed_3b.b9.conv3d.weight": torch.zeros(1)}, tmp_path / "more.pt")
    with pytest.raises(InputError, match=r"1 unexpected \(Mixed_3b.b9.conv3d.weight\)"):
        load_weights(model, str(tmp_path / "more.pt"))
    del state["Mixed_5c.b2b.bn.bias"]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(InputError, match=r"1 missing \(backbone.mixed_5c.branch_second.1.norm.bias\)"):
        load_weights(model, str(tmp_path / "less.pt"))


def test_padding_is_larger_at_the_end() -> None:
    x_BCTHW = torch.ones(1, 1, 4, 5, 6)
    padded = pad_same(x_BCTHW, (3, 3, 3), (2, 2, 2))
    assert padded.shape == (1, 1, 5, 7, 7)
    assert padded[0, 0, :, 3, 3].tolist() == [1, 1, 1, 1, 0]
    assert padded[0, 0, 2, :, 3].tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_one_frame_is_a_window_of_its_own() -> None:
    model = lively(build_model("i3d_inception", num_classes=5, options=SMALL, dropout=0.0)).eval()
    out = model(torch.randn(1, 1, 3, 32, 32))
    pooled = out.features[0].mean(dim=(1, 3, 4))
    expected = F.linear(pooled, model.classifier.weight, model.classifier.bias)
    torch.testing.assert_close(out.logits_BK, expected)


def test_bad_width() -> None:
    with pytest.raises(ValueError, match="i3d_inception: width=12: must be a multiple of 8"):
        I3DInceptionOptions(width=12)

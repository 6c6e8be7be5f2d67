"""C3D + LSTM + RSTTM: the transformer against its definition, windows, and C3D's public files."""

from pathlib import Path

import pytest
import torch
from test_c3d import public_state
from torch import Tensor, nn

from w3ray.explaining.record import record
from w3ray.models import build_model, load_weights, profile
from w3ray.models.c3d_rsttm import SpatiotemporalTransformer
from w3ray.models.clip_options import C3DRSTTMOptions

SMALL = {"width": 4, "size": 32, "units": 8}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_cost() -> None:
    """38.5 G and little more for one window of 16 frames of 112 pixels; four windows in 40 frames."""
    with torch.device("meta"):
        model, c3d = (build_model(name, num_classes=83) for name in ("c3d_rsttm", "c3d"))
    one, four, plain = profile(model, 16, 112), profile(model, 40, 112), profile(c3d, 16, 112)
    transformer = 8 * 28 * 28 * 32 * 128 * 27 + 32 * 196 * 64 + 64 * (64 + 15)
    lstm = 4 * 256 * (4096 + 256) + 256 * 83
    assert one.macs == plain.macs - 4096 * 4096 - 4096 * 83 + transformer + lstm
    assert one.macs == pytest.approx(38.5e9, rel=0.03)
    assert four.macs == 4 * one.macs


def test_a_fresh_transformer_is_the_identity() -> None:
    transformer, x_NCTHW = SpatiotemporalTransformer(3), torch.randn(4, 3, 4, 7, 6)
    torch.testing.assert_close(transformer(x_NCTHW, 2), x_NCTHW, rtol=1e-4, atol=1e-4)


def test_half_precision_does_not_move_places() -> None:
    transformer, x_NCTHW = SpatiotemporalTransformer(3), torch.randn(2, 3, 4, 7, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(transformer(x_NCTHW, 1), x_NCTHW, rtol=1e-4, atol=1e-4)


def moved_by(theta_44: Tensor, x_NCTHW: Tensor) -> Tensor:
    """The output of a transformer with this homography."""
    transformer = SpatiotemporalTransformer(x_NCTHW.shape[1])
    with torch.no_grad():
        transformer.theta.bias.copy_((theta_44 - torch.eye(4)).flatten()[:15])
    return transformer(x_NCTHW, 1)


def test_a_move_along_an_axis() -> None:
    """Steps of whole cells: between the first and the last of n cells lie n - 1 steps, from -1 to 1."""
    x_NCTHW = torch.randn(1, 2, 5, 7, 9)
    for row, axis, size in ((0, 4, 9), (1, 3, 7), (2, 2, 5)):
        theta_44 = torch.eye(4)
        theta_44[row, 3] = 2 / (size - 1)
        expected = torch.zeros_like(x_NCTHW)  # the border is zero
        expected.narrow(axis, 0, size - 1).copy_(x_NCTHW.narrow(axis, 1, size - 1))
        torch.testing.assert_close(moved_by(theta_44, x_NCTHW), expected, rtol=1e-4, atol=1e-4)


def test_the_last_row_divides() -> None:
    """w = 1 + x / 2: at the right border a place is read at 2/3 of its coordinates."""
    theta_44 = torch.eye(4)
    theta_44[3, 0] = 0.5
    ramp = torch.linspace(-1, 1, 7).view(1, 1, 1, 1, 7).expand(1, 1, 3, 3, 7).contiguous()
    found = moved_by(theta_44, ramp)[0, 0, 1, 1]
    x = torch.linspace(-1, 1, 7)
    inside = (x / (1 + x / 2)).abs() <= 1
    torch.testing.assert_close(found[inside], (x / (1 + x / 2))[inside], rtol=1e-4, atol=1e-4)
    assert found[~inside].abs().max() < 1e-4
    theta_44[3, 0] = 1.0  # w is zero at the left border
    assert moved_by(theta_44, ramp).isfinite().all()


def test_it_remembers_the_windows_before() -> None:
    transformer = SpatiotemporalTransformer(3)
    nn.init.normal_(transformer.theta.weight)
    nn.init.normal_(transformer.recurrent.weight)
    x_NCTHW = torch.randn(3, 3, 4, 7, 7)
    other_NCTHW = torch.cat([torch.randn(1, 3, 4, 7, 7), x_NCTHW[1:]])
    one, other = (transformer.homographies(x, 3) for x in (x_NCTHW, other_NCTHW))
    assert not torch.allclose(one[1], other[1])
    assert not torch.allclose(one[2], other[2])
    alone = torch.cat([transformer.homographies(x_NCTHW[n : n + 1], 1) for n in range(3)])
    torch.testing.assert_close(alone[0], one[0])
    assert not torch.allclose(alone[1], one[1])


def test_gradients_reach_the_transformer_once_it_moves() -> None:
    model = build_model("c3d_rsttm", num_classes=3, options=SMALL, dropout=0.0)
    transformer = model.backbone.block3.temporal
    with torch.no_grad():
        transformer.theta.weight.normal_(0.0, 0.01)
    nn.init.normal_(model.classifier.last.weight)
    model(torch.randn(1, 24, 3, 32, 32)).logits_BK[0, 0].backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in transformer.parameters())


def test_pictures_show_the_whole_clip() -> None:
    """Two windows of 16 frames that overlap by 8 are 24 frames. Where they overlap, the mean is shown."""
    model = build_model("c3d_rsttm", num_classes=3, options=SMALL, attention={"kind": "w3", "start": "plain"}).eval()
    _, looks = record(model, torch.randn(1, 24, 3, 32, 32))
    assert [look.mask_THW.shape[0] for look in looks] == [24, 24, 12, 6, 3]
    assert [look.gate_TC.shape[0] for look in looks] == [24, 24, 12, 6, 3]
    parts = torch.stack([torch.zeros(4, 1), torch.ones(4, 1)])
    assert model.whole_clip(parts).flatten().tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_it_starts_from_c3d(tmp_path: Path) -> None:
    theirs = build_model("c3d", num_classes=5, options={"width": 4, "size": 32})
    torch.save({"state_dict": public_state(theirs)}, tmp_path / "c3d.pth")
    ours = build_model("c3d_rsttm", num_classes=5, options=SMALL)
    loaded = load_weights(ours, str(tmp_path / "c3d.pth"))
    assert loaded.left_out == tuple(
        f"classifier.{name}" for name in ("fc7.weight", "fc7.bias", "last.weight", "last.bias")
    )
    assert torch.equal(ours.classifier.window.fc6.weight, theirs.classifier.fc6.weight)
    assert torch.equal(ours.backbone.block5.convs[2].weight, theirs.backbone.block5.convs[2].weight)
    assert all(".temporal." in name or name.startswith("classifier.l") for name in loaded.fresh)


def test_clips_that_it_cannot_take() -> None:
    for frames in (8, 20, 39):
        with pytest.raises(ValueError, match=rf"RSTTM: clips of {frames} frames: this network takes 16, or 16 and a"):
            C3DRSTTMOptions().check_clip(frames, 112)
    for frames in (16, 24, 40):
        C3DRSTTMOptions().check_clip(frames, 112)
    with pytest.raises(ValueError, match="frames of 64 x 64 pixels: this network takes 112 x 112"):
        C3DRSTTMOptions().check_clip(16, 64)
    with pytest.raises(ValueError, match=r"C3D \+ LSTM \+ RSTTM: units=0"):
        C3DRSTTMOptions(units=0)

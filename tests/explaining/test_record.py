"""The record of an attention holds what the attention computed, and the network's output does not change."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from explain_parts import PLANTED_SIDE, moving_square, planted_model

from w3ray.attention import NonLocalConfig
from w3ray.attention.nonlocal_block import NonLocal
from w3ray.explaining.explanation import explain_clip
from w3ray.explaining.gradcam import grad_cam
from w3ray.explaining.maps import last_of_stages, mean_map, stretch, to_frames
from w3ray.explaining.record import _kept, record
from w3ray.models import build_model

OPTIONS = {
    "w3": {"kind": "w3", "start": "plain"},
    "cbam": {"kind": "cbam", "start": "plain"},
    "nonlocal": {"kind": "nonlocal"},
    "plain": None,
}


def small(attention, name="tsm", **options):
    torch.manual_seed(0)
    backbone = {} if name.startswith("r") else {"backbone": "resnet_small"}
    return build_model(name, num_classes=5, attention=attention, **backbone, **options).eval()


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_answer_is_the_models_own(kind):
    model = small(OPTIONS[kind])
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        before = model(x_BTCHW).logits_BK
        output, _ = record(model, x_BTCHW)
        assert torch.equal(output.logits_BK, before)
        assert torch.equal(model(x_BTCHW).logits_BK, before)
    assert not any(module._forward_hooks for module in model.modules())


def test_shapes():
    with torch.no_grad():
        _, looks = record(small(OPTIONS["w3"]), torch.randn(1, 4, 3, 48, 48))
    assert [(look.kind, look.stage, look.block) for look in looks] == [("W3", i, 1) for i in (1, 2, 3, 4)]
    assert [look.mask_THW.shape for look in looks] == [(4, 24, 24), (4, 12, 12), (4, 6, 6), (4, 3, 3)]
    assert [look.gate_TC.shape for look in looks] == [(4, 16), (4, 32), (4, 64), (4, 128)]
    assert all(((look.mask_THW > 0) & (look.mask_THW < 1)).all() for look in looks)


def test_shapes_3d():
    with torch.no_grad():
        _, looks = record(small(OPTIONS["w3"], "r3d_18"), torch.randn(1, 8, 3, 32, 32))
    assert [look.gate_TC.shape[0] for look in looks] == [8, 8, 4, 4, 2, 2, 1, 1]
    assert [(look.stage, look.block) for look in last_of_stages(looks)] == [(1, 2), (2, 2), (3, 2), (4, 2)]


@pytest.mark.parametrize("off", ["channel", "spatial"])
def test_a_half_that_is_off_is_none(off):
    with torch.no_grad():
        _, looks = record(small({"kind": "w3", off: False}), torch.randn(1, 4, 3, 32, 32))
    assert all((look.gate_TC is None) == (off == "channel") for look in looks)
    assert all((look.mask_THW is None) == (off == "spatial") for look in looks)


def test_masks_are_those_that_gate_the_features():
    model = small({"kind": "w3", "channel": False, "start": "plain"})
    attention = model.stages()[1][0].attention
    seen = []
    handle = attention.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    with torch.no_grad():
        _, looks = record(model, torch.randn(1, 4, 3, 32, 32))
    handle.remove()
    (branch, identity), output = seen[0]
    mask_TCHW = torch.from_numpy(looks[1].mask_THW)[:, None]
    # The block's ReLU has already changed the output in place.
    torch.testing.assert_close(output.x_BTCHW[0], torch.relu(branch[0] * mask_TCHW + identity[0]))


def test_more_than_one_clip_is_refused():
    with pytest.raises(ValueError, match="2 clips"):
        record(small(None), torch.randn(2, 4, 3, 32, 32))


@pytest.mark.parametrize(
    "options", [{}, {"pool": "output", "scale": True}, {"pool": "none"}], ids=["default", "output-scale", "none"]
)
def test_received_attention_is_that_of_the_block(options):
    torch.manual_seed(0)
    block = NonLocal(8, NonLocalConfig(**options)).eval()
    x_BTCHW = torch.randn(1, 3, 8, 6, 4)
    inner = {}
    block.expand.register_forward_hook(lambda m, i, o: inner.update({"expand_in": i[0]}))
    with torch.no_grad(), _kept(block) as tensors:
        block(x_BTCHW)
        theta_PE, phi_QE, g_QE = (each.permute(0, 2, 3, 1).flatten(0, 2) for each in block.project(x_BTCHW[0]))
        affinity_PQ = (theta_PE @ phi_QE.T * (0.5 if options.get("scale") else 1.0)).softmax(dim=1)
        # These are the block's affinities: with them the block's sum is reproduced.
        y_PE = inner["expand_in"].permute(0, 2, 3, 1).flatten(0, 2)
        torch.testing.assert_close(affinity_PQ @ g_QE, y_PE)
        received = tensors["mask"]
    assert received.shape == ((1, 3, 6, 4) if options.get("pool") == "none" else (1, 3, 3, 2))
    torch.testing.assert_close(received.flatten(), affinity_PQ.mean(dim=0) * len(phi_QE))
    assert received.mean().item() == pytest.approx(1)


def test_nonlocal_looks():
    with torch.no_grad():
        _, looks = record(small(OPTIONS["nonlocal"]), torch.randn(1, 4, 3, 32, 32))
    assert [(look.stage, look.block) for look in looks] == [(2, 1), (3, 1)]
    assert all(look.gate_TC is None and look.mask_THW.mean() == pytest.approx(1, abs=1e-4) for look in looks)


def test_a_planted_mask_lands_on_its_pixels():
    """With these weights, each stage's mask is open exactly where the picture is bright."""
    frames_TSSC, corners_T2 = moving_square()
    one = explain_clip(planted_model(), frames_TSSC, classes="abc", mean=(0, 0, 0), std=(1, 1, 1))
    assert one.source == "attention"
    for frame, (top, left) in enumerate(corners_T2):
        inside = np.zeros((PLANTED_SIDE, PLANTED_SIDE), bool)
        inside[top : top + 16, left : left + 16] = True
        for look in one.looks:
            mask_SS = to_frames(look.mask_THW, len(frames_TSSC), PLANTED_SIDE)[frame]
            assert inside.flat[mask_SS.argmax()], (frame, look.stage)
        map_SS = one.map_TSS[frame]
        assert inside.flat[map_SS.argmax()], frame
        assert map_SS[inside].mean() > 10 * map_SS[~inside].mean()


def test_grad_cam_of_a_linear_head():
    """For a mean and one linear layer, Eq. 1 is the layer's weight over the number of places: a known map."""
    model = small(None, dropout=0.0)
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        features_TCHW = model(x_BTCHW).features[0][0]
    _, _, H, W = features_TCHW.shape
    greatest = []
    for label in range(5):
        weight_C = model.classifier.weight[label].detach() / (4 * H * W)
        expected_THW = torch.relu(torch.einsum("c,tchw->thw", weight_C, features_TCHW))
        found_THW = grad_cam(model, x_BTCHW, label)
        torch.testing.assert_close(torch.from_numpy(found_THW), expected_THW)
        greatest.append(expected_THW.max())
    assert max(greatest) > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["tsm", "r3d_18"])
def test_grad_cam_of_a_head_that_is_not_linear(name):
    """Squares before the mean: the gradient is then 2 w A / Z', and differs between places and frames."""
    model = small(OPTIONS["w3"], name, refinement=False)
    weight, bias = model.classifier.weight, model.classifier.bias
    model.classifier.forward = lambda features_BTCHW: F.linear(
        features_BTCHW.square().mean(dim=(1, 3, 4)), weight, bias
    )
    x_BTCHW = torch.randn(1, 16, 3, 32, 32)
    with torch.no_grad():
        a_TCHW = model(x_BTCHW).features[0][0]
    T, C, H, W = a_TCHW.shape
    gradient_TCHW = 2 * model.classifier.weight[1].detach().view(1, C, 1, 1) * a_TCHW / (T * H * W)
    alpha_TC11 = gradient_TCHW.mean(dim=(2, 3), keepdim=True)
    expected_THW = torch.relu((alpha_TC11 * a_TCHW).sum(dim=1))
    assert expected_THW.max() > 0
    torch.testing.assert_close(torch.from_numpy(grad_cam(model, x_BTCHW, 1)), expected_THW)


def test_grad_cam_is_taken_before_refinement():
    """Refinement adds to the features. So the weights of a linear head stay, and so does the map of the features."""
    model = small(OPTIONS["w3"], dropout=0.0)
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    kept = []
    handle = model.stages()[-1][-1].register_forward_hook(lambda m, inputs, output: kept.append(output[0]))
    with torch.no_grad():
        model(x_BTCHW)
    handle.remove()
    H, W = kept[0].shape[2:]
    for label in range(5):
        weight_C = model.classifier.weight[label].detach() / (4 * H * W)
        expected_THW = torch.relu(torch.einsum("c,tchw->thw", weight_C, kept[0]))
        torch.testing.assert_close(torch.from_numpy(grad_cam(model, x_BTCHW, label)), expected_THW)


def test_a_model_in_training_stays_as_it_was():
    model = small(OPTIONS["w3"]).train()
    model.backbone.bn1.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    one = explain_clip(model, frames, classes="abcde")
    assert model.training
    assert model.classifier.training
    assert not model.backbone.bn1.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    again = explain_clip(model.eval(), frames, classes="abcde")
    assert np.array_equal(one.scores_K, again.scores_K)


def test_without_masks_the_map_is_grad_cam():
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    one = explain_clip(small(None), frames, classes="abcde")
    assert one.source == "gradcam"
    assert list(one.activity()) == ["Grad-CAM"]
    half = explain_clip(small({"kind": "w3", "spatial": False}), frames, classes="abcde")
    assert half.source == "gradcam"
    assert list(half.activity()) == [f"stage {i}" for i in (1, 2, 3, 4)]


def test_activity_is_the_mean_gate():
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    one = explain_clip(small(OPTIONS["w3"]), frames, classes="abcde")
    curve_T, least, greatest = one.activity()["stage 2"]
    mean_T = one.looks[1].gate_TC.mean(axis=1)
    assert (least, greatest) == (mean_T.min(), mean_T.max())
    assert curve_T.argmax() == mean_T.argmax()
    assert (curve_T.min(), curve_T.max()) == (0, 1)
    blocks = one.document(top=2)["blocks"]
    assert blocks[1]["channel_activity"] == [float(value) for value in mean_T]


class TestMaps:
    def test_cells_keep_their_place(self):
        mask_THW = np.zeros((2, 4, 4), np.float32)
        mask_THW[1, 2, 3] = 1
        frames_TSS = to_frames(mask_THW, 2, 40)
        assert frames_TSS[0].max() == 0
        row, column = np.unravel_index(frames_TSS[1].argmax(), (40, 40))
        assert 20 <= row < 30
        assert 30 <= column < 40
        # A cell is as wide as its share of the picture. Up to the middle of the first cell, nothing is interpolated.
        row_S = to_frames(np.array([[[0.0, 1.0]]], np.float32), 1, 40)[0, 0]
        assert row_S[:10].max() == 0
        assert row_S[30:].min() == 1
        np.testing.assert_allclose(row_S + row_S[::-1], 1)

    def test_time_is_stretched_too(self):
        frames_TSS = to_frames(np.array([0.0, 1.0], np.float32).reshape(2, 1, 1), 8, 4)
        assert np.all(np.diff(frames_TSS[:, 0, 0]) >= 0)
        assert (frames_TSS[0, 0, 0], frames_TSS[-1, 0, 0]) == (0, 1)

    def test_stretch(self):
        assert stretch([2.0, 4.0, 3.0]).tolist() == [0, 1, 0.5]
        assert stretch([0.95, 0.95]).tolist() == [0, 0]
        assert stretch([0.0, 0.0]).tolist() == [0, 0]

    def test_mean_map_weighs_stages_alike(self):
        faint, strong = np.zeros((2, 2, 2, 2), np.float32)
        faint[0, 0, 0], strong[1, 1, 1] = 0.001, 1
        map_TSS = mean_map([faint + 0.9, strong], 2, 2)
        assert map_TSS[0, 0, 0] == map_TSS[1, 1, 1] == 1

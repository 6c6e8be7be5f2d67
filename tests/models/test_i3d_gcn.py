"""I3D with graphs of boxes: the figures of its specification, its graphs, what learns, and what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights, profile
from w3ray.models.clip_options import I3DGCNOptions
from w3ray.models.i3d_gcn import GraphHead, box_features, overlaps

SMALL = {"width": 8, "blocks": [1, 1, 1, 1], "node_channels": 16}
NONLOCAL = {"kind": "nonlocal", "first": 2, "scale": True, "weight_start": "gaussian"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def boxes(*clips: list[list[list[float]]]) -> Tensor:
    """[B, T, N, 4]."""
    return torch.tensor(clips, dtype=torch.float32)


@pytest.mark.parametrize(("count", "gmac"), [(10, 224.739), (50, 229.730)])
def test_cost(count: int, gmac: float) -> None:
    """The specification: 224.7 and 229.7 G, 38.7 M, of which the graphs cost 0.59 and 5.58 G and the reduction 3.29."""
    with torch.device("meta"):
        model = build_model("i3d_gcn", num_classes=174, attention=NONLOCAL)
    cost = profile(model, 32, 224, count)
    assert cost.macs == pytest.approx(gmac * 1e9, rel=1e-5)
    assert cost.parameters == 38_696_430
    head = next(part for part in cost.parts if part.name == "classifier")
    assert head.macs / 1e9 == pytest.approx(3.29 + {10: 0.59, 50: 5.58}[count], abs=0.01)


def test_overlaps_by_hand() -> None:
    whole, left, none = [0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 0, 0]
    right = [0.5, 0, 1, 1]
    forward, backward = overlaps(boxes([[whole, left], [left, right], [none, right]]))
    expected = torch.zeros(6, 6)
    expected[0, 2:4] = 0.5  # the whole picture overlaps with both halves alike
    expected[1, 2] = 1
    expected[3, 5] = 1
    torch.testing.assert_close(forward[0], expected)
    back = torch.zeros(6, 6)
    back[2, 0], back[2, 1] = 1 / 3, 2 / 3  # IoU 0.5 and 1
    back[3, 0] = 1
    back[5, 3] = 1
    torch.testing.assert_close(backward[0], back)


def test_box_features_are_those_of_the_box() -> None:
    """A map whose right half is 2: a box in the left half sees 1, one across sees 2."""
    map_BTDHW = torch.ones(1, 2, 3, 8, 8)
    map_BTDHW[:, 1, :, :, 4:] = 2
    left, across = [0, 0, 0.4, 1], [0.25, 0.25, 1, 1]
    found = box_features(map_BTDHW, boxes([[left, across], [left, across]]), 7)
    torch.testing.assert_close(found[0, :, 0], torch.tensor([1.0, 1, 1, 2]))


def head(**options: int) -> GraphHead:
    made = GraphHead(8, 3, 0.0, I3DGCNOptions(node_channels=16, **options)).eval()
    nn.init.normal_(made.linear.weight)
    return made


def test_places_without_a_box_change_nothing() -> None:
    graph_head, map_BTCHW = head(), torch.randn(1, 2, 8, 6, 6)
    one, none = [0.1, 0.1, 0.6, 0.7], [0.0, 0.0, 0.0, 0.0]
    alone = graph_head(map_BTCHW, boxes([[one], [one]]))
    padded = graph_head(map_BTCHW, boxes([[one, none, none], [none, one, none]]))
    torch.testing.assert_close(padded, alone)
    without = graph_head(map_BTCHW, boxes([[none], [none]]))
    assert without.isfinite().all()
    assert not torch.allclose(without, alone)


def test_the_order_of_boxes_does_not_matter_and_that_of_frames_does() -> None:
    graph_head, map_BTCHW = head(), torch.randn(1, 3, 8, 6, 6)
    given = torch.rand(1, 3, 4, 2).sort(dim=-1).values
    given_BTN4 = torch.stack([given[..., 0], given[..., 0], given[..., 1], given[..., 1]], dim=-1)
    scores = graph_head(map_BTCHW, given_BTN4)
    torch.testing.assert_close(graph_head(map_BTCHW, given_BTN4.flip(2)), scores)
    nn.init.zeros_(graph_head.layers[0].weights[2].weight)  # else forward and backward are nearly alike
    forwards = graph_head(map_BTCHW, given_BTN4)
    backwards = graph_head(map_BTCHW.flip(1), given_BTN4.flip(1))
    assert not torch.allclose(forwards, backwards, atol=1e-5)


def test_both_sides_of_the_similarity_learn() -> None:
    graph_head = head()
    graph_head(
        torch.randn(2, 2, 8, 6, 6), boxes(*[[[[0, 0, 0.5, 0.5], [0.2, 0.2, 1, 1]]] * 2] * 2)
    ).square().sum().backward()
    for weight in (graph_head.query.weight, graph_head.key.weight):
        assert weight.grad is not None
        assert weight.grad.abs().max() > 1e-6


def test_similarity_is_equation_1_and_2() -> None:
    graph_head, x_BPD = head(), torch.randn(1, 3, 16)
    there_BP = torch.tensor([[1.0, 1, 0]])
    found = graph_head.similarity(x_BPD, there_BP)[0]
    query, key = graph_head.query.weight.detach(), graph_head.key.weight.detach()
    scores = torch.tensor([[float((query @ x_BPD[0, i]) @ (key @ x_BPD[0, j])) for j in range(2)] for i in range(3)])
    torch.testing.assert_close(found[:, :2], scores.softmax(dim=1))
    assert found[:, 2].abs().max() == 0


def test_frames_get_their_own_boxes() -> None:
    """The network strides over time by 2: boxes of frames 0, 2, ... are read, the others are not."""
    model = build_model("i3d_gcn", num_classes=3, options=SMALL).eval()
    nn.init.normal_(model.classifier.linear.weight)
    x_BTCHW = torch.randn(1, 8, 3, 32, 32)
    given = torch.tensor([0.0, 0.0, 0.7, 0.7]).expand(1, 8, 2, 4)
    first = model(x_BTCHW, boxes=given).logits_BK
    for frame, is_read in ((3, False), (4, True)):
        other = given.clone()
        other[:, frame] = torch.tensor([0.6, 0.6, 1.0, 1.0])
        assert torch.equal(model(x_BTCHW, boxes=other).logits_BK, first) != is_read


@pytest.mark.parametrize("kind", ["w3", "nonlocal"])
def test_it_starts_from_a_trained_i3d(tmp_path: Path, kind: str) -> None:
    attention = {"kind": kind}
    options = {"width": 8, "blocks": [1, 1, 1, 1]}
    i3d = build_model("i3d_r50", num_classes=5, options=options, attention=attention)
    for parameter in i3d.parameters():
        nn.init.normal_(parameter)
    save_file(i3d.state_dict(), tmp_path / "i3d.safetensors")
    model = build_model("i3d_gcn", num_classes=3, options=SMALL, attention=attention)
    loaded = load_weights(model, str(tmp_path / "i3d.safetensors"))
    assert loaded.layout == "I3D"
    assert sorted(loaded.left_out) == ["classifier.bias", "classifier.weight"]
    assert all(name.startswith("classifier.") for name in loaded.fresh)
    own = model.state_dict()
    for name, value in i3d.state_dict().items():
        if not name.startswith("classifier."):
            torch.testing.assert_close(own[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("given", [None, (1, 4, 4), (1, 3, 2, 4), (1, 4, 2, 5)])
def test_wrong_boxes_are_refused(given: tuple[int, ...] | None) -> None:
    model = build_model("i3d_gcn", num_classes=3, options=SMALL)
    wrong = None if given is None else torch.zeros(given)
    with pytest.raises(ValueError, match=r"i3d_gcn: boxes of shape .*: must be \[B, T, N, 4\]"):
        model(torch.randn(1, 4, 3, 32, 32), boxes=wrong)


@pytest.mark.parametrize(("options", "message"), [({"layers": 0}, "layers=0"), ({"node_channels": 1.5}, "node_ch")])
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"i3d_gcn: {message}"):
        build_model("i3d_gcn", num_classes=3, options=options)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    save_file(
        {"backbone.conv1.weight": torch.zeros(1), "classifier.weight": torch.zeros(1)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(InputError, match=r"\(I3D layout\) do not fit the model"):
        load_weights(build_model("i3d_gcn", num_classes=3, options=SMALL), str(tmp_path / "x.safetensors"))

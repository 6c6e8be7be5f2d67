"""TRN and TRN-Multiscale against their equations, the figures of their specification, and their public files."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.errors import InputError
from w3ray.models import build_model, load_weights, profile
from w3ray.models.frame_options import TRNMultiscaleOptions, TRNOptions
from w3ray.models.trn import MultiscaleRelationHead, Relations


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "backbone", "giga", "parameters"),
    [
        ("trn", "bninception", 16.256, 11_670_990),
        ("trn", "resnet50", 32.702, 25_170_926),
        ("trn_multiscale", "bninception", 16.261, 13_141_218),
        ("trn_multiscale", "resnet50", 32.708, 26_641_154),
    ],
)
def test_cost(name: str, backbone: str, giga: float, parameters: int) -> None:
    """The relations alone have 1.138 M and 2.609 M parameters (8 frames of 224 pixels, 174 classes)."""
    with torch.device("meta"):
        model = build_model(name, backbone=backbone, num_classes=174)
    cost = profile(model, 8, 224)
    assert cost.parameters == parameters
    assert cost.macs == pytest.approx(giga * 1e9, rel=1e-3)
    of_frames = sum(one.numel() for one in model.classifier.project.parameters())
    relations = sum(one.numel() for one in model.classifier.parameters()) - of_frames
    assert relations == {"trn": 1_138_350, "trn_multiscale": 2_608_578}[name]


def by_hand(head: nn.Module, maps_BTCHW: Tensor, tuples: dict[int, list[tuple[int, ...]]]) -> Tensor:
    """Eq. 3, tuple by tuple: for each k, the sum over its tuples."""
    x_BTF = head.project(maps_BTCHW.mean(dim=(3, 4)))
    total_BK = torch.zeros(len(maps_BTCHW), head.scales[0].last.out_features, dtype=maps_BTCHW.dtype)
    for scale in head.scales:
        for one in tuples[scale.num_ordered]:
            hidden_BO = torch.relu(scale.hidden(torch.relu(x_BTF[:, list(one)].flatten(1))))
            total_BK = total_BK + scale.last(hidden_BO)
    return total_BK


def lively_head(num_frames: int) -> nn.Module:
    head = MultiscaleRelationHead(6, num_frames, 5, 0.0).double()
    nn.init.normal_(head.project.weight)
    nn.init.normal_(head.project.bias)
    return head


def test_evaluation_is_the_expected_value_of_training() -> None:
    head, maps_BTCHW = lively_head(4).eval(), torch.randn(2, 4, 6, 2, 3, dtype=torch.float64)
    every = {k: list(itertools.combinations(range(4), k)) for k in (2, 3, 4)}
    each = {k: by_hand(head, maps_BTCHW, {other: every[k] if other == k else [] for other in every}) for k in every}
    # 6 pairs, of which training draws 3; 4 triples, of which it draws 3; 1 quadruple.
    torch.testing.assert_close(head(maps_BTCHW), each[2] * 3 / 6 + each[3] * 3 / 4 + each[4])


def test_training_draws_three_tuples_from_the_seed() -> None:
    head, maps_BTCHW = lively_head(4).train(), torch.randn(3, 4, 6, 2, 3, dtype=torch.float64)
    torch.manual_seed(5)
    drawn = {}
    for scale in head.scales:
        places_NJ = scale.draw()
        assert len(places_NJ) == {2: 3, 3: 3, 4: 1}[scale.num_ordered]
        assert len(torch.unique(places_NJ, dim=0)) == len(places_NJ)
        drawn[scale.num_ordered] = [tuple(row + torch.arange(len(row))) for row in places_NJ]
    torch.manual_seed(5)
    together = head(maps_BTCHW)
    torch.testing.assert_close(together, by_hand(head, maps_BTCHW, drawn))
    torch.manual_seed(5)
    torch.testing.assert_close(head(maps_BTCHW[:1]), together[:1])
    torch.manual_seed(6)
    assert not torch.allclose(head(maps_BTCHW), together)


def test_many_tuples_are_scored_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    relations, x_BTF = Relations(3, 6, 4).double(), torch.rand(2, 6, 256, dtype=torch.float64)
    whole = relations(x_BTF, relations.places_NJ)
    monkeypatch.setattr("w3ray.models.trn._AT_ONCE", 7)
    torch.testing.assert_close(relations(x_BTF, relations.places_NJ), whole)


def test_trn_is_its_equation_and_sees_order() -> None:
    model = build_model("trn", backbone="resnet_small", num_classes=4, options={"num_frames": 3}).eval()
    head = model.classifier
    nn.init.normal_(head.project.weight)
    x_BTCHW = torch.randn(2, 3, 3, 32, 32)
    out = model(x_BTCHW)
    frames = [head.project(out.features[0][:, t].mean(dim=(2, 3))) for t in range(3)]
    hidden = F.linear(torch.relu(torch.cat(frames, dim=1)), head.hidden.weight, head.hidden.bias)
    torch.testing.assert_close(out.logits_BK, head.last(torch.relu(hidden)))
    assert not torch.allclose(model(x_BTCHW.flip(1)).logits_BK, out.logits_BK, atol=1e-4)


def test_the_last_layer_of_every_scale_is_the_classifier() -> None:
    model = build_model("trn_multiscale", backbone="resnet_small", num_classes=4, options={"num_frames": 4})
    last = {id(parameter) for parameter in model.classifier_parameters()}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in last]
    assert names == [f"classifier.scales.{i}.last.{tensor}" for i in range(3) for tensor in ("weight", "bias")]


def test_clips_that_it_cannot_take() -> None:
    with pytest.raises(ValueError, match="TRN: clips of 16 frames: this network reads 8; set its option num_frames"):
        TRNOptions().check_clip(16, 224)
    model = build_model("trn_multiscale", backbone="resnet_small", num_classes=4)
    with pytest.raises(ValueError, match="TRN-Multiscale: clips of 4 frames: this network reads 8"):
        model(torch.zeros(1, 4, 3, 32, 32))
    with pytest.raises(ValueError, match="TRN: num_frames=1: must be a whole number >= 2"):
        TRNOptions(num_frames=1)
    with pytest.raises(ValueError, match="TRN-Multiscale: num_frames=17: must be at most 16"):
        TRNMultiscaleOptions(num_frames=17)
    TRNOptions(num_frames=40).check_clip(40, 224)


def public_state(model: nn.Module, kind: str) -> dict[str, Tensor]:
    """A model's tensors under the names of a public file: of the authors, mmaction2 or EPIC-Kitchens."""
    state = {}
    for key, value in model.state_dict().items():
        name = key.removeprefix("classifier.")
        name = re.sub(r"^scales\.(\d+)\.", r"fc_fusion_scales.\1.", name)
        name = re.sub(r"(^|\.)hidden\.", r"\g<1>1.", name)
        name = re.sub(r"(^|\.)last\.", r"\g<1>3.", name)
        if name[0] in "13":
            name = f"{'pre_' if kind == 'epic' and name[0] == '1' else ''}classifier.{name}"
        if key.startswith("backbone."):
            name = key.removeprefix("backbone.")
            if kind == "mmaction2":
                name = re.sub(r"(^|\.)(conv|bn)(\d)\.", r"\1conv\3.\2.", name)
                name = name.replace("downsample.0", "downsample.conv").replace("downsample.1", "downsample.bn")
            state[("backbone." if kind == "mmaction2" else "module.base_model.") + name] = value
        elif name.startswith("project."):
            state[name.replace("project", "cls_head.fc_cls" if kind == "mmaction2" else "module.new_fc")] = value
        elif kind == "epic" and ".3." in name:
            scale, tensor = name.split(".")[-3], name.split(".")[-1]
            at = "" if scale == "classifier" else f"{scale}."
            state[f"module.consensus.classifiers.{at}0.{tensor}"] = value[:3]
            state[f"module.consensus.classifiers.{at}1.{tensor}"] = value[3:]
        else:
            state[("cls_head." if kind == "mmaction2" else "module.") + f"consensus.{name}"] = value
    return state


@pytest.mark.parametrize(
    ("name", "kind"), [("trn_multiscale", "authors"), ("trn_multiscale", "mmaction2"), ("trn", "epic")]
)
def test_public_weights(tmp_path: Path, name: str, kind: str) -> None:
    theirs, ours = (build_model(name, backbone="resnet18", num_classes=5, options={"num_frames": 4}) for _ in range(2))
    state = public_state(theirs, kind)
    torch.save({"state_dict": state}, tmp_path / "trn.pth.tar")
    loaded = load_weights(ours, str(tmp_path / "trn.pth.tar"))
    assert (loaded.layout, loaded.fresh, loaded.left_out) == ("TRN", (), ())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    state["module.consensus.odd.weight"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "odd.pth.tar")
    with pytest.raises(InputError, match=r"1 unexpected \(classifier.odd.weight\)"):
        load_weights(ours, str(tmp_path / "odd.pth.tar"))


def test_scales_of_epic_share_last_layers(tmp_path: Path) -> None:
    """In that code scale i > 0 uses the list of scale i - 1, and nothing uses the last list."""
    theirs, ours = (
        build_model("trn_multiscale", backbone="resnet_small", num_classes=5, options={"num_frames": 4})
        for _ in range(2)
    )
    torch.save({"state_dict": public_state(theirs, "epic")}, tmp_path / "mtrn.pth.tar")
    loaded = load_weights(ours, str(tmp_path / "mtrn.pth.tar"))
    assert loaded.fresh == ()
    assert loaded.left_out == ("consensus.classifiers.2.weight", "consensus.classifiers.2.bias")
    for ours_at, theirs_at in ((0, 0), (1, 0), (2, 1)):
        for tensor in ("weight", "bias"):
            expected = getattr(theirs.classifier.scales[theirs_at].last, tensor)
            assert torch.equal(getattr(ours.classifier.scales[ours_at].last, tensor), expected)


def test_other_weights_start_it(tmp_path: Path) -> None:
    """A torchvision file has no relations, and a TRN of other classes has other last layers."""
    from torchvision.models import resnet18

    torch.save(resnet18(num_classes=7).state_dict(), tmp_path / "resnet18.pth")
    model = build_model("trn", backbone="resnet18", num_classes=5)
    loaded = load_weights(model, str(tmp_path / "resnet18.pth"))
    assert sorted(loaded.left_out) == ["classifier.bias", "classifier.weight"]
    assert all(name.startswith("classifier.") for name in loaded.fresh)
    other = build_model("trn", backbone="resnet18", num_classes=6)
    torch.save({"state_dict": public_state(other, "authors")}, tmp_path / "trn.pth.tar")
    loaded = load_weights(model, str(tmp_path / "trn.pth.tar"))
    assert sorted(loaded.left_out) == ["classifier.last.bias", "classifier.last.weight"]
    assert torch.equal(model.classifier.hidden.weight, other.classifier.hidden.weight)

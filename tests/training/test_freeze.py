"""Parts of a network rest and wake: which they are, and that nothing of them changes while they rest."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_parts import batch, run_microbatches, small_model, training_step

from w3ray.models import BACKBONES, MODELS, build_model
from w3ray.training.batch_norm import BatchNormMode, apply_batch_norm_mode
from w3ray.training.freeze import depths, frozen_names, rest
from w3ray.training.optimizer import parameter_groups


def network(name: str = "tsm", **changes: Any) -> Any:
    with torch.device("meta"):
        return build_model(name, **{"backbone": "resnet_small", "num_classes": 3, **changes})


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def trainable(model: nn.Module) -> frozenset[str]:
    return frozenset(name for name, one in model.named_parameters() if one.requires_grad)


class TestDepths:
    def test_of_a_residual_network(self) -> None:
        found = depths(network(backbone="resnet50", attention={"kind": "w3"}))
        assert (found["backbone.conv1.weight"], found["backbone.bn1.bias"]) == (0, 0)
        assert found["backbone.layer1.0.conv1.weight"] == 1
        assert found["backbone.layer3.5.attention.channel.reduce.weight"] == 3
        assert found["backbone.layer4.0.downsample.0.weight"] == 4
        assert found["classifier.weight"] == found["refinement.conv.weight"] == 5

    def test_of_two_paths(self) -> None:
        """The fast path is written down after the slow one; its stem is a stem all the same."""
        model = network("slowfast_r50", backbone=None)
        found = depths(model)
        by_part: dict[str, set[int]] = {}
        for name, depth in found.items():
            by_part.setdefault(".".join(name.split(".")[:2]), set()).add(depth)
        assert by_part["backbone.slow"] == by_part["backbone.fast"] == {0, 1, 2, 3, 4}

    @pytest.mark.parametrize("name", MODELS)
    def test_each_network_has_a_stem_or_stages_and_a_head(self, name: str) -> None:
        backbone = "resnet50" if MODELS[name].takes_backbone else None
        model = network(name, backbone=backbone)
        found = depths(model)
        assert found.keys() == dict(model.named_parameters()).keys()
        head = max(found.values())
        last = {id(one) for one in model.classifier_parameters()}
        assert all(found[name] == head for name, one in model.named_parameters() if id(one) in last)
        assert {*range(1, head + 1)} <= set(found.values())

    @pytest.mark.parametrize("backbone", [name for name in BACKBONES if name not in ("vgg16",)])
    def test_each_backbone_has_a_stem(self, backbone: str) -> None:
        assert 0 in depths(network("tsn", backbone=backbone)).values()


class TestNames:
    def test_parts_modules_and_patterns(self) -> None:
        model = network(attention={"kind": "w3"})
        everything = dict(model.named_parameters())
        assert frozen_names(model, []) == frozenset()
        assert frozen_names(model, ["backbone"]) == {name for name in everything if name.startswith("backbone.")}
        assert frozen_names(model, ["stem"]) == {
            name for name in everything if name.startswith("backbone.") and ".layer" not in name
        }
        assert frozen_names(model, ["stage1", "stage2"]) == {
            name for name in everything if name.startswith(("backbone.layer1.", "backbone.layer2."))
        }
        assert frozen_names(model, ["*.attention"]) == {name for name in everything if ".attention." in name}
        assert frozen_names(model, ["backbone.layer[34]*.conv1.weight"]) == {
            f"backbone.layer{stage}.0.conv1.weight" for stage in (3, 4)
        }
        head = {name for name in everything if name.startswith(("classifier.", "refinement."))}
        assert frozen_names(model, ["head"]) == head

    def test_faults(self) -> None:
        model = network()
        for wrong in ("stage9", "backbone.layer9", "Backbone", ""):
            with pytest.raises(ValueError, match=rf"'{wrong}' names nothing of TSM; it has stem, stage1, .*, head, "):
                frozen_names(model, [wrong])
        for everything in (["*"], ["backbone", "head"]):
            with pytest.raises(ValueError, match="nothing is left to train"):
                frozen_names(model, everything)


@pytest.mark.parametrize("mode", ["train", "partial", "sync"])
def test_what_rests_does_not_change_and_wakes_again(mode: BatchNormMode) -> None:
    model = apply_batch_norm_mode(small_model(1), mode)
    may = trainable(model)
    step = training_step(model)
    clips, labels = batch(4)

    def trained() -> set[str]:
        before = state(model)
        run_microbatches(step, clips, labels, [[0, 1, 2, 3]], normalizer=4)
        step.update(0.05)
        return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}

    frozen = frozen_names(model, ["stem", "stage1"])
    everything = trained()
    rest(model, frozen, may)
    found = trained()
    inside = ("backbone.conv1", "backbone.bn1", "backbone.layer1.")
    assert found == {name for name in everything if not name.startswith(inside)}
    assert found
    rest(model, frozenset(), may)
    assert trained() == everything
    assert trainable(model) == may


def test_a_network_that_rests_trains_as_its_head_alone() -> None:
    """Frozen norms use their statistics, so the features are those of the network in evaluation mode."""
    model = small_model(1)
    step = training_step(model)
    clips, labels = batch(4)
    rest(model, frozen_names(model, ["backbone"]), trainable(model))
    classifier = [value.detach().clone().requires_grad_() for value in model.classifier_parameters()]
    features = model.eval()(step.prepare(clips)).features[0].mean(dim=(1, 3, 4)).detach()
    run_microbatches(step, clips, labels, [[0, 1, 2, 3]], normalizer=4)
    scores = features @ classifier[0].T + classifier[1]
    nn.functional.cross_entropy(scores, labels).backward()
    for ours, theirs in zip(model.classifier_parameters(), classifier, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_layer_decay() -> None:
    model = network(backbone="resnet50", attention={"kind": "w3"})
    groups = parameter_groups(model, lr=0.01, weight_decay=1e-4, layer_decay=0.5, depth_of=depths(model))
    rate_of = {name: group["lr"] for group in groups for name in group["parameter_names"]}
    assert rate_of["classifier.weight"] == 0.05
    assert rate_of["backbone.layer4.2.conv3.weight"] == 0.005
    assert rate_of["backbone.layer1.0.conv1.weight"] == 0.01 / 16
    assert rate_of["backbone.conv1.weight"] == 0.01 / 32
    assert rate_of["backbone.layer4.0.attention.channel.reduce.bias"] == 0.01
    plain = parameter_groups(model, lr=0.01, weight_decay=1e-4)
    assert sorted(rate_of) == sorted(name for group in plain for name in group["parameter_names"])
    kind_of = {name: (group["name"], group["weight_decay"]) for group in plain for name in group["parameter_names"]}
    for group in groups:
        assert all(kind_of[name] == (group["name"], group["weight_decay"]) for name in group["parameter_names"])

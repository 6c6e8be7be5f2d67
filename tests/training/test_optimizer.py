"""Parameter groups by name for TSM with W3; TSM's multipliers."""

from typing import Any

import pytest
import torch
from torch import nn
from training_parts import small_model

from w3ray.models import build_model
from w3ray.models.frame_options import LSTMOptions
from w3ray.training.batch_norm import apply_batch_norm_mode
from w3ray.training.optimizer import OPTIMIZERS, build_optimizer, parameter_groups, scaled_lr, set_lr


def groups_of(model: nn.Module, **options: Any) -> dict[str, dict[str, Any]]:
    return {group["name"]: group for group in parameter_groups(model, lr=0.01, weight_decay=5e-4, **options)}


class TestGroups:
    def test_the_attention_has_a_factor_of_its_own(self) -> None:
        model = build_model("tsm", backbone="resnet_small", num_classes=7, attention={"kind": "w3"})
        groups = groups_of(model, attention_multiplier=3.0)
        multipliers = {name: group["lr_multiplier"] for name, group in groups.items()}
        assert (multipliers["attention_weight"], multipliers["attention_bias"]) == (3.0, 6.0)
        assert (multipliers["weight"], multipliers["bias"]) == (1.0, 2.0)
        inside = [name for group in ("attention_weight", "attention_bias") for name in groups[group]["parameter_names"]]
        assert sorted(inside) == sorted(name for name, _ in model.named_parameters() if ".attention." in name)
        assert (groups["attention_weight"]["weight_decay"], groups["attention_bias"]["weight_decay"]) == (5e-4, 0.0)
        assert "attention_weight" not in groups_of(model)

    @pytest.mark.parametrize("depthwise", [True, False])
    @pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet_small"])
    def test_the_classifier_alone_gets_its_multipliers_on_tsm_w3(self, backbone: str, depthwise: bool) -> None:
        with torch.device("meta"):
            model = build_model(
                "tsm", backbone=backbone, num_classes=7, attention={"kind": "w3", "depthwise": depthwise}
            )
        groups = groups_of(model)
        assert groups["classifier_weight"]["parameter_names"] == ["classifier.weight"]
        assert groups["classifier_bias"]["parameter_names"] == ["classifier.bias"]
        assert (groups["classifier_weight"]["lr_multiplier"], groups["classifier_bias"]["lr_multiplier"]) == (5, 10)
        attention = [name for name, _ in model.named_parameters() if ".attention." in name]
        assert any(".channel." in name for name in attention)
        for name in attention:
            home = "bias" if name.endswith("bias") else "weight"
            assert name in groups[home]["parameter_names"], name
        norms = {
            f"{name}.{key}"
            for name, module in model.named_modules()
            if isinstance(module, nn.BatchNorm2d)
            for key in ("weight", "bias")
        }
        assert set(groups["norm"]["parameter_names"]) == norms

    def test_every_parameter_is_in_one_group_with_its_rate_and_decay(self) -> None:
        model = small_model(0)
        groups = groups_of(model)
        named = dict(model.named_parameters())
        listed = [name for group in groups.values() for name in group["parameter_names"]]
        assert sorted(listed) == sorted(named)
        for group in groups.values():
            assert [id(parameter) for parameter in group["params"]] == [
                id(named[name]) for name in group["parameter_names"]
            ]
        found = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
        assert found == {
            "classifier_weight": (pytest.approx(0.05), 5e-4),
            "classifier_bias": (pytest.approx(0.1), 0.0),
            "weight": (pytest.approx(0.01), 5e-4),
            "bias": (pytest.approx(0.02), 0.0),
            "norm": (pytest.approx(0.01), 0.0),
        }

    def test_bare_scales_do_not_decay(self) -> None:
        model = nn.Module()
        model.gain, model.matrix = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))
        model.classifier = nn.Linear(2, 2)
        groups = groups_of(model, classifier_parameters=model.classifier.parameters())
        assert groups["norm"]["parameter_names"] == ["gain"]
        assert groups["weight"]["parameter_names"] == ["matrix"]

    def test_the_biases_of_an_lstm_are_biases(self) -> None:
        model = build_model("lstm", backbone="resnet_small", options=LSTMOptions.small, num_classes=3)
        biases = [name.rpartition(".")[2] for name in groups_of(model)["bias"]["parameter_names"]]
        assert sorted(biases) == ["bias_hh_l0", "bias_ih_l0"]

    def test_frozen_parameters_are_left_out(self) -> None:
        assert "norm" not in groups_of(apply_batch_norm_mode(small_model(0), "frozen"))

    def test_unknown_classifier_is_refused(self) -> None:
        with pytest.raises(ValueError, match="classifier_parameters"):
            groups_of(nn.Linear(2, 2))
        with pytest.raises(ValueError, match="must be parameters of the"):
            groups_of(small_model(0), classifier_parameters=nn.Linear(2, 2).parameters())

    def test_nothing_to_train_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no parameter that requires a gradient"):
            groups_of(small_model(0).requires_grad_(False))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_lr_multipliers_are_applied(kind: Any) -> None:
    optimizer = build_optimizer(kind, parameter_groups(small_model(0), lr=1.0, weight_decay=0.0))
    set_lr(optimizer, 0.5)
    found = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert found == {"classifier_weight": 2.5, "classifier_bias": 5.0, "weight": 0.5, "bias": 1.0, "norm": 0.5}


@pytest.mark.parametrize(("kind", "made"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_updates_are_those_of_torch(kind: Any, made: type[torch.optim.Optimizer]) -> None:
    model, peer = small_model(0), small_model(0)
    ours = build_optimizer(kind, parameter_groups(model, lr=0.1, weight_decay=0.1))
    options = {"momentum": 0.9} if kind == "sgd" else {}
    its = made(parameter_groups(peer, lr=0.1, weight_decay=0.1), **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for mine, other in zip(model.parameters(), peer.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator, dtype=mine.dtype)
            other.grad = mine.grad.clone()
        ours.step()
        its.step()
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), peer.parameters(), strict=True))
    assert isinstance(ours, made)
    assert type(ours).__name__ == made.__name__


def test_unknown_optimizer() -> None:
    with pytest.raises(ValueError, match="known are sgd, adamw"):
        build_optimizer("adam", [])  # type: ignore[arg-type]


def test_linear_scaling() -> None:
    assert scaled_lr(0.01, batch_size=64) == 0.01
    assert scaled_lr(0.01, batch_size=16) == pytest.approx(0.0025)
    assert scaled_lr(0.01, batch_size=256, lr_batch_size=32) == pytest.approx(0.08)
    with pytest.raises(ValueError, match="batch_size"):
        scaled_lr(0.01, batch_size=0)

"""Losses for uneven classes, compared with direct formulas."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from w3ray.heads import Heads
from w3ray.training.losses import CrossEntropy, LossInputs, build_losses
from w3ray.training.losses.uneven import Uneven

COUNTS = (60, 30, 9, 1, 0)


def inputs(num_clips: int = 6, seed: int = 0, classes: int = 4) -> LossInputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_clips, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (num_clips,), generator=generator)
    return LossInputs(logits.requires_grad_(), (), labels, None)


def loss(**options: Any) -> CrossEntropy:
    return CrossEntropy(uneven=Uneven(counts={"": COUNTS}, **options))


def log_probabilities(logits_K: Tensor) -> Tensor:
    return logits_K - logits_K.exp().sum().log()


def test_the_defaults_change_no_bit() -> None:
    for smoothing in (0.0, 0.1):
        plain = CrossEntropy(label_smoothing=smoothing)(inputs())
        assert torch.equal(CrossEntropy(smoothing, uneven=Uneven(counts={"": COUNTS}))(inputs()), plain)
        assert torch.equal(CrossEntropy(smoothing, uneven=Uneven())(inputs()), plain)


@pytest.mark.parametrize("kind", ["balanced", "effective"])
def test_class_weights(kind: Any) -> None:
    if kind == "balanced":
        expected = [100 / (4 * count) if count else 0.0 for count in COUNTS]
    else:
        raw = [(1 - 0.999) / (1 - 0.999**count) if count else 0.0 for count in COUNTS]
        scale = 100 / sum(weight * count for weight, count in zip(raw, COUNTS, strict=True))
        expected = [weight * scale for weight in raw]
    whole = inputs()
    total = 0.0
    for logits_K, label in zip(whole.logits_BK.detach(), whole.labels_B.tolist(), strict=True):
        total -= expected[label] * float(log_probabilities(logits_K)[label])
    assert float(loss(class_weights=kind)(whole)) == pytest.approx(total, rel=1e-9)
    assert sum(weight * count for weight, count in zip(expected, COUNTS, strict=True)) == pytest.approx(100)
    assert expected == [*sorted(expected[:4]), 0.0]


def test_focal_loss() -> None:
    whole = inputs()
    total = 0.0
    for logits_K, label in zip(whole.logits_BK.detach(), whole.labels_B.tolist(), strict=True):
        log_p = float(log_probabilities(logits_K)[label])
        total -= (1 - math.exp(log_p)) ** 2.0 * log_p
    assert float(loss(focal_gamma=2.0)(whole)) == pytest.approx(total, rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda logits: loss(focal_gamma=0.5)(LossInputs(logits, (), whole.labels_B, None)), (whole.logits_BK,)
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_a_clip_that_is_surely_right(gamma: float) -> None:
    logits = torch.tensor([[100.0, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    found = loss(focal_gamma=gamma)(LossInputs(logits, (), torch.tensor([0]), None))
    found.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert float(found) == 0.0


def test_logit_adjustment() -> None:
    whole = inputs()
    total = 0.0
    prior = torch.tensor([0.6, 0.3, 0.09, 0.01, 0.01], dtype=torch.float64)  # the class without clips: as with one
    for logits_K, label in zip(whole.logits_BK.detach(), whole.labels_B.tolist(), strict=True):
        total -= float(log_probabilities(logits_K + 0.5 * prior.log())[label])
    assert float(loss(logit_adjustment=0.5)(whole)) == pytest.approx(total, rel=1e-9)


def test_all_together_in_bf16() -> None:
    whole = inputs()
    options: dict[str, Any] = {"class_weights": "balanced", "focal_gamma": 1.0, "logit_adjustment": 1.0}
    half = LossInputs(whole.logits_BK.detach().bfloat16().requires_grad_(), (), whole.labels_B, None)
    found = loss(**options)(half)
    assert found.dtype == torch.float32
    wide = LossInputs(half.logits_BK.detach().double(), (), whole.labels_B, None)
    torch.testing.assert_close(found.double(), loss(**options)(wide), rtol=1e-4, atol=1e-4)


def test_each_head_has_its_own_classes() -> None:
    heads = Heads(("take", "put", "plate", "cup", "pan"), (("verb", 2), ("noun", 3)))
    counts = {"verb": (9, 1), "noun": (5, 4, 1)}
    built = build_losses({"cross_entropy": 1.0}, heads=heads, uneven=Uneven(class_weights="balanced", counts=counts))
    whole = inputs(classes=6)
    for name, head in zip(("verb", "noun"), heads.each(), strict=True):
        labels = head.label(whole.labels_B)
        weights = torch.tensor([10 / (len(counts[name]) * count) for count in counts[name]], dtype=torch.float64)
        expected = torch.nn.functional.cross_entropy(
            whole.logits_BK[:, head.scores], labels, weight=weights, reduction="sum"
        )
        torch.testing.assert_close(built[f"cross_entropy.{name}"][1](whole), expected)


def test_faults() -> None:
    for options in ({"focal_gamma": -1.0}, {"logit_adjustment": -0.1}):
        with pytest.raises(ValueError, match="must be >= 0"):
            Uneven(**options)

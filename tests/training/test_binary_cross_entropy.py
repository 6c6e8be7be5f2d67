"""The loss of multi-label clips, compared with torch's and with formulas. Its contract: tests/test_contracts.py."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from w3ray.evaluation.label_sets import best_is_a_class, classes_of_sets
from w3ray.heads import Heads
from w3ray.training.losses import BinaryCrossEntropy, LossInputs, build_losses
from w3ray.training.losses.uneven import Uneven

HEADS = Heads(("a", "b", "c"), label_sets=((), (0,), (0, 2), (1, 2)))
HAS = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.float64)


def inputs() -> LossInputs:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(8) % 4
    return LossInputs(logits.requires_grad_(), (), labels, None, classes_of_sets(HEADS)[labels])


def expected(targets: Tensor, factors: Any = 1.0) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(inputs().logits_BK, targets, reduction="none")
    return (losses * factors).mean(1).sum()


def test_it_is_the_mean_over_classes_and_the_sum_over_clips():
    whole = inputs()
    value = BinaryCrossEntropy()(whole)
    torch.testing.assert_close(value, 8 * F.binary_cross_entropy_with_logits(whole.logits_BK, HAS.repeat(2, 1)))
    parts = [whole._replace(logits_BK=whole.logits_BK[rows], classes_BK=whole.classes_BK[rows]) for rows in ([0, 5], [1, 2, 3, 4, 6, 7])]  # fmt: skip  # noqa: E501
    torch.testing.assert_close(sum(BinaryCrossEntropy()(part) for part in parts), value)


def test_clips_with_one_class_each():
    value = BinaryCrossEntropy()(inputs()._replace(labels_B=torch.arange(8) % 3, classes_BK=None))
    torch.testing.assert_close(value, expected(F.one_hot(torch.arange(8) % 3, 3).double()))


def test_label_smoothing():
    value = BinaryCrossEntropy(0.2)(inputs())
    torch.testing.assert_close(value, expected(HAS.repeat(2, 1) * 0.8 + 0.1))


def test_class_weights():
    """Of 10 clips, 4 have class a, none b, all c."""
    uneven = Uneven(class_weights="balanced", counts={"": (4, 0, 10)}, clips=10)
    has = HAS.repeat(2, 1)
    factors = torch.where(has > 0, torch.tensor([6 / 4, 10.0, 1 / 10], dtype=torch.float64), 1.0)
    torch.testing.assert_close(BinaryCrossEntropy(uneven=uneven)(inputs()), expected(has, factors))


def test_focal_loss():
    has = HAS.repeat(2, 1)
    scores = inputs().logits_BK.sigmoid()
    right = torch.where(has > 0, scores, 1 - scores)
    value = BinaryCrossEntropy(uneven=Uneven(focal_gamma=2.0))(inputs())
    torch.testing.assert_close(value, expected(has, (1 - right) ** 2))


def test_cross_entropy_of_multi_label_clips_is_the_binary_one():
    built = build_losses({"cross_entropy": 0.5, "mfr": 1.0}, heads=HEADS, label_smoothing=0.1)
    assert [(name, weight) for name, (weight, _) in built.items()] == [("binary_cross_entropy", 0.5), ("mfr", 1.0)]
    assert built["binary_cross_entropy"][1].label_smoothing == 0.1
    built = build_losses({"cross_entropy": 1.0, "binary_cross_entropy": 0.25}, heads=HEADS)
    assert {name: weight for name, (weight, _) in built.items()} == {"binary_cross_entropy": 0.25}
    one_class = build_losses({"cross_entropy": 1.0, "binary_cross_entropy": 0.25}, heads=Heads(("a", "b")))
    assert list(one_class) == ["cross_entropy", "binary_cross_entropy"]


@pytest.mark.parametrize(
    ("heads", "uneven", "message"),
    [
        (
            HEADS,
            Uneven(class_weights="effective", counts={"": (1, 1, 1)}),
            "class_weights=effective is for clips with one",
        ),
        (HEADS, Uneven(logit_adjustment=1.0, counts={"": (1, 1, 1)}), "logit_adjustment is for clips with one class"),
        (Heads(("a", "b", "c"), (("x", 1), ("y", 2))), None, "binary_cross_entropy is for one head"),
    ],
)
def test_what_is_refused(heads, uneven, message):
    with pytest.raises(ValueError, match=message):
        build_losses({"binary_cross_entropy": 1.0}, heads=heads, uneven=uneven)


def test_a_hit_is_a_best_score_of_one_of_the_classes():
    logits = torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 2, 3], [1, 2, 3]])
    assert best_is_a_class(logits, torch.arange(4), classes_of_sets(HEADS)).tolist() == [False, True, True, True]

"""Counts compared with torchmetrics; exact for any split (over ranks: tests/training/test_step_ddp.py)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from w3ray.evaluation.metrics import Counts


def scores(num_clips: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_clips, num_classes, generator=generator)
    labels = torch.randint(0, num_classes, (num_clips,), generator=generator)
    logits[torch.arange(num_clips), labels] += 1.0
    return logits, labels


def counted(logits: Tensor, labels: Tensor) -> Counts:
    counts = Counts(logits.shape[1])
    counts.update(logits, labels)
    return counts


class TestAgainstTorchmetrics:
    @pytest.mark.parametrize("num_classes", [2, 6, 40])
    def test_accuracies_and_confusion(self, num_classes: int) -> None:
        logits, labels = scores(500, num_classes)
        counts = counted(logits, labels)
        result = counts.result()
        expected = {
            "top1": MulticlassAccuracy(num_classes, average="micro"),
            "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
            "mean_class_accuracy": MulticlassAccuracy(num_classes, average="macro"),
        }
        for name, metric in expected.items():
            assert result[name] == pytest.approx(float(metric(logits, labels)), abs=1e-6), name
        matrix = MulticlassConfusionMatrix(num_classes)(logits, labels)
        assert torch.equal(counts.confusion_KP[:, :-1], matrix)
        assert result["loss"] == pytest.approx(float(F.cross_entropy(logits.double(), labels)), abs=1e-7)
        assert result["rows"] == 500

    def test_mean_class_accuracy_leaves_out_classes_without_clips(self) -> None:
        logits, labels = scores(200, 6)
        keep = labels != 2
        logits, labels = logits[keep], labels[keep]
        metric = MulticlassAccuracy(6, average="none")(logits, labels)
        expected = float(metric[[0, 1, 3, 4, 5]].mean())
        assert counted(logits, labels).result()["mean_class_accuracy"] == pytest.approx(expected, abs=1e-6)


class TestExactness:
    @pytest.mark.parametrize("sizes", [[1] * 60, [7, 53], [20, 20, 20]])
    def test_any_split_gives_the_same_bits(self, sizes: list[int]) -> None:
        logits, labels = scores(60, 7)
        parts = Counts(7)
        for logits_BK, labels_B in zip(logits.split(sizes), labels.split(sizes), strict=True):
            parts.merge(counted(logits_BK, labels_B))
        assert torch.equal(parts.state(), counted(logits, labels).state())
        assert parts.result() == counted(logits, labels).result()

    def test_masked_rows_count_nowhere(self) -> None:
        logits, labels = scores(6, 4)
        counts = Counts(4)
        padded = torch.cat([logits, torch.full((2, 4), math.nan), torch.zeros(1, 4)])
        counts.update(padded, torch.cat([labels, torch.tensor([-1, 99, 0])]), torch.tensor([True] * 6 + [False] * 3))
        assert torch.equal(counts.state(), counted(logits, labels).state())

    def test_state_round_trip_and_sum(self) -> None:
        first, second = counted(*scores(9, 4, 1)), counted(*scores(5, 4, 2))
        total = Counts(4).load_state(first.state() + second.state())
        assert torch.equal(total.state(), first.merge(second).state())
        assert total.rows == 14

    def test_state_is_a_copy(self) -> None:
        counts = counted(*scores(3, 4))
        state = counts.state()
        counts.merge(counted(*scores(3, 4)))
        assert not torch.equal(state, counts.state())


class TestOddScores:
    def test_equal_scores_rank_by_class_number(self) -> None:
        counts = counted(torch.zeros(10, 10), torch.arange(10))
        assert counts.hits_K.tolist() == [1] + [0] * 9
        assert counts.top_hits_K.tolist() == [1] * 5 + [0] * 5
        assert counts.confusion_KP[:, 0].tolist() == [1] * 10

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_scores_that_are_not_finite_are_never_right(self, bad: float) -> None:
        logits, labels = scores(4, 3)
        logits[0, :] = bad
        logits[1, 0] = bad
        counts = counted(logits, labels)
        assert counts.not_finite == 2
        assert counts.rows == 4
        rest = counted(logits[2:], labels[2:])
        assert torch.equal(counts.hits_K, rest.hits_K)
        assert torch.equal(counts.top_hits_K, rest.top_hits_K)
        assert math.isnan(counts.result()["loss"])

    def test_one_class(self) -> None:
        assert counted(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)).result()["top1"] == 1.0

    def test_huge_loss_does_not_overflow(self) -> None:
        logits = torch.tensor([[0.0, 1e30]] * 1000)
        loss = counted(logits, torch.zeros(1000, dtype=torch.int64)).result()["loss"]
        assert loss == pytest.approx(1e6)


class TestFaults:
    def test_nothing_counted(self) -> None:
        with pytest.raises(ValueError, match="no clip was counted"):
            Counts(3).result()

    def test_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"scores \(B, 3\)"):
            Counts(3).update(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
        with pytest.raises(ValueError, match="cannot add"):
            Counts(3).merge(Counts(4))
        with pytest.raises(ValueError, match="need int64"):
            Counts(3).load_state(torch.zeros(2, dtype=torch.int64))

    @pytest.mark.parametrize("label", [-1, 3])
    def test_valid_label_out_of_range(self, label: int) -> None:
        with pytest.raises((IndexError, RuntimeError)):
            Counts(3).update(torch.zeros(1, 3), torch.tensor([label]))

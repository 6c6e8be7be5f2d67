"""Losses, compared with direct formulas. They are sums over clips for any split."""

import pytest
import torch
import torch.nn.functional as F

from w3ray.heads import Heads
from w3ray.training.losses import (
    CrossEntropy,
    LossInputs,
    MatureFeatures,
    PooledMatureFeatures,
    SquaredMatureFeatures,
    build_losses,
    weights_by_head,
)


def inputs(num_clips: int = 3, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> LossInputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_clips, 5, generator=generator, dtype=torch.float64).to(dtype)
    features = torch.randn(num_clips, 2, 4, 3, 3, generator=generator, dtype=torch.float64).to(dtype)
    teacher = torch.randn(num_clips, 2, 4, 3, 3, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 5, (num_clips,), generator=generator)
    return LossInputs(logits.requires_grad_(), (features.requires_grad_(),), labels, (teacher,))


class TestCrossEntropy:
    def test_direct_formula(self) -> None:
        whole, smoothing = inputs(), 0.2
        expected = torch.zeros((), dtype=torch.float64)
        for logits_K, label in zip(whole.logits_BK, whole.labels_B, strict=True):
            log_K = logits_K - logits_K.exp().sum().log()
            expected = expected - (1 - smoothing) * log_K[label] - smoothing * log_K.mean()
        torch.testing.assert_close(CrossEntropy(label_smoothing=smoothing)(whole), expected)

    @pytest.mark.parametrize("smoothing", [-0.1, 1.0])
    def test_smoothing_outside_its_range(self, smoothing: float) -> None:
        with pytest.raises(ValueError, match="label_smoothing"):
            CrossEntropy(label_smoothing=smoothing)


class TestMatureFeatures:
    def test_equation_9_written_as_loops(self) -> None:
        whole = inputs()
        student, teacher = whole.features[0].tolist(), whole.teacher_features[0].tolist()
        expected = 0.0
        for clip in range(3):
            for frame in range(2):
                square = 0.0
                for channel in range(4):
                    for y in range(3):
                        for x in range(3):
                            gap = student[clip][frame][channel][y][x] - teacher[clip][frame][channel][y][x]
                            square += gap * gap
                expected += square**0.5 / 2
        assert MatureFeatures()(whole).item() == pytest.approx(expected, rel=1e-12)

    def test_gradient_is_zero_at_zero_difference_and_a_unit_vector_elsewhere(self) -> None:
        whole = inputs(2)
        with torch.no_grad():
            whole.features[0][0, 1] = whole.teacher_features[0][0, 1]
        MatureFeatures()(whole).backward()
        norms_BT = whole.features[0].grad.flatten(2).norm(dim=2)
        torch.testing.assert_close(norms_BT, torch.tensor([[0.5, 0.0], [0.5, 0.5]], dtype=torch.float64))

    @pytest.mark.parametrize("gap", [1e-30, 1e-18, 1e18])
    def test_finite_at_tiny_and_huge_differences(self, gap: float) -> None:
        features = torch.full((1, 1, 2, 2, 2), gap, requires_grad=True)
        whole = LossInputs(
            torch.zeros(1, 5), (features,), torch.zeros(1, dtype=torch.int64), (torch.zeros(1, 1, 2, 2, 2),)
        )
        MatureFeatures()(whole).backward()
        assert features.grad.isfinite().all()

    def test_other_architecture_is_refused(self) -> None:
        whole = inputs()
        with pytest.raises(ValueError, match=r"\(3, 1, 4, 3, 3\)"):
            MatureFeatures()(whole._replace(teacher_features=(whole.teacher_features[0][:, :1],)))
        with pytest.raises(ValueError, match="teacher"):
            MatureFeatures()(whole._replace(teacher_features=None))

    def test_of_several_maps_it_is_the_mean_of_their_norms(self) -> None:
        one, other = inputs(seed=0), inputs(seed=1)
        pair = one._replace(
            features=(one.features[0], other.features[0].roll(1, dims=3)[..., :2]),
            teacher_features=(one.teacher_features[0], other.teacher_features[0][..., :2]),
        )
        second = pair._replace(features=pair.features[1:], teacher_features=pair.teacher_features[1:])
        torch.testing.assert_close(MatureFeatures()(pair), (MatureFeatures()(one) + MatureFeatures()(second)) / 2)
        with pytest.raises(ValueError, match=r"are \(3, 2, 4, 3, 3\) and \(3, 2, 4, 3, 2\) and the teacher's are \(3"):
            MatureFeatures()(pair._replace(teacher_features=one.teacher_features))

    def test_the_square_is_of_each_frame(self) -> None:
        whole = inputs()
        gap_BTCHW = whole.features[0] - whole.teacher_features[0]
        expected = sum(gap_BTCHW[clip, frame].norm() ** 2 / 2 for clip in range(3) for frame in range(2))
        torch.testing.assert_close(SquaredMatureFeatures()(whole), expected)

    def test_pooled_does_not_see_where_the_features_are(self) -> None:
        whole = inputs()
        moved = whole._replace(features=(whole.features[0].roll(1, dims=4),))
        torch.testing.assert_close(PooledMatureFeatures()(moved), PooledMatureFeatures()(whole))
        gap_BTC = (whole.features[0] - whole.teacher_features[0]).sum(dim=(3, 4)) / 9
        expected = sum(gap_BTC[clip, frame].norm() / 2 for clip in range(3) for frame in range(2))
        torch.testing.assert_close(PooledMatureFeatures()(whole), expected)


def test_build_losses_leaves_out_weight_zero() -> None:
    built = build_losses({"cross_entropy": 1, "mfr": 0}, label_smoothing=0.1)
    assert list(built) == ["cross_entropy"]
    weight, loss = built["cross_entropy"]
    assert weight == 1.0
    assert isinstance(loss, CrossEntropy)
    assert loss.label_smoothing == 0.1


def test_unknown_loss_lists_the_known() -> None:
    with pytest.raises(ValueError, match="known are cross_entropy, binary_cross_entropy, mfr"):
        build_losses({"cross_entropie": 1.0})


class TestSeveralHeads:
    HEADS = Heads(("take", "put", "cup", "pan", "lid"), (("verb", 2), ("noun", 3)))

    def test_one_cross_entropy_each(self) -> None:
        whole = inputs(6)._replace(labels_B=torch.arange(6))
        built = build_losses({"cross_entropy": 1.0, "mfr": 0.5}, label_smoothing=0.1, heads=self.HEADS)
        assert {name: weight for name, (weight, _) in built.items()} == {
            "cross_entropy.verb": 1.0,
            "cross_entropy.noun": 1.0,
            "mfr": 0.5,
        }
        options = {"reduction": "sum", "label_smoothing": 0.1}
        verbs, nouns = torch.arange(6) // 3, torch.arange(6) % 3
        expected = F.cross_entropy(whole.logits_BK[:, :2], verbs, **options)
        torch.testing.assert_close(built["cross_entropy.verb"][1](whole), expected)
        expected = F.cross_entropy(whole.logits_BK[:, 2:], nouns, **options)
        torch.testing.assert_close(built["cross_entropy.noun"][1](whole), expected)

    def test_a_head_may_have_a_weight_of_its_own(self) -> None:
        weights = {"cross_entropy": 1.0, "cross_entropy.noun": 0.25}
        assert weights_by_head(weights, self.HEADS.names) == {"cross_entropy.verb": 1.0, "cross_entropy.noun": 0.25}
        built = build_losses({"cross_entropy": 1.0, "cross_entropy.noun": 0.0}, heads=self.HEADS)
        assert list(built) == ["cross_entropy.verb"]

    @pytest.mark.parametrize("heads", [HEADS, Heads(("a", "b")), None])
    @pytest.mark.parametrize("name", ["cross_entropy.tool", "mfr.verb"])
    def test_a_head_that_there_is_not(self, heads: Heads | None, name: str) -> None:
        with pytest.raises(ValueError, match=f"unknown loss '{name}'"):
            build_losses({name: 1.0}, heads=heads)

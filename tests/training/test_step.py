"""One process: splits, masks, precision, teacher, updates."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from training_parts import NUM_CLASSES, batch, buffers, gradients, padded, run_microbatches, small_model, training_step

from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.models import VideoOutput
from w3ray.training.batch_norm import apply_batch_norm_mode
from w3ray.training.randomness import microbatch_seed
from w3ray.training.step import TrainingStep, normalize_clips

WHOLE: list[list[int | None]] = [[0, 1, 2, 3, 4]]
LOSS_WEIGHTS = {"cross_entropy": 1.0, "mfr": 0.3}


def frozen_pair() -> tuple[nn.Module, nn.Module]:
    """Student and teacher with one architecture. Batch norm is frozen, so that clips do not influence each other."""
    return apply_batch_norm_mode(small_model(1), "frozen"), small_model(2)


class OneConv(nn.Module):
    """The smallest network with everything that matters for compilation: convolution, batch norm, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.classifier = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Linear(4, NUM_CLASSES)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        return self.classifier.parameters()

    def forward(self, x_BTCHW: torch.Tensor) -> VideoOutput:
        features = self.norm(self.conv(x_BTCHW.flatten(0, 1))).relu().unflatten(0, x_BTCHW.shape[:2])
        return VideoOutput(self.classifier(features.mean((3, 4))).mean(1), (features,))


class TestNormalize:
    def test_equals_the_textbook_formula(self) -> None:
        clips, _ = batch(3)
        mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
        expected = (clips.permute(0, 1, 4, 2, 3).float() / 255 - mean) / std
        torch.testing.assert_close(normalize_clips(clips), expected, rtol=1e-5, atol=1e-6)

    def test_folded_frames_are_channels_last_without_a_copy(self) -> None:
        clips, _ = batch(2)
        x_BTCHW = normalize_clips(clips)
        folded = x_BTCHW.flatten(0, 1)
        assert folded.data_ptr() == x_BTCHW.data_ptr()
        assert folded.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("clips", [torch.zeros(2, 3, 4, 4, 3), torch.zeros(3, 4, 4, 3, dtype=torch.uint8)])
    def test_refuses_what_is_no_uint8_clip(self, clips: torch.Tensor) -> None:
        with pytest.raises(ValueError, match="uint8"):
            normalize_clips(clips)

    def test_refuses_other_channel_counts(self) -> None:
        with pytest.raises(ValueError, match="4 channels"):
            normalize_clips(torch.zeros(1, 1, 2, 2, 4, dtype=torch.uint8))


class TestSplits:
    @pytest.mark.parametrize(
        "split",
        [
            [[0], [1], [2], [3], [4]],
            [[0, 1], [2, 3], [4, None]],
            [[4, 2, 0], [None, 3, 1]],
            [[0, 1, None], [None, None, None], [2, None, 3], [4]],
            [[None, None], [0, 1, 2, 3, 4], [None]],
        ],
    )
    def test_any_split_gives_the_gradient_of_the_whole(self, split: list[list[int | None]]) -> None:
        clips, labels = batch(5)
        results = []
        for microbatches in (WHOLE, split):
            student, teacher = frozen_pair()
            step = training_step(student, teacher=teacher, loss_weights=LOSS_WEIGHTS, label_smoothing=0.1)
            run_microbatches(step, clips, labels, microbatches, normalizer=5)
            results.append((gradients(student), step.update(0.01)))
        (whole, whole_result), (parts, parts_result) = results
        assert whole.keys() == parts.keys()
        assert whole
        for name in whole:
            assert whole[name].abs().sum() > 0, f"{name}: a gradient of zeros would prove nothing"
            torch.testing.assert_close(
                parts[name], whole[name], rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
            )
        assert parts_result.num_valid == whole_result.num_valid == 5
        assert int(parts_result.correct) == int(whole_result.correct)
        for loss in LOSS_WEIGHTS:
            torch.testing.assert_close(parts_result.loss_sums[loss], whole_result.loss_sums[loss])

    def test_gradient_is_that_of_the_mean_loss(self) -> None:
        clips, labels = batch(5)
        student, _ = frozen_pair()
        step = training_step(student)
        run_microbatches(step, clips, labels, [[0, 1, None], [2, 3, 4]], normalizer=5)
        found = gradients(student)
        reference = frozen_pair()[0].train()
        logits = reference(normalize_clips(clips, dtype=torch.float64)).logits_BK
        nn.functional.cross_entropy(logits, labels).backward()
        for name, gradient in gradients(reference).items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)

    def test_masked_rows_reach_no_batch_norm(self) -> None:
        clips, labels = batch(4)
        left = []
        for microbatches in ([[0, 1], [2, 3]], [[None, 0, 1], [None, None], [2, None, None, 3]]):
            model = small_model(1)
            before = buffers(model)
            step = training_step(model)
            run_microbatches(step, clips, labels, microbatches, normalizer=4)
            step.update(0.05)
            left.append(model.state_dict())
            assert not torch.equal(before["backbone.bn1.running_mean"], model.backbone.bn1.running_mean)
        for name, value in left[0].items():
            assert torch.equal(value, left[1][name]), name

    def test_step_without_a_valid_clip_changes_nothing(self) -> None:
        clips, labels = batch(2)
        model = small_model(1)
        step = training_step(model)
        run_microbatches(step, clips, labels, [[0, 1]], normalizer=2)
        step.update(0.1)  # fills the momentum, so that even a gradient of 0 would move the parameters
        before = copy.deepcopy(model.state_dict())
        run_microbatches(step, clips, labels, [[None, None]], normalizer=0)
        result = step.update(0.1)
        assert not result.updated
        assert result.num_valid == 0
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_dropout_follows_the_seed_and_nothing_else(self) -> None:
        clips, labels = batch(2)
        found = []
        for seed, spoiler in ((7, 1), (7, 2), (8, 1)):
            model = small_model(1, dropout=0.5)
            step = training_step(model)
            torch.manual_seed(spoiler)
            step.accumulate(*padded(clips, labels, [0, 1]), normalizer=2, seed=microbatch_seed(seed, 3, 0), last=True)
            found.append(gradients(model)["classifier.weight"])
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])

    @pytest.mark.slow
    def test_compiled_model_accepts_partly_valid_microbatches(self) -> None:
        torch._dynamo.reset()
        clips, labels = batch(5)
        found = []
        for compiled in (False, True):
            torch.manual_seed(0)
            model = OneConv()
            step = training_step(model)
            if compiled:
                step.model = torch.compile(model, dynamic=True)
            run_microbatches(step, clips, labels, [[0, 1, 2], [None, 3, 4]], normalizer=5)
            found.append((gradients(model), buffers(model)))
        for name, gradient in found[0][0].items():
            torch.testing.assert_close(found[1][0][name], gradient, rtol=1e-4, atol=1e-6)
        for name, buffer in found[0][1].items():
            torch.testing.assert_close(found[1][1][name], buffer, rtol=1e-5, atol=1e-6)


class TestTeacher:
    def test_teacher_is_left_as_it_was(self) -> None:
        clips, labels = batch(3)
        student, teacher = small_model(1), small_model(2).train()
        before = copy.deepcopy(teacher.state_dict())
        step = training_step(student, teacher=teacher, loss_weights=LOSS_WEIGHTS)
        for seed in range(2):
            run_microbatches(step, clips, labels, [[0, 1, 2]], normalizer=3, seed=seed)
            step.update(0.05)
        assert not teacher.training
        assert all(parameter.grad is None for parameter in teacher.parameters())
        for name, value in teacher.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_teacher_is_dropped_where_no_loss_asks(self) -> None:
        assert training_step(small_model(1), teacher=small_model(2)).teacher is None

    def test_mfr_without_teacher_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'mfr' needs a teacher"):
            training_step(small_model(1), loss_weights=LOSS_WEIGHTS)

    def test_student_equal_to_its_teacher_has_finite_gradients(self) -> None:
        clips, labels = batch(2)
        student, _ = frozen_pair()
        step = training_step(student, teacher=copy.deepcopy(student), loss_weights=LOSS_WEIGHTS)
        run_microbatches(step, clips, labels, [[0, 1]], normalizer=2)
        assert all(gradient.isfinite().all() for gradient in gradients(student).values())
        assert float(step.update(0.1).loss_sums["mfr"]) == 0.0


class TestUpdate:
    def test_clips_the_norm_and_reports_it_unclipped(self) -> None:
        clips, labels = batch(2)
        norms, moved = [], []
        for bound in (None, 0.01):
            model = frozen_pair()[0]
            before = model.classifier.weight.detach().clone()
            step = training_step(model, clip_grad_norm=bound)
            run_microbatches(step, clips, labels, [[0, 1]], normalizer=2)
            total = torch.stack([gradient.square().sum() for gradient in gradients(model).values()]).sum().sqrt()
            norms.append(float(step.update(0.1).grad_norm))
            assert norms[-1] == pytest.approx(float(total))
            moved.append(float((model.classifier.weight.detach() - before).norm()))
        assert norms[0] == pytest.approx(norms[1])
        assert moved[1] < 0.1 * moved[0]

    def test_lr_reaches_each_group_with_its_multiplier(self) -> None:
        model = small_model(1)
        step = training_step(model)
        run_microbatches(step, *batch(1), [[0]], normalizer=1)
        step.update(0.02)
        rates = {group["name"]: group["lr"] for group in step.optimizer.param_groups}
        expected = {"classifier_weight": 0.1, "classifier_bias": 0.2, "weight": 0.02, "bias": 0.04, "norm": 0.02}
        assert rates == pytest.approx(expected)

    def test_gradients_are_forgotten(self) -> None:
        step = training_step(small_model(1))
        run_microbatches(step, *batch(1), [[0]], normalizer=1)
        step.update(0.02)
        assert not gradients(step.model)
        with pytest.raises(RuntimeError, match=r"before accumulate\(\)"):
            step.update(0.02)

    def test_normalizer_must_hold_for_the_step(self) -> None:
        step = training_step(small_model(1))
        with pytest.raises(ValueError, match="must count all valid clips"):
            run_microbatches(step, *batch(2), [[0, 1]], normalizer=1)
        run_microbatches(step, *batch(2), [[0]], normalizer=2)
        with pytest.raises(ValueError, match="changed within a step"):
            run_microbatches(step, *batch(2), [[1]], normalizer=3)

    @pytest.mark.parametrize(
        "options",
        [
            {"precision": "fp8"},
            {"clip_grad_norm": 0.0},
            {"loss_weights": {"hinge": 1.0}},
            {"loss_weights": {"cross_entropy": 0.0}},
            {"loss_weights": {"cross_entropy": -1.0}},
        ],
    )
    def test_bad_options_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError):
            training_step(small_model(1), **options)


def overfit(step: TrainingStep, num_steps: int, device: str = "cpu") -> tuple[float, float]:
    """First and last mean loss on one batch of four clips."""
    clips, labels = batch(4)
    losses = []
    for seed in range(num_steps):
        microbatches: list[list[int | None]] = [[0, 1], [2, None, 3]]
        run_microbatches(step, clips.to(device), labels.to(device), microbatches, normalizer=4, seed=seed)
        losses.append(float(step.update(0.02).loss_sums["cross_entropy"]) / 4)
    return losses[0], losses[-1]


class TestPrecision:
    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    def test_learns(self, precision: str) -> None:
        model = apply_batch_norm_mode(small_model(1, dtype=torch.float32), "frozen")
        first, last = overfit(training_step(model, precision=precision), 12)
        assert last < 0.6 * first
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())

    def test_bf16_gradient_is_near_fp32(self) -> None:
        found = {}
        for precision in ("fp32", "bf16"):
            model = apply_batch_norm_mode(small_model(1, dtype=torch.float32), "frozen")
            step = training_step(model, precision=precision)
            with step.autocast():
                assert model(step.prepare(batch(1)[0])).logits_BK.dtype == (
                    torch.float32 if precision == "fp32" else torch.bfloat16
                )
            run_microbatches(step, *batch(4), [[0, 1, 2, 3]], normalizer=4)
            found[precision] = torch.cat([gradient.flatten() for gradient in gradients(model).values()])
        similarity = nn.functional.cosine_similarity(found["fp32"], found["bf16"], dim=0)
        assert 0.98 < float(similarity) < 0.9999999

    def test_fp16_overflow_skips_the_update_and_lowers_the_scale(self) -> None:
        model = apply_batch_norm_mode(small_model(1, dtype=torch.float32), "frozen")
        step = training_step(model, precision="fp16")
        state = step.state_dict()
        state["scaler"]["scale"] = 2.0**120
        step.load_state_dict(state)
        before = copy.deepcopy(model.state_dict())
        run_microbatches(step, *batch(2), [[0, 1]], normalizer=2)
        result = step.update(0.1)
        assert not result.grad_norm.isfinite()
        assert step.state_dict()["scaler"]["scale"] == 2.0**119
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_state_of_another_precision_is_refused(self) -> None:
        state = training_step(small_model(1), precision="bf16").state_dict()
        with pytest.raises(ValueError, match="'bf16'"):
            training_step(small_model(1), precision="fp16").load_state_dict(state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_learns_on_cuda(precision: str) -> None:
    model = apply_batch_norm_mode(small_model(1, dtype=torch.float32), "frozen").cuda()
    first, last = overfit(training_step(model, precision=precision), 12)
    assert last < 0.6 * first


class TestNormsOfParts:
    def test_are_those_of_the_gradient_before_clipping_and_change_nothing(self) -> None:
        clips, labels = batch(3)
        states, found = [], {}
        for asked in (False, True):
            student = small_model(1)
            step = training_step(student, clip_grad_norm=1e-3)
            run_microbatches(step, clips, labels, [[0, 1], [2, None]], normalizer=3)
            parts = {1: list(student.backbone.layer1.parameters()), 4: list(student.classifier.parameters())}
            expected = {
                part: torch.cat([one.grad.flatten() for one in parameters]).norm()
                for part, parameters in parts.items()
                if all(one.grad is not None for one in parameters)
            }
            result = step.update(0.01, parts if asked else None)
            states.append({name: value.clone() for name, value in student.state_dict().items()})
            found[asked] = result.grad_norms
        assert found[False] == {}
        assert set(expected) == {1, 4}
        torch.testing.assert_close(found[True], expected)
        assert all(norm > 1e-3 for norm in expected.values()), "clipping would be visible"
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_of_a_step_without_update_there_are_none(self) -> None:
        clips, labels = batch(2)
        student = small_model(1)
        step = training_step(student)
        run_microbatches(step, clips, labels, [[None, None]], normalizer=0)
        assert step.update(0.01, {1: list(student.parameters())}).grad_norms == {}

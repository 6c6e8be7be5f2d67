"""Mixup and CutMix: torchvision's pictures, the loss of the soft label, a function of the microbatch's seed."""

import pytest
import torch
import torch.nn.functional as F
from training_parts import NUM_CLASSES, batch, gradients, run_microbatches, small_model, training_step

from w3ray.evaluation.normalize import normalize_clips
from w3ray.heads import Heads
from w3ray.training.batch_norm import apply_batch_norm_mode
from w3ray.training.mixing import Mixing

MIXUP, CUTMIX = Mixing(mixup_alpha=0.8), Mixing(cutmix_alpha=1.0)


def clips_of(count=6, size=16):
    clips, labels = batch(count, size=size)
    return normalize_clips(clips), labels


def mixed(mixing, seed=0, count=6):
    clips_BTCHW, labels_B = clips_of(count)
    torch.manual_seed(seed)
    return mixing(clips_BTCHW, labels_B)


def pairs(found, count=6):
    """For each mixed clip the two clips that it is made of, found by their order."""
    clips_BTCHW, labels_B = clips_of(count)
    torch.manual_seed(0)
    torch.rand(2)
    order_B = torch.randperm(count)
    assert torch.equal(found.labels_B, labels_B[order_B])
    assert torch.equal(found.others_B, labels_B[order_B.roll(1)])
    return clips_BTCHW[order_B], clips_BTCHW[order_B.roll(1)]


def test_mixup_is_a_weighted_sum():
    found = mixed(MIXUP)
    first, second = pairs(found)
    assert 0 < found.share < 1
    torch.testing.assert_close(found.clips_BTCHW, found.share * first + (1 - found.share) * second)


def test_cutmix_covers_a_rectangle_of_all_frames():
    found = next(one for one in (mixed(CUTMIX, seed) for seed in range(9)) if 0.2 < one.share < 0.8)
    clips_BTCHW = clips_of()[0]
    picture_TCHW = found.clips_BTCHW[0]
    sources = [(picture_TCHW == other).all(0).all(0) for other in clips_BTCHW]
    areas = {round(float(mask_HW.float().mean()), 6): mask_HW for mask_HW in sources if mask_HW.any()}
    assert set(areas) == {round(found.share, 6), round(1 - found.share, 6)}
    cut_HW = areas[round(1 - found.share, 6)]
    rows, columns = cut_HW.any(1).nonzero(), cut_HW.any(0).nonzero()
    assert cut_HW[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX])
def test_the_frames_stay_channels_last(mixing):
    folded = mixed(mixing).clips_BTCHW.flatten(0, 1)
    assert type(folded) is torch.Tensor
    assert folded.is_contiguous(memory_format=torch.channels_last)


def test_what_is_drawn():
    assert mixed(MIXUP, 5).share == mixed(MIXUP, 5).share
    assert len({mixed(MIXUP, seed).share for seed in range(8)}) == 8
    assert mixed(MIXUP, count=1) is None
    rare = Mixing(mixup_alpha=1.0, probability=0.25)
    assert 60 < sum(mixed(rare, seed, 2) is not None for seed in range(400)) < 140
    both = Mixing(mixup_alpha=1.0, cutmix_alpha=1.0, cutmix_share=0.25)
    clips = clips_of(2)[0]
    cut = sum(bool(torch.isin(mixed(both, seed, 2).clips_BTCHW, clips).all()) for seed in range(400))
    assert 60 < cut < 140  # a pixel of CutMix is one of a clip; mixup makes new ones


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_step_has_the_loss_of_the_soft_label(mixing, smoothing):
    clips, labels = batch(6)
    model = apply_batch_norm_mode(small_model(1), "frozen")
    step = training_step(model, mixing=mixing, label_smoothing=smoothing)
    run_microbatches(step, clips, labels, [[0, 1, None, 2, 3, 4, 5]], normalizer=6)
    ours = gradients(model)
    model.zero_grad()
    torch.manual_seed(0)
    found = mixing(step.prepare(clips), labels)
    soft_BK = found.share * F.one_hot(found.labels_B, NUM_CLASSES) + (1 - found.share) * F.one_hot(
        found.others_B, NUM_CLASSES
    )
    logits_BK = model(found.clips_BTCHW).logits_BK
    loss = F.cross_entropy(logits_BK, soft_BK.double(), label_smoothing=smoothing)
    loss.backward()
    torch.testing.assert_close(ours, gradients(model))
    assert float(step._sums["cross_entropy"]) == pytest.approx(6 * float(loss.detach()))
    right_B = logits_BK.argmax(1) == (found.labels_B if found.share >= 0.5 else found.others_B)
    assert int(step._correct) == int(right_B.sum())


def test_several_labels_are_mixed_as_sets():
    """The targets of each class are the mean of both clips' targets."""
    clips, _ = batch(4)
    heads = Heads(tuple("abcd"), label_sets=((0, 1), (2,), (1, 2, 3)))
    labels = torch.tensor([0, 1, 2, 0])
    model = apply_batch_norm_mode(small_model(1), "frozen")
    step = training_step(model, mixing=MIXUP, heads=heads, loss_weights={"binary_cross_entropy": 1.0})
    run_microbatches(step, clips, labels, [[0, 1, 2, 3]], normalizer=4)
    ours = gradients(model)
    model.zero_grad()
    torch.manual_seed(0)
    found = MIXUP(step.prepare(clips), labels)
    table_LK = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]], dtype=torch.float64)
    target_BK = found.share * table_LK[found.labels_B] + (1 - found.share) * table_LK[found.others_B]
    F.binary_cross_entropy_with_logits(model(found.clips_BTCHW).logits_BK, target_BK).backward()
    torch.testing.assert_close(ours, gradients(model))


def test_a_loss_without_labels_is_computed_once(monkeypatch):
    from w3ray.training.losses.mfr import MatureFeatures

    calls = []
    plain = MatureFeatures.__call__
    monkeypatch.setattr(MatureFeatures, "__call__", lambda self, inputs: calls.append(1) or plain(self, inputs))
    step = training_step(
        small_model(1), mixing=MIXUP, teacher=small_model(2), loss_weights={"cross_entropy": 1.0, "mfr": 0.5}
    )
    run_microbatches(step, *batch(4), [[0, 1, 2, 3]], normalizer=4)
    assert calls == [1]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mixup_alpha": -1.0},
        {"mixup_alpha": 1.0, "cutmix_alpha": -0.1},
        {"mixup_alpha": 1.0, "probability": 1.1},
        {"mixup_alpha": 1.0, "cutmix_share": -0.1},
    ],
)
def test_errors(values):
    with pytest.raises(ValueError, match=r"must be"):
        Mixing(**values)

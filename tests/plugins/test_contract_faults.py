"""A broken contract of a family is found and reported in one line."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from w3ray import testing
from w3ray.attention import ATTENTION, AttentionConfig, AttentionKind, AttentionOutput
from w3ray.data.augmentation import AUGMENTATIONS
from w3ray.data.clip_sampling import SAMPLERS
from w3ray.data.decoders import DECODERS
from w3ray.data.importers import IMPORTERS, Clip, to_manifest
from w3ray.models import BACKBONES, MODELS, ModelFamily
from w3ray.models.resnet_small import resnet_small
from w3ray.models.tsn import TSN
from w3ray.sweep.schedulers import SCHEDULERS
from w3ray.sweep.searchers import SEARCHERS
from w3ray.training.losses import LOSSES, LossKind, weights_by_head


@dataclass(frozen=True, slots=True, kw_only=True)
class BadConfig(AttentionConfig):
    kind: ClassVar[str] = "bad"
    label: ClassVar[str] = "bad"


class Good(nn.Module):
    placement, has_spatial_mask, norm_gain, constant_start = "before", False, 1.0, None

    def __init__(self, channels, config):
        super().__init__()
        self.linear = nn.Conv2d(channels, channels, 1)

    def gated(self, x_BTCHW):
        return self.linear(x_BTCHW.flatten(0, 1)).unflatten(0, x_BTCHW.shape[:2])

    def forward(self, x_BTCHW, identity_BTCHW=None):
        out = self.gated(x_BTCHW)
        return AttentionOutput(out if identity_BTCHW is None else out + identity_BTCHW, None)


class WrongShape(Good):
    def gated(self, x_BTCHW):
        return super().gated(x_BTCHW)[:, :, :1]


class NoShortcut(Good):
    def forward(self, x_BTCHW, identity_BTCHW=None):
        return AttentionOutput(self.gated(x_BTCHW), None)


class MixesClips(Good):
    def gated(self, x_BTCHW):
        return super().gated(x_BTCHW - x_BTCHW.mean(dim=0, keepdim=True))


class UnusedParameter(Good):
    def __init__(self, channels, config):
        super().__init__(channels, config)
        self.spare = nn.Linear(2, 2)


class ReadsStrides(Good):
    def gated(self, x_BTCHW):
        B, T, C, H, W = x_BTCHW.shape
        return super().gated(torch.as_strided(x_BTCHW, (B, T, C, H, W), (T * C * H * W, C * H * W, H * W, W, 1)))


class Widens(Good):
    def gated(self, x_BTCHW):
        return super().gated(x_BTCHW).float()


class SaysMask(Good):
    has_spatial_mask = True


class NoPlacement(Good):
    placement = "inside"


class OneTensor(Good):
    def forward(self, x_BTCHW, identity_BTCHW=None):
        return self.gated(x_BTCHW)


class OtherNames(Good):
    count = 0

    def __init__(self, channels, config):
        super().__init__(channels, config)
        OtherNames.count += 1
        self.register_buffer(f"made_{OtherNames.count}", torch.zeros(1))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (WrongShape, "features of shape (1, 1, 16, 1, 1) come out as (1, 1, 1, 1, 1)"),
        (NoShortcut, "the shortcut is not added to the features"),
        (MixesClips, "the clips of a batch influence each other"),
        (UnusedParameter, "spare.weight, spare.bias gets no gradient: the forward pass does not use it"),
        (ReadsStrides, "features with other strides, as in 3D networks, give another result"),
        (Widens, "bfloat16 features come out as torch.float32"),
        (SaysMask, "has_spatial_mask is True in the module and False in its config"),
        (NoPlacement, "placement='inside': must be before or after"),
        (OneTensor, "its forward must return an AttentionOutput(features, mask)"),
        (OtherNames, "two modules of one config have different state names"),
    ],
)
def test_attentions(module, said):
    ATTENTION.add("bad", AttentionKind(BadConfig, module))
    with pytest.raises(testing.ContractBroken) as caught:
        testing.check_attention("bad")
    assert said in str(caught.value)


def test_a_good_attention():
    ATTENTION.add("bad", AttentionKind(BadConfig, Good))
    testing.check_attention("bad")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchecked(AttentionConfig):
    kind: ClassVar[str] = "bad"
    label: ClassVar[str] = "bad"

    def __post_init__(self):
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class NoJson(AttentionConfig):
    kind: ClassVar[str] = "bad"
    label: ClassVar[str] = "bad"
    sizes: tuple[tuple[int, int], ...] = ((1, 2),)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Unchecked, "Unchecked: does not check the fields of AttentionConfig; call its __post_init__"),
        (NoJson, "NoJson: its options are not plain JSON values"),
    ],
)
def test_configs(config, said):
    ATTENTION.add("bad", AttentionKind(config, Good))
    with pytest.raises(testing.ContractBroken, match=said):
        testing.check_attention("bad")


class GoodLoss:
    needs_teacher = False

    def __call__(self, inputs):
        return F.cross_entropy(inputs.logits_BK.float(), inputs.labels_B, reduction="sum")


class Mean(GoodLoss):
    def __call__(self, inputs):
        return F.cross_entropy(inputs.logits_BK, inputs.labels_B)


class OneForEachClip(GoodLoss):
    def __call__(self, inputs):
        return F.cross_entropy(inputs.logits_BK, inputs.labels_B, reduction="none")


class InHalf(GoodLoss):
    def __call__(self, inputs):
        return F.cross_entropy(inputs.logits_BK, inputs.labels_B, reduction="sum")


class NoGradient(GoodLoss):
    def __call__(self, inputs):
        return super().__call__(inputs._replace(logits_BK=inputs.logits_BK.detach())).requires_grad_()


class WrongGradient(GoodLoss):
    def __call__(self, inputs):
        logits = inputs.logits_BK.to(torch.promote_types(inputs.logits_BK.dtype, torch.float32))
        return (logits.detach() * logits).sum()


class TeachesTheTeacher:
    needs_teacher = True

    def __call__(self, inputs):
        own, theirs = inputs.features[0].float(), inputs.teacher_features[0].float()
        return (own - theirs).square().mean(dim=(1, 2, 3, 4)).sum()


class BreaksAtZero:
    needs_teacher = True

    def __call__(self, inputs):
        own, theirs = inputs.features[0].float(), inputs.teacher_features[0].detach().float()
        return (own - theirs).square().sum(dim=(1, 2, 3, 4)).sqrt().sum()


@pytest.mark.parametrize(
    ("loss", "needs_teacher", "said"),
    [
        (Mean, False, "add up clips, do not average them"),
        (OneForEachClip, False, "it must return one number, not a tensor of shape (5,)"),
        (InHalf, False, "the sum of bfloat16 inputs is torch.bfloat16: sum them in float32"),
        (NoGradient, False, "neither scores nor features get a gradient"),
        (WrongGradient, False, "its gradient is not the derivative of its value"),
        (TeachesTheTeacher, True, "the teacher's features get a gradient"),
        (BreaksAtZero, True, "its gradient is not finite where student and teacher agree"),
        (GoodLoss, True, "needs_teacher is False in the loss and True in its LossKind"),
    ],
)
def test_losses(loss, needs_teacher, said):
    LOSSES.add("bad", LossKind(loss, needs_teacher))
    with pytest.raises(testing.ContractBroken) as caught:
        testing.check_loss("bad")
    assert said in str(caught.value)


def test_a_loss_is_for_multi_label_clips_only_if_it_says_so():
    """Else it would take the number of a set of classes for the number of a class."""
    LOSSES.add("good", LossKind(GoodLoss))
    LOSSES.add("of_sets", LossKind(GoodLoss, multi_label=True))
    with pytest.raises(ValueError, match="good is for clips with one class each, but these are multi-label; set it to"):
        weights_by_head({"cross_entropy": 1.0, "good": 1.0}, (), multi_label=True)
    weights = {"cross_entropy": 0.0, "good": 0.0, "of_sets": 1.0, "mfr": 1.0}
    assert weights_by_head(weights, (), multi_label=True)["of_sets"] == 1.0


def test_a_loss_may_compute_in_float32():
    LOSSES.add("good", LossKind(GoodLoss))
    testing.check_loss("good")


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        (lambda n, t, s, rng: np.zeros(t, dtype=np.int32), "1 of 1 frames: must be an array of int64"),
        (lambda n, t, s, rng: np.zeros(1, dtype=np.int64), "2 of 1 frames: has the shape (1,)"),
        (lambda n, t, s, rng: np.full(t, n), "1 of 1 frames: [1] are outside"),
        (lambda n, t, s, rng: np.arange(t)[::-1] % n, "are not in order"),
        (
            lambda n, t, s, rng: np.sort(np.random.randint(n, size=t)),
            "the same generator gives other frames: it must be the only source of random numbers",
        ),
    ],
)
def test_samplers(sampler, said):
    SAMPLERS.add("bad", sampler)
    with pytest.raises(testing.ContractBroken) as caught:
        testing.check_sampler("bad")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("augmentation", "said"),
    [
        (lambda clip, rng: clip / 2, "a clip must stay uint8 (4, 24, 24, 3), not float64"),
        (lambda clip, rng: clip[:2], "a clip must stay uint8 (4, 24, 24, 3), not uint8 (2, 24, 24, 3)"),
        (lambda clip, rng: clip // np.uint8(np.random.randint(1, 99)), "the same generator gives another clip"),
    ],
)
def test_augmentations(augmentation, said):
    AUGMENTATIONS.add("bad", augmentation)
    with pytest.raises(testing.ContractBroken) as caught:
        testing.check_augmentation("bad")
    assert said in str(caught.value)


def test_a_good_augmentation():
    AUGMENTATIONS.add("dark", lambda clip, rng: (clip * rng.uniform()).astype(np.uint8))
    testing.check_augmentation("dark")


class OneOff:
    """A decoder that returns the frame before the requested one."""

    def __init__(self, uri, cache):
        self.video = DECODERS["pyav"](uri, cache)

    def frames(self, indices):
        return self.video.frames([max(0, index - 1) for index in indices])

    def __getattr__(self, name):
        return getattr(self.video, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.video.close()


@pytest.mark.parametrize(
    ("decoder", "said"),
    [
        (OneOff, "asked for the frames [29], got [28]"),
        (
            lambda uri, cache: DECODERS["pyav"](uri, cache) if "clip" in uri else 1 / 0,
            "absent.mp4: raised ZeroDivisionError, not DecodeError",
        ),
    ],
)
def test_decoders(decoder, said):
    DECODERS.add("bad", decoder)
    with pytest.raises(testing.ContractBroken) as caught:
        testing.check_decoder("bad")
    assert said in str(caught.value)


def manifest_of(folder, flip_map=None, **more):
    clips = [Clip(path="a.png", uri=str(folder / "a.png"), label="x", split="train", **more)]
    return to_manifest(clips, ["x", "y"], flip_map)


@pytest.mark.parametrize(
    ("importer", "said"),
    [
        (lambda annotations, *, videos, partial, note: 3, "it must return a Manifest, not int"),
        (
            lambda annotations, *, videos, partial, note, made=[]: (
                made.append(1), manifest_of(videos, name=str(len(made)))
            )[1],
            "a second import gives another manifest",
        ),
        (lambda annotations, *, videos, partial, note: (note("a\nb"), manifest_of(videos))[1], "a note has more than"),
        (lambda annotations, *, videos, partial, note: manifest_of(videos / "gone"), "is absent from its place"),
    ],
)  # fmt: skip
def test_importers(importer, said, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    IMPORTERS.add("bad", lambda annotations, *, videos, **options: importer(annotations, videos=tmp_path, **options))
    with pytest.raises(testing.ContractBroken) as caught:
        testing.check_importer("bad", tmp_path, tmp_path)
    assert said in str(caught.value)


def test_an_importer_of_other_arguments():
    IMPORTERS.add("bad", lambda annotations, videos: None)
    with pytest.raises(testing.ContractBroken, match="partial, note is missing"):
        testing.check_importer_signature("bad")


class Searcher:
    most = None
    asked = 0

    def __init__(self, space, base):
        pass

    def propose(self, number, known):
        Searcher.asked += 1
        return {"model.attention.reduction": (2, 4, 8, 16)[Searcher.asked % 3], "stages.student.loss_weights.mfr": 0.5}


def test_a_searcher_that_remembers():
    SEARCHERS.add("bad", Searcher)
    with pytest.raises(testing.ContractBroken, match="they must depend only on the results so far"):
        testing.check_searcher("bad")


def test_a_scheduler_of_another_kind():
    SCHEDULERS.add("bad", lambda scheduling, epochs, mode: 3)
    with pytest.raises(testing.ContractBroken, match="it must make a TrialScheduler of Ray Tune, not 3"):
        testing.check_scheduler("bad")


class BlindToHalf(TSN):
    """A model that returns only the scores of its first clip."""

    def forward(self, x_BTCHW):
        out = super().forward(x_BTCHW)
        return out._replace(logits_BK=out.logits_BK[:1])


def test_a_model_that_loses_clips():
    MODELS.add("bad", ModelFamily(BlindToHalf, takes_backbone=True))
    with pytest.raises(testing.ContractBroken, match=r"the scores of 2 clips and 4 classes are \(1, 4\)"):
        testing.check_model("bad")


def unused():
    network = resnet_small()
    network.layer1[0].spare = nn.Linear(2, 2)
    return network


def test_a_backbone_with_a_part_that_nothing_reads():
    BACKBONES.add("bad", unused)
    with pytest.raises(testing.ContractBroken, match=r"under tsn: .*spare\.weight.* gets no gradient"):
        testing.check_backbone("bad")

"""What every model can do: train with any split of the batch, teach and learn by MFR, and be explained.

`tests/test_contracts.py` and `test_models.py` hold the outputs, gradients and attentions of each model, and
`tests/test_export.py` its export. A family of `MODELS` is in all of these tables by itself: its options say what a
small network is.
"""

import copy
import itertools
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from w3ray.explaining.gradcam import grad_cam
from w3ray.explaining.record import record
from w3ray.models import MODELS, VideoModel, build_model
from w3ray.models.side_inputs import example
from w3ray.training.batch_norm import apply_batch_norm_mode
from w3ray.training.losses import LossInputs
from w3ray.training.optimizer import build_optimizer, parameter_groups
from w3ray.training.step import TrainingStep


class Case(NamedTuple):
    """A small network and a clip that it takes."""

    name: str
    arguments: dict[str, Any]
    frames: int
    size: int

    def build(self, attention: str | None = None, **more: Any) -> VideoModel:
        chosen = None if attention is None else {"kind": attention, "start": "plain"}
        return build_model(self.name, **{**self.arguments, "num_classes": 3, "attention": chosen, **more})

    def clips(self, count: int) -> Tensor:
        return torch.randint(0, 256, (count, self.frames, self.size, self.size, 3), dtype=torch.uint8)


def _small(name: str) -> Case:
    options = MODELS[name].options
    frames, size, _ = options.small_clips[0]
    return Case(name, {"backbone": "resnet_small", "options": options.small}, frames, size)


CASES = [
    *(_small(name) for name in MODELS),
    Case("eco", {"options": {"width": 8, "lite": True}}, frames=4, size=32),
    *(
        Case("lfb", {"options": {**MODELS["lfb"].options.small, "operator": operator}}, frames=4, size=32)
        for operator in ("max", "avg")
    ),
]
"""Every family in small. Add a row here for a variant of a family that the small network is not."""
BIG = ("r3d_18", "mc3_18", "r2plus1d_18")
"""These have no option that makes them small."""


def _parameter(case: Case) -> Any:
    variant = "-".join([case.name, *(f"{key}={value}" for key, value in case.arguments["options"].items())])
    return pytest.param(case, id=variant, marks=[pytest.mark.slow] if case.name in BIG else [])


each_case = pytest.mark.parametrize("case", [_parameter(case) for case in CASES])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lively(model: VideoModel) -> VideoModel:
    """Give the last layers weights as after training. They start so small that scores hardly differ."""
    with torch.no_grad():
        for parameter in model.classifier_parameters():
            parameter.normal_()
    return model


@each_case
def test_any_split_of_the_batch_is_one_gradient(case: Case) -> None:
    """With fixed batch norms and no dropout. The seed of the step decides what a head draws at random."""
    # In float64: fixed batch norms do not tame the activations of a fresh network.
    model = lively(case.build(dropout=0.0)).double()
    if any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in model.modules()):
        apply_batch_norm_mode(model, "frozen")
    clips, labels = case.clips(2), torch.tensor([0, 2])
    gradients: list[dict[str, Tensor]] = []
    for split in ([0, 2], [0, 1, 2]):
        network = copy.deepcopy(model)
        optimizer = build_optimizer("sgd", parameter_groups(network, lr=0.1, weight_decay=0.0))
        step = TrainingStep(network, optimizer=optimizer, loss_weights={"cross_entropy": 1.0})
        for start, end in itertools.pairwise(split):
            part, valid = slice(start, end), torch.ones(end - start, dtype=torch.bool)
            extras = example(network, clips[part])
            step.accumulate(clips[part], labels[part], valid, normalizer=2, seed=7, last=end == 2, extras=extras)
        gradients.append({name: one.grad for name, one in network.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-9, msg=name)


@each_case
def test_it_learns_from_a_teacher_of_its_kind(case: Case) -> None:
    student, teacher = (case.build(dropout=0.0) for _ in range(2))
    optimizer = build_optimizer("sgd", parameter_groups(student, lr=0.1, weight_decay=0.0))
    step = TrainingStep(student, optimizer=optimizer, loss_weights={"mfr": 1.0}, teacher=teacher)
    labels, valid = torch.tensor([0, 1]), torch.tensor([True, True])
    clips = case.clips(2)
    step.accumulate(clips, labels, valid, normalizer=2, seed=0, last=True, extras=example(student, clips))
    result = step.update(0.1)
    assert float(result.loss_sums["mfr"]) > 0
    assert 0 < float(result.grad_norm) < float("inf")
    equal = TrainingStep(student, optimizer=optimizer, loss_weights={"mfr": 1.0}, teacher=copy.deepcopy(student))
    with torch.no_grad():
        x_BTCHW = equal.prepare(case.clips(1))
        more = example(student, x_BTCHW)
        features = student.eval()(x_BTCHW, **more).features
        inputs = LossInputs(torch.zeros(1, 3), features, labels[:1], equal.teacher(x_BTCHW, **more).features)
    assert float(equal.losses["mfr"][1](inputs)) == 0


@each_case
def test_it_is_explained(case: Case) -> None:
    """Masks of every stage, and Grad-CAM of the last maps, for one clip."""
    model = lively(case.build("w3")).eval()
    x_BTCHW = case.clips(1).float().div(255).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        output, looks = record(model, x_BTCHW, example(model, x_BTCHW))
    assert [len(stage) for stage in model.stages()] == [
        sum(look.stage == number for look in looks) for number in range(1, len(model.stages()) + 1)
    ]
    assert all(look.mask_THW is not None and look.mask_THW.min() >= 0 for look in looks)
    cams = [grad_cam(model, x_BTCHW, label, side_inputs=example(model, x_BTCHW)) for label in range(3)]
    assert all(cam.min() >= 0 for cam in cams)
    assert max(cam.max() for cam in cams) > 0
    longest = max(one.shape[1] for one in output.features)
    assert cams[0].shape[0] == (longest if case.name != "c3d_rsttm" else 3)  # windows of 2 maps overlap by 1


@each_case
def test_two_evaluations_are_equal(case: Case) -> None:
    model = lively(case.build()).eval()
    x_BTCHW = case.clips(1).float().div(255).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        torch.manual_seed(1)
        more = example(model, x_BTCHW)
        first = model(x_BTCHW, **more).logits_BK
        torch.manual_seed(2)
        assert torch.equal(model(x_BTCHW, **more).logits_BK, first)

"""A network with two last maps has all that the others have."""

import pytest
import torch
from torch import Tensor, nn

from w3ray.attention import CBAMConfig, NonLocalConfig, W3Config, add_attention
from w3ray.attention.meter import GateMeter
from w3ray.attention.sites import OutputSite, Stages
from w3ray.explaining.explanation import explain_clip
from w3ray.explaining.gradcam import grad_cam
from w3ray.explaining.record import record
from w3ray.models import VideoOutput
from w3ray.models._common import Path, VideoModel
from w3ray.models.heads import PooledHead
from w3ray.models.profiling import profile
from w3ray.models.refinement import AttentionGuidedRefinement
from w3ray.training.losses import LOSSES, LossInputs


def stage(num_in: int, num_out: int) -> OutputSite:
    return OutputSite(nn.Sequential(nn.Conv3d(num_in, num_out, 3, (1, 2, 2), 1), nn.ReLU()), num_out, "clips")


class TwoPaths(VideoModel):
    """All frames in a narrow path of one stage, every second frame in a wide path of two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.ModuleList([stage(3, 8), stage(8, 16)]), stage(3, 4)
        self.num_features = 16
        self.classifier = PooledHead(20, 5, dropout=0.0)

    def stages(self) -> Stages:
        return [stage for path in self.paths() for stage in path.stages]

    def paths(self) -> tuple[Path, ...]:
        return Path([[self.slow[0]], [self.slow[1]]], 16), Path([[self.fast]], 4)

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        x_BCTHW = x_BTCHW.transpose(1, 2)
        clips = (x_BCTHW[:, :, ::2], x_BCTHW)
        runs = [self.run_stages(x, None, path.stages) for x, path in zip(clips, self.paths(), strict=True)]
        return self.finish_paths(tuple(x.transpose(1, 2) for x, _ in runs), [masks for _, masks in runs])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def with_attention(kind: object) -> TwoPaths:
    model = add_attention(TwoPaths(), kind)
    if model.has_spatial_masks():
        model.add_refinement()
    return model


@pytest.mark.parametrize("kind", [W3Config(start="plain"), CBAMConfig(start="plain"), NonLocalConfig(stages=(1, 2, 3))])
def test_attention_enters_both_paths(kind: object) -> None:
    model = with_attention(kind)
    output = model(torch.randn(2, 4, 3, 32, 32))
    assert [tuple(one.shape) for one in output.features] == [(2, 2, 16, 8, 8), (2, 4, 4, 16, 16)]
    (output.logits_BK.sum() + sum(one.square().sum() for one in output.features)).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    clip_BTCHW = torch.randn(1, 4, 3, 32, 32)
    _, looks = record(model.eval(), clip_BTCHW)
    assert [(look.stage, look.mask_THW.shape[0]) for look in looks] == [(1, 2), (2, 2), (3, 4)]
    meter = GateMeter(model)
    with meter.watching():
        model(clip_BTCHW)
    assert [one.stage for one in meter.stages()] == [1, 2, 3]
    cost = profile(model, 4, 32)
    rows = {part.name: part.parameters for part in cost.parts}
    assert {"stage1", "stage2", "stage3", "attention", "classifier"} < set(rows)
    assert ("refinement" in rows) == model.has_spatial_masks()
    assert sum(rows.values()) == cost.parameters
    assert sum(part.macs for part in cost.parts) == cost.macs
    frames_THWC = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8).numpy()
    assert explain_clip(model, frames_THWC, classes="abcde").map_TSS.shape == (4, 32, 32)


def test_each_map_is_refined_with_the_masks_of_its_own_path() -> None:
    model = with_attention(W3Config(start="plain")).eval()
    assert [name for name in model.state_dict() if "refinement" in name] == [
        f"refinement.{path}.conv.{tensor}" for path in (0, 1) for tensor in ("weight", "bias")
    ]
    kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    sites = [site for found in model.stages() for site in found]
    for site in sites:
        site.register_forward_hook(lambda module, inputs, output: kept.setdefault(module, output))
    found = model(torch.randn(1, 4, 3, 32, 32)).features
    for map_BTCHW, path, refine in zip(found, model.paths(), model.refinement, strict=True):
        own = [kept[site] for one in path.stages for site in one]
        expected_BTCHW = refine(own[-1][0].transpose(1, 2), [mask for _, mask in own])
        torch.testing.assert_close(map_BTCHW, expected_BTCHW)


def test_a_path_without_masks_keeps_its_map() -> None:
    model = with_attention(W3Config(stages=(3,)))
    assert [isinstance(one, AttentionGuidedRefinement) for one in model.refinement] == [False, True]
    model(torch.randn(1, 4, 3, 32, 32))


def test_grad_cam_adds_the_evidence_of_both_maps() -> None:
    """With a mean and one linear layer, Grad-CAM is CAM: the layer's weights over the number of places."""
    model = TwoPaths().eval()
    nn.init.normal_(model.classifier.weight)
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    slow_TCHW, fast_TCHW = (one[0].detach() for one in model(x_BTCHW).features)
    weight_C = model.classifier.weight[2].detach()
    slow_THW = torch.einsum("c,tchw->thw", weight_C[:16], slow_TCHW)
    fast_THW = torch.einsum("c,tchw->thw", weight_C[16:], fast_TCHW)
    bias = float(model.classifier.bias[2].detach())
    for axis in range(3):  # two fine places at each coarse one
        slow_THW = slow_THW.repeat_interleave(2, dim=axis)
    expected_THW = torch.relu(slow_THW + fast_THW) / fast_THW.numel()
    found_THW = torch.from_numpy(grad_cam(model, x_BTCHW, 2))
    torch.testing.assert_close(found_THW, expected_THW)
    # The relu aside, the map holds the whole score.
    score = float(model(x_BTCHW).logits_BK[0, 2].detach())
    assert float((slow_THW + fast_THW).mean()) + bias == pytest.approx(score, rel=1e-4)


def test_a_student_learns_from_a_teacher_of_two_maps() -> None:
    student, teacher = with_attention(W3Config()), with_attention(W3Config())
    x_BTCHW = torch.randn(2, 4, 3, 32, 32)
    output = student(x_BTCHW)
    with torch.no_grad():
        target = teacher(x_BTCHW).features
    value = LOSSES["mfr"]()(LossInputs(output.logits_BK, output.features, torch.tensor([0, 1]), target))
    pairs = zip(output.features, target, strict=True)
    norms = [(ours - theirs).flatten(2).norm(dim=2).mean(dim=1).sum() for ours, theirs in pairs]
    torch.testing.assert_close(value, (norms[0] + norms[1]) / 2)
    value.backward()
    assert all(site.module[0].weight.grad.abs().sum() > 0 for stage in student.stages() for site in stage)

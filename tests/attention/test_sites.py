"""Any module can be a site, and a config selects the sites that it enters."""

import pytest
import torch
from torch import Tensor, nn

from w3ray.attention import CBAMConfig, NonLocalConfig, W3Config, add_attention
from w3ray.attention.meter import GateMeter
from w3ray.attention.sites import OutputSite, Stages
from w3ray.explaining.gradcam import grad_cam
from w3ray.explaining.record import record
from w3ray.models import VideoOutput, build_model
from w3ray.models._common import VideoModel
from w3ray.models.heads import MeanHead
from w3ray.models.profiling import profile


class PlainNetwork(VideoModel):
    """Two convolutions in sequence, as in VGG: not residual, not from torchvision."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        conv = nn.Conv2d if layout == "frames" else nn.Conv3d
        parts = [nn.Sequential(conv(3, 8, 3, 2, 1), nn.ReLU()), nn.Sequential(conv(8, 16, 3, 2, 1), nn.ReLU())]
        self.parts = nn.ModuleList(OutputSite(part, 8 * 2**i, layout) for i, part in enumerate(parts))
        self.layout, self.num_features = layout, 16
        self.classifier = MeanHead(16, 5, dropout=0.0)

    def stages(self) -> Stages:
        return [[self.parts[0]], [self.parts[1]]]

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        x = x_BTCHW.flatten(0, 1) if self.layout == "frames" else x_BTCHW.transpose(1, 2)
        x, masks = self.run_stages(x, x_BTCHW.shape[1])
        return self.finish(self.parts[1].to_clips(x, x_BTCHW.shape[1]), masks)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("layout", ["frames", "clips"])
@pytest.mark.parametrize("kind", [W3Config(start="plain"), CBAMConfig(start="plain"), NonLocalConfig(stages=(1, 2))])
def test_a_network_without_shortcuts_has_all_that_the_others_have(layout: str, kind: object) -> None:
    model = PlainNetwork(layout)
    names = list(model.state_dict())
    add_attention(model, kind)
    assert [name for name in model.state_dict() if ".attention." not in name] == names
    if model.has_spatial_masks():
        model.add_refinement()
    output = model(torch.randn(2, 4, 3, 32, 32))
    (output.logits_BK.sum() + output.features[0].square().sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    _, looks = record(model.eval(), x_BTCHW)
    assert [(look.stage, look.block) for look in looks] == [(1, 1), (2, 1)]
    assert grad_cam(model, x_BTCHW, 0).shape[1:] == output.features[0].shape[3:]
    assert bool(GateMeter(model))
    parts = {part.name: part.parameters for part in profile(model, 4, 32).parts}
    assert list(parts)[:3] == ["stem", "stage1", "stage2"]
    assert parts["stem"] == 0
    assert parts["attention"] == sum(p.numel() for name, p in model.named_parameters() if ".attention." in name)


def test_the_attention_works_on_the_output() -> None:
    site = OutputSite(nn.Conv2d(3, 8, 1), 8, "frames")
    x_NCHW = torch.randn(6, 3, 4, 4)
    plain = site(x_NCHW, 3)
    model = nn.Module()
    model.stages = lambda: [[site]]  # type: ignore[assignment]
    add_attention(model, W3Config(start="plain"))
    out, mask_BTHW = site(x_NCHW, 3, return_mask=True)
    expected = site.attention(plain.unflatten(0, (2, 3)))
    torch.testing.assert_close(out, expected.x_BTCHW.flatten(0, 1))
    torch.testing.assert_close(mask_BTHW, expected.mask_BTHW)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "bninception", "r3d_18", "r2plus1d_18"])
def test_a_site_says_how_many_channels_it_reads_and_writes(name: str) -> None:
    model = build_model(name, num_classes=2) if "_18" in name else build_model("tsn", backbone=name, num_classes=2)
    seen: dict[nn.Module, tuple[int, int]] = {}
    for stage in model.stages():
        for site in stage:
            site.register_forward_hook(
                lambda module, inputs, out: seen.__setitem__(module, (inputs[0].shape[1], out[0].shape[1]))
            )
    model(torch.randn(1, 8, 3, 64, 64))
    sites = [site for stage in model.stages() for site in stage]
    assert [(site.in_channels, site.channels) for site in sites] == [seen[site] for site in sites]


def test_a_site_without_a_norm_cannot_hold_a_gain() -> None:
    with pytest.raises(ValueError, match="OutputSite has no norm right before its attention; use gain=gate"):
        add_attention(PlainNetwork("frames"), W3Config(gain="norm"))


ENTERED = [
    (W3Config(), {(stage, site) for stage, count in enumerate((3, 4, 6, 3)) for site in range(count)}),
    (W3Config(stages=(4,)), {(3, 0), (3, 1), (3, 2)}),
    (W3Config(every=2), {(0, 0), (0, 2), (1, 0), (1, 2), (2, 0), (2, 2), (2, 4), (3, 0), (3, 2)}),
    (W3Config(every=3, first=2), {(0, 1), (1, 1), (2, 1), (2, 4), (3, 1)}),
    # TSM's code, then the code of the non-local block's authors (ZOO.md 5.3).
    (NonLocalConfig(), {(1, 0), (1, 2), (2, 0), (2, 2), (2, 4)}),
    (NonLocalConfig(first=2), {(1, 1), (1, 3), (2, 1), (2, 3), (2, 5)}),
]


@pytest.mark.parametrize(("config", "places"), ENTERED, ids=lambda value: str(value)[:60])
def test_which_sites_of_a_resnet50_are_entered(config: W3Config, places: set[tuple[int, int]]) -> None:
    with torch.device("meta"):
        model = build_model("tsn", backbone="resnet50", num_classes=2, attention=config)
    found = {
        (i, j) for i, stage in enumerate(model.stages()) for j, site in enumerate(stage) if site.attention is not None
    }
    assert found == places


def test_refinement_reads_the_stages_that_have_a_mask() -> None:
    for config, num_masks in ((W3Config(), 4), (W3Config(stages=(2, 3)), 2), (W3Config(every=2), 4)):
        model = build_model("tsm", backbone="resnet18", num_classes=2, attention=config)
        assert model.refinement is not None
        assert model.refinement.conv.in_channels == num_masks
        model(torch.randn(1, 2, 3, 32, 32)).logits_BK.sum().backward()
        assert model.refinement.conv.weight.grad is not None


def test_a_config_that_enters_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"W3 enters no site of this TSM: its 4 stages have 1, 1, 1, 1 sites"):
        build_model("tsm", backbone="resnet_small", num_classes=2, attention={"kind": "w3", "first": 2})

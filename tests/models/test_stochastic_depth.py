"""Stochastic depth: whole clips skip whole branches, in training only, with the right mean."""

import pytest
import torch
from torch import nn
from torchvision.ops import stochastic_depth

from w3ray.attention.sites import Site
from w3ray.models import build_model
from w3ray.models.stochastic_depth import residual_sites, set_stochastic_depth

CASES = [
    ("tsm", {"backbone": "resnet_small"}),
    ("tsm", {"backbone": "resnet_small", "attention": {"kind": "w3"}}),
    ("tsm", {"backbone": "resnet_small", "attention": {"kind": "cbam", "placement": "after"}}),
    ("tsn", {"backbone": "efficientnet_lite0"}),
    pytest.param("r3d_18", {}, marks=pytest.mark.slow),
    pytest.param("slowfast_r50", {}, marks=pytest.mark.slow),
    pytest.param("i3d_r18", {}, marks=pytest.mark.slow),
    pytest.param("eco", {}, marks=pytest.mark.slow),
]


def network(name, options, seed=0):
    torch.manual_seed(seed)
    return build_model(name, num_classes=3, dropout=0.0, **{"attention": None, **options})


def test_the_share_grows_with_the_depth():
    model = network("tsn", {"backbone": "resnet_small"})
    set_stochastic_depth(model, 0.4)
    (sites,) = residual_sites(model)
    shares = [site.drop_probability for site in sites]
    assert shares == pytest.approx([0.4 * number / len(shares) for number in range(1, len(shares) + 1)])
    set_stochastic_depth(model, 0.0)
    assert {site.drop_probability for site in sites} == {0.0}


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value) if isinstance(value, str) else "")
def test_each_block_skips_whole_clips(name, options):
    """With everything dropped, a clip's features are those of the shortcuts; eval mode is untouched."""
    plain, thinned = network(name, options), network(name, options)
    set_stochastic_depth(thinned, 0.5)
    paths = residual_sites(thinned)
    assert all(sites[-1].drop_probability == 0.5 for sites in paths if sites)
    sites = [site for sites in paths for site in sites]
    assert len(sites) >= 3
    for site in sites:
        if site.last_norm is not None:
            nn.init.ones_(site.last_norm.weight)  # SlowFast starts them with 0, and a branch of zeros shows nothing
    x_BTCHW = torch.randn(2, 32 if name == "slowfast_r50" else 4, 3, 32, 32)
    with torch.no_grad():
        plain.load_state_dict(thinned.state_dict())
        assert torch.equal(plain.eval()(x_BTCHW).logits_BK, thinned.eval()(x_BTCHW).logits_BK)
    reached = []

    def seen(site, branch, num_frames):
        before = branch.clone()
        out = Site.thinned(site, branch, num_frames)
        kept_BT = (site.to_clips(out, num_frames) != 0).flatten(2).any(2)
        assert (kept_BT == kept_BT[:, :1]).all(), "frames of a clip have different draws"
        shares = out[out != 0] / before[out != 0]
        torch.testing.assert_close(shares, torch.full_like(shares, 1 / (1 - site.drop_probability)))
        reached.append((site, int(kept_BT[:, 0].sum())))
        return out

    for site in sites:
        site.thinned = lambda branch, num_frames, site=site: seen(site, branch, num_frames)
    with torch.no_grad():
        torch.manual_seed(0)
        thinned.train()(x_BTCHW)
    assert {id(site) for site, _ in reached} == {id(site) for site in sites}
    assert 0 < sum(kept for _, kept in reached) < 2 * len(sites)


def test_the_mean_branch_is_the_branch():
    model = network("tsn", {"backbone": "resnet_small"}).train()
    site = residual_sites(model)[0][-1]
    site.drop_probability = 0.25
    branch = torch.rand(400, 2, 3, 3)
    torch.manual_seed(0)
    thinned = site.thinned(branch.clone(), 2)
    dropped = (thinned == 0).flatten(1).all(1).float().mean()
    assert 0.18 < float(dropped) < 0.32
    assert float(thinned.mean()) == pytest.approx(float(branch.mean()), rel=0.08)


def test_a_network_without_shortcuts_is_refused():
    model = network("c3d", {})
    set_stochastic_depth(model, 0.0)
    with pytest.raises(ValueError, match="the network has no residual blocks; set it to 0"):
        set_stochastic_depth(model, 0.1)


@pytest.mark.parametrize("attention", [None, {"kind": "w3", "start": "plain"}])
def test_gradients_are_those_of_a_branch_that_is_not_changed_in_place(attention, monkeypatch):
    def copied(site, branch, num_frames):
        if site.drop_probability == 0:
            return branch
        clips = stochastic_depth(site.to_clips(branch, num_frames), site.drop_probability, "row", training=True)
        return site.from_clips(clips)

    found = []
    for thinned in (Site.thinned, copied):
        monkeypatch.setattr(Site, "thinned", thinned)
        model = network("tsm", {"backbone": "resnet_small", "attention": attention}).train()
        set_stochastic_depth(model, 0.6)
        torch.manual_seed(1)
        model(torch.randn(4, 2, 3, 32, 32)).logits_BK.square().sum().backward()
        found.append({name: one.grad for name, one in model.named_parameters()})
    torch.testing.assert_close(*found)

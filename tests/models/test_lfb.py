"""I3D with a bank of features: the figures of its specification, its operators by hand, and what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from w3ray.models import build_model, load_weights, profile
from w3ray.models.clip_options import LFBOptions
from w3ray.models.lfb import BankHead, NonLocalOperator, PoolOperator

SMALL = {"width": 8, "blocks": [1, 1, 1, 1], "window": 3, "bank_channels": 6, "inner": 8, "inner_dropout": 0.0}
NONLOCAL = {"kind": "nonlocal", "first": 2, "scale": True, "weight_start": "gaussian"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("window", "gmac"), [(40, 0.086), (120, 0.254)])
def test_cost(window: int, gmac: float) -> None:
    """The specification: FBO-NL costs 0.086 G for 40 features, 0.254 G for 120, and 4.2 M parameters."""
    with torch.device("meta"):
        plain = build_model("i3d_r50", num_classes=125, attention=NONLOCAL)
        model = build_model("lfb", num_classes=125, attention=NONLOCAL, options={"operator": "nl", "window": window})
    base, cost = profile(plain, 32, 224), profile(model, 32, 224)
    assert base.macs / 1e9 == pytest.approx(220.86, rel=1e-3)
    linear = 125 * 2560 - 125 * 2048
    assert (cost.macs - base.macs - linear) / 1e9 == pytest.approx(gmac, abs=0.0005)
    assert sum(one.numel() for one in model.classifier.operator.parameters()) / 1e6 == pytest.approx(4.2, abs=0.01)


def bank_of(*features: list[float] | None) -> tuple[Tensor, Tensor]:
    """Values [1, W, L] and which are there [1, W]. None: absent."""
    length = len(next(one for one in features if one is not None))
    values = torch.tensor([[one or [0.0] * length for one in features]])
    return values, torch.tensor([[float(one is not None) for one in features]])


def test_max_and_avg_by_hand() -> None:
    clip_BC = torch.zeros(1, 4)
    values_BWL, there_BW = bank_of([-3.0, 1.0], [-1.0, 5.0], None)
    for operator, masked, zeros in (
        ("max", [-1.0, 5.0], [0.0, 5.0]),
        ("avg", [-2.0, 3.0], [-4 / 3, 2.0]),
    ):
        pool = PoolOperator(LFBOptions(operator=operator, bank_channels=2))
        torch.testing.assert_close(pool(clip_BC, values_BWL, there_BW), torch.tensor([masked]))
        torch.testing.assert_close(pool(clip_BC, values_BWL, torch.ones_like(there_BW)), torch.tensor([zeros]))
        assert (pool(clip_BC, values_BWL * 0, torch.zeros_like(there_BW)) == 0).all()


def test_attention_by_hand() -> None:
    operator = NonLocalOperator(4, LFBOptions(operator="nl", bank_channels=2, inner=3, layers=1)).eval()
    layer = operator.layers[0]
    nn.init.normal_(layer.out.weight)
    clip_BC, (values_BWL, there_BW) = torch.randn(1, 4), bank_of([-3.0, 1.0], None, [0.5, 0.2])
    query = operator.reduce_clip(clip_BC)[0]
    rows = [operator.reduce_bank(values_BWL[0, place]) for place in (0, 2)]
    scores = torch.stack([layer.query(query) @ layer.key(row) / 3**0.5 for row in rows])
    seen = sum(share * layer.value(row) for share, row in zip(scores.softmax(0), rows, strict=True))
    expected = query + layer.out(layer.norm(seen).relu())
    torch.testing.assert_close(operator(clip_BC, values_BWL, there_BW)[0], expected)


def test_the_attention_starts_as_the_clip_alone() -> None:
    operator = NonLocalOperator(4, LFBOptions(operator="nl", bank_channels=2, inner=3)).eval()
    clip_BC, (values_BWL, there_BW) = torch.randn(1, 4), bank_of([-3.0, 1.0], [0.5, 0.2])
    torch.testing.assert_close(operator(clip_BC, values_BWL, there_BW), operator.reduce_clip(clip_BC))


@pytest.mark.parametrize("operator", ["max", "avg", "nl"])
@pytest.mark.parametrize("mask", [True, False])
def test_absent_features(operator: str, mask: bool) -> None:
    """They have no part; with `mask: false` they do. Without any feature the scores are finite."""
    options = LFBOptions(**{**SMALL, "operator": operator, "mask": mask})
    head = BankHead(4, 3, 0.0, options).eval()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    map_BTCHW = torch.randn(1, 2, 4, 3, 3)
    bank_BWL = torch.cat([torch.ones(1, 3, 1), -torch.rand(1, 3, 6)], dim=2)
    absent_BWL = torch.cat([bank_BWL, torch.zeros(1, 2, 7)], dim=1)
    same = torch.allclose(head(map_BTCHW, absent_BWL), head(map_BTCHW, bank_BWL), atol=1e-6)
    assert same == mask
    assert head(map_BTCHW, torch.zeros(1, 3, 7)).isfinite().all()


@pytest.mark.parametrize("operator", ["max", "avg", "nl"])
def test_the_order_of_features_does_not_matter_and_their_values_do(operator: str) -> None:
    model = build_model("lfb", num_classes=3, options={**SMALL, "operator": operator}).eval()
    nn.init.normal_(model.classifier.linear.weight)
    for layer in getattr(model.classifier.operator, "layers", ()):
        nn.init.normal_(layer.out.weight)
    x_BTCHW = torch.randn(1, 4, 3, 32, 32)
    bank = torch.cat([torch.ones(1, 3, 1), torch.rand(1, 3, 6)], dim=2)
    scores = model(x_BTCHW, bank=bank).logits_BK
    torch.testing.assert_close(model(x_BTCHW, bank=bank.flip(1)).logits_BK, scores)
    other = bank.clone()
    other[..., 1:] = other[..., 1:].flip(2)
    assert not torch.allclose(model(x_BTCHW, bank=other).logits_BK, scores, atol=1e-4)


@pytest.mark.parametrize("kind", ["w3", "nonlocal"])
def test_it_starts_from_a_trained_i3d(tmp_path: Path, kind: str) -> None:
    attention, options = {"kind": kind}, {"width": 8, "blocks": [1, 1, 1, 1]}
    i3d = build_model("i3d_r50", num_classes=5, options=options, attention=attention)
    for parameter in i3d.parameters():
        nn.init.normal_(parameter)
    save_file(i3d.state_dict(), tmp_path / "i3d.safetensors")
    model = build_model("lfb", num_classes=3, options=SMALL, attention=attention)
    loaded = load_weights(model, str(tmp_path / "i3d.safetensors"))
    assert loaded.layout == "I3D"
    assert sorted(loaded.left_out) == ["classifier.bias", "classifier.weight"]
    own = model.state_dict()
    for name, value in i3d.state_dict().items():
        if not name.startswith("classifier."):
            torch.testing.assert_close(own[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("given", [None, (2, 7), (1, 3, 7), (2, 4, 7), (2, 3, 6)])
def test_a_wrong_bank_is_refused(given: tuple[int, ...] | None) -> None:
    model = build_model("lfb", num_classes=3, options=SMALL)
    bank = None if given is None else torch.zeros(given)
    with pytest.raises(ValueError, match=r"lfb: bank of shape .*: must be \[B, W, 1 \+ C\] = \(2, 3, 7\)"):
        model(torch.randn(2, 4, 3, 32, 32), bank=bank)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operator": "sum"}, "operator='sum': must be one of max, avg, nl"),
        ({"window": 0}, "window=0"),
        ({"inner_dropout": 1}, "inner_dropout=1: must be at least 0 and below 1"),
        ({"mask": 1}, "mask=1: must be true or false"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"lfb: {message}"):
        build_model("lfb", num_classes=3, options=options)

"""The measured health of gates, and its texts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from w3ray.attention.health import (
    COLUMNS,
    HEALTH_NAME,
    GateHealth,
    StageHealth,
    deviations,
    document,
    faults,
    from_document,
    read_health,
    rows,
)
from w3ray.attention.meter import GateMeter, gate_health, gate_sums
from w3ray.models import build_model


class Fixed(nn.Module):
    """A gate with a fixed output."""

    def forward(self, gate: torch.Tensor) -> torch.Tensor:
        return gate


class Network(nn.Module):
    """Two stages, the first with two blocks. The gates have the range (0, 2) and start at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(*(self._block() for _ in range(count))) for count in (2, 1))

    def _block(self) -> nn.Module:
        block, attention = nn.Module(), nn.Module()
        attention.channel, attention.spatial = Fixed(), Fixed()
        attention.gate_max, attention.gate_start = 2.0, 1.0  # type: ignore[assignment]
        block.attention = attention
        return block

    def stages(self) -> list[Any]:
        return list(self.parts)

    def forward(self, gates: dict[tuple[int, int, str], np.ndarray]) -> None:
        for (stage, block, kind), values in gates.items():
            getattr(self.parts[stage][block].attention, kind)(torch.from_numpy(values))


def random_gates(rng: np.random.Generator, clips: int, frames: int) -> dict[tuple[int, int, str], np.ndarray]:
    """Gates of blocks with different channels and places. Some values are near the ends of the range."""
    shapes = {
        (0, 0, "channel"): (3,), (0, 1, "channel"): (5,), (1, 0, "channel"): (8,),
        (0, 0, "spatial"): (7, 5), (0, 1, "spatial"): (4, 4), (1, 0, "spatial"): (1, 1),
    }  # fmt: skip
    return {
        place: (2 * rng.beta(0.3, 0.4, (clips, frames, *shape))).astype(np.float32) for place, shape in shapes.items()
    }


def expected(gates: list[np.ndarray], kind: str) -> dict[str, float]:
    """The definitions, in numpy. A deviation over an axis is the root mean square over the rest."""
    flat = [values.astype(np.float64).reshape(*values.shape[:2], -1) for values in gates]
    everything = np.concatenate([values.ravel() for values in flat])
    in_time = np.concatenate([(values - values.mean(1, keepdims=True)).ravel() for values in flat])
    in_frame = np.concatenate([(values - values.mean(2, keepdims=True)).ravel() for values in flat])
    return {
        "mean": everything.mean(),
        "std": everything.std(),
        "std_time": np.sqrt((in_time**2).mean()),
        "std_channels" if kind == "channel" else "std_space": np.sqrt((in_frame**2).mean()),
        "near_zero": (everything < 0.1).mean(),
        "saturated": (everything > 1.9).mean(),
    }


@pytest.mark.parametrize("frames", [1, 4])
def test_numbers_are_those_of_all_valid_clips(frames: int) -> None:
    """Several batches, one row that does not count, and two workers whose sums are added."""
    rng, network = np.random.default_rng(0), Network()
    meters = [GateMeter(network), GateMeter(network)]
    counted: dict[tuple[int, str], list[np.ndarray]] = {}
    for i, valid in enumerate(([True] * 3, [True, False, True, True], [True])):
        gates = random_gates(rng, len(valid), frames)
        with meters[i % 2].watching(torch.tensor(valid)):
            network(gates)
        for (stage, _, kind), values in gates.items():
            counted.setdefault((stage, kind), []).append(values[valid])
    sums = meters[0].sums() + meters[1].sums()
    first, second = found = GateMeter(network).stages(sums, {1: 0.25, 2: float("inf")})
    assert [(stage.stage, stage.grad_norm) for stage in found] == [(1, 0.25), (2, None)]
    for (stage, kind), values in counted.items():
        gate = found[stage].gates()[kind]  # type: ignore[index]
        assert gate.numbers() == pytest.approx(expected(values, kind), rel=1e-9, abs=1e-12)
        assert (gate.greatest, gate.start) == (2.0, 1.0)
    assert first.channel is not None
    assert (first.channel.std_time == 0.0) == (frames == 1)
    assert second.spatial is not None
    assert second.spatial.std_space == 0.0, "a single place"


def test_what_is_not_watched_does_not_count_and_no_hook_is_left() -> None:
    network, rng = Network(), np.random.default_rng(1)
    meter, gates = GateMeter(network), random_gates(rng, 2, 3)
    with meter.watching():
        network(gates)
    before = meter.sums()
    network(gates)
    assert torch.equal(meter.sums(), before)
    assert before.any()
    assert all(not module._forward_hooks for module in network.modules())


def test_nothing_is_said_of_no_values_and_of_those_that_are_none() -> None:
    assert gate_health("channel", [0.0] * 7) is None
    assert gate_health("channel", gate_sums(torch.tensor([[[float("nan"), 1.0]]])).tolist()) is None


@pytest.mark.parametrize(
    ("name", "attention", "kinds"),
    [
        ("tsm", {"kind": "w3"}, {"channel", "spatial"}),
        ("tsm", {"kind": "w3", "spatial": False}, {"channel"}),
        ("r3d_18", {"kind": "cbam"}, {"channel", "spatial"}),
        ("tsm", {"kind": "nonlocal"}, set()),
        ("tsm", None, None),
    ],
)
def test_networks(name: str, attention: dict[str, Any] | None, kinds: set[str] | None) -> None:
    torch.manual_seed(0)
    model = build_model(name, backbone="resnet_small", num_classes=3, attention=attention).eval()
    meter, x_BTCHW = GateMeter(model), torch.randn(2, 4, 3, 32, 32)
    plain = model(x_BTCHW).logits_BK
    with meter.watching():
        assert torch.equal(model(x_BTCHW).logits_BK, plain)
    stages = meter.stages(grad_norms={2: 0.5})
    if kinds is None:
        assert (stages, bool(meter), meter.parameters()) == ((), False, {})
        return
    assert [stage.stage for stage in stages] == ([2, 3] if attention == {"kind": "nonlocal"} else [1, 2, 3, 4])
    assert {stage.stage: stage.grad_norm for stage in stages}[2] == 0.5
    for stage in stages:
        assert set(stage.gates()) == kinds
        for gate in stage.gates().values():
            assert 0 < gate.mean < gate.greatest
    assert sum(len(some) for some in meter.parameters().values()) == sum(
        "attention" in key for key, _ in model.named_parameters()
    )


def gate(**changes: Any) -> GateHealth:
    values: dict[str, Any] = {
        "mean": 1.0, "std": 0.1, "std_time": 0.02, "std_channels": 0.05, "near_zero": 0.0, "saturated": 0.0,
        "greatest": 2.0, "start": 1.0,
    }  # fmt: skip
    return GateHealth(**{**values, **changes})


OLD = {"greatest": 1.0, "start": 0.953}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "fine"),
        ({"std": 0.0}, "not moved"),
        ({"std": 0.005, **OLD, "mean": 0.955, "saturated": 1.0}, "not moved"),
        ({"std": 0.005, "start": None}, "not moved"),
        ({"std": 0.005, "mean": 0.7}, "constant"),
        ({"std": 0.9, "near_zero": 0.5, "saturated": 0.46}, "stuck"),
        ({"std": 0.9, "near_zero": 0.5, "saturated": 0.44}, "fine"),
        ({"std": 0.02, **OLD, "mean": 0.96, "saturated": 0.6}, "fine"),
    ],
)
def test_verdicts(changes: dict[str, Any], verdict: str) -> None:
    assert gate(**changes).verdict == verdict


def test_faults_say_which_stages_and_what_to_do() -> None:
    dead, still = gate(std=0.005, **OLD, mean=0.95), gate(std=0.001)
    stuck = gate(near_zero=0.97)
    stages = [
        StageHealth(stage=1, channel=dead, spatial=gate()),
        StageHealth(stage=2, channel=dead, spatial=stuck),
        StageHealth(stage=4, channel=still, spatial=gate(std=0.002, mean=0.5)),
    ]
    assert faults(stages) == [
        "the channel gates of stages 1, 2 have not moved from their start at 0.953 (standard deviation at most 0.005), "
        "so they do nothing; set model.attention.start to unit: a gate learns fastest there",
        "the spatial gates of stage 2 are stuck: 97% or more of their values are near 0 or saturated; lower the "
        "learning rate of the attention",
        "the channel gates of stage 4 have not moved from their start at 1 (standard deviation at most 0.001), "
        "so they do nothing; train longer, or raise the learning rate of the attention",
        "the spatial gates of stage 4 are the same everywhere (standard deviation at most 0.002), so they choose "
        "nothing; longer training may help; such gates hardly changed the accuracy in our study (docs/attention.md)",
    ]
    assert deviations(stages) == "0.005 0.005 0.001 (channel), 0.100 0.100 0.002 (spatial)"
    assert faults([StageHealth(stage=1, channel=gate(), spatial=gate()), StageHealth(stage=2, grad_norm=0.1)]) == []


STAGES = (StageHealth(stage=1, channel=gate(), grad_norm=0.5), StageHealth(stage=3, grad_norm=None))


def test_document_and_table() -> None:
    assert from_document(json.loads(json.dumps(document(STAGES)))) == STAGES
    first, second = rows(STAGES)
    assert tuple(first) == tuple(second) == COLUMNS
    assert (first["gate"], first["std_channels"], first["std_space"], first["verdict"]) == (
        "channel",
        0.05,
        None,
        "fine",
    )
    assert (second["stage"], second["gate"], second["grad_norm"]) == (3, None, None)
    assert STAGES[0].metrics()["stage1/channel/std_channels"] == 0.05
    assert STAGES[0].metrics()["stage1/grad_norm"] == 0.5
    assert STAGES[1].metrics() == {}


@pytest.mark.parametrize(
    "content",
    ["", "{", "7", "[7]", '[{"stage": 1}]', "[" * 100_000,
     json.dumps([{**document(STAGES)[0], "channel": {"mean": 1.0}}]),
     json.dumps([{**document(STAGES)[0], "channel": {**document(STAGES)[0]["channel"], "std": None}}]),
     json.dumps([{**document(STAGES)[0], "grad_norm": float("nan")}])],
)  # fmt: skip
def test_a_file_that_holds_none_is_as_good_as_no_file(tmp_path: Path, content: str) -> None:
    assert read_health(tmp_path) == ()
    (tmp_path / HEALTH_NAME).write_text(json.dumps(document(STAGES)))
    assert read_health(tmp_path) == STAGES
    (tmp_path / HEALTH_NAME).write_text(content)
    assert read_health(tmp_path) == ()

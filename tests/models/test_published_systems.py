"""The systems of the paper's tables cost what the specification says, and nothing is left out in silence."""

import pytest

from w3ray.models.published import SYSTEMS, Network, System, agrees, count, here, missing

# Name, frames -> GMAC of a clip and 1e6 parameters at the system's number of classes, as measured for the specification
# by an independent script. None: it gives no figure.
SPECIFIED: dict[tuple[str, str], tuple[float, float | None]] = {
    ("TSN, BNInception", "8"): (16.254, 10.45),
    ("TSN", "8"): (32.700, 23.86),
    ("TRN, BNInception", "8"): (16.256, 11.67),
    ("TRN", "8"): (32.702, 25.17),
    ("TRN-Multiscale, BNInception", "8"): (16.261, 13.14),
    ("TRN-Multiscale", "8"): (32.708, 26.64),
    ("TRN-Multiscale RGB + flow, BNInception", "8 + 8"): (16.26 + 18.46, 26.304),
    ("ECO En-Lite RGB + flow", " + ".join(["16 + 20 + 24 + 32"] * 2)): (267.3 + 292.6, None),
    ("ECO", "8"): (32.206, 47.155),
    ("ECO", "16"): (64.413, 47.155),
    ("ECO En-Lite", "16 + 20 + 24 + 32"): (267.3, 149.6),
    ("I3D", "32"): (152.47, 27.58),
    ("I3D + non-local", "32"): (220.86, 34.94),
    ("I3D + non-local + GCN", "32"): (224.7, 38.70),
    ("I3D + non-local + GCN, 50 boxes", "32"): (229.7, 38.70),
    ("SlowFast 8x8", "32"): (65.71, 34.05),
    ("TSM", "8"): (32.700, 23.86),
    ("TSM", "16"): (65.400, 23.86),
    ("TSM ensemble", "8 + 16"): (98.10, 2 * 23.86),
    ("TSM + CBAM", "16"): (65.502, None),
    ("TSM + non-local", "16"): (115.34, None),
    ("TAM", "8"): (32.835, 23.90),
    ("I3D, 3D ResNet-18", "32"): (172.87, 33.26),
    ("I3D, 3D ResNet-18", "64"): (345.74, 33.26),
    ("I3D, 3D ResNet-18, strides in time", "32"): (89.89, 33.26),
    ("VGG16 + LSTM", "16"): (247.3, 121.96),
    ("C3D", "8"): (19.30, 78.34),
    ("C3D", "16"): (38.55, 78.34),
    ("C3D + LSTM + RSTTM", "40"): (4 * 38.5, None),
    ("I3D Inception-v1", "32"): (55.58, 12.37),
    ("I3D Inception-v1", "64"): (111.15, 12.37),
    ("Action Banks, verbs", "32"): (220.86, 34.582 + 0.512),
    ("Action Banks, nouns", "32"): (220.86, 34.582 + 4097 * 352 / 1e6),
    ("Action Banks, FBO-NL", "32"): (220.86 + 0.086, 34.582 + 4.202 + 0.320),
    ("Action Banks, FBO-NL, 120 features", "32"): (220.86 + 0.254, 34.582 + 4.202 + 0.901),
    ("R(2+1)D", "16"): (40.52, 31.39),
    ("TSM + W3", "8"): (32.700 + 0.06, None),
    ("TSM + W3", "16"): (65.400 + 0.12, None),
    ("TSM + W3, dense", "16"): (65.400 + 2.05, None),
}
ABOUT = {("C3D + LSTM + RSTTM", "40"): 0.1}
"""The specification only says "and little more" than C3D."""
FAST = {("TSN, BNInception", "8"), ("TSM", "16"), ("TAM", "8"), ("R(2+1)D", "16")}
MISSING: dict[str, str] = {}
"""What is not here yet. A line goes when its network comes."""


def key_of(system: System) -> tuple[str, str]:
    return system.name, system.frames


def test_what_is_missing_is_listed() -> None:
    assert missing() == MISSING
    assert {one.number for one in SYSTEMS} == {*range(1, 25)}
    assert len({key_of(one) for one in SYSTEMS}) == len(SYSTEMS)


def test_every_system_that_can_be_counted_is_specified() -> None:
    assert {key_of(one) for one in SYSTEMS if not one.needs} == set(SPECIFIED)


@pytest.mark.parametrize(
    "system",
    [
        pytest.param(one, id=f"{one.name} {one.frames}", marks=() if key_of(one) in FAST else pytest.mark.slow)
        for one in here()
    ],
)
def test_costs(system: System) -> None:
    gmac, millions = SPECIFIED[key_of(system)]
    cost = count(system)
    assert cost.macs / 1e9 == pytest.approx(gmac, rel=ABOUT.get(key_of(system), 1e-3))
    if millions is not None:
        per_network = len(system.networks)
        assert cost.parameters / 1e6 == pytest.approx(millions, abs=0.0051 * per_network + 0.05 * (per_network == 4))


def test_what_agrees() -> None:
    assert agrees(16.254, "16")
    assert agrees(152.47, "153")
    assert agrees(65.71, "65")
    assert agrees(115.34, "115.0")
    assert not agrees(65.502, "66.5")
    assert not agrees(220.86, "168")
    assert not agrees(13.14, "18.3")


def test_a_system_that_is_not_here_is_not_counted() -> None:
    system = System(number=1, name="other", tables="1", networks=(Network(model="nothing_such", frames=8),))
    with pytest.raises(ValueError, match="other: nothing_such is not here"):
        count(system)

"""The health of an attention: whether its gates still choose anything after training.

This module holds the numbers by stage of the network, and what they mean for a user. `w3ray.attention.meter` measures
them. This module does not import torch.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from w3ray.storage import StoragePath

HEALTH_NAME = "attention.json"
"""File beside a model: the health of its gates over the clips of the model's own evaluation."""

GateKind = Literal["channel", "spatial"]
GATE_KINDS: tuple[GateKind, ...] = ("channel", "spatial")
Verdict = Literal["fine", "not moved", "constant", "stuck"]

LEAST_STD = 0.01
"""Gates with a smaller standard deviation do nothing. In `benchmarks/results/attention-study/screen.json` it is 0.006
to 0.011 for channel gates that start as `near_open`, and 0.057 to 0.088 for channel gates that start as `unit`."""
LEAST_MOVE = 0.02
"""A mean that is closer to its start has not moved. This threshold is our choice."""
MOST_AT_THE_ENDS = 0.95
"""Gates are stuck if more than this share of their values is near 0 or saturated."""

_LEARN_MORE = "train longer, or raise the learning rate of the attention"
_STILL = "longer training may help; such gates hardly changed the accuracy in our study (docs/attention.md)"
_START_UNIT = "set model.attention.start to unit: a gate learns fastest there"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateHealth:
    """The gates of one kind in one stage of the network, over all its blocks and all clips."""

    mean: float
    std: float
    """Over everything: channels or places, frames, clips and blocks."""
    std_time: float
    """Over the frames of a clip, then root mean square over all else. 0 for clips of one frame."""
    std_channels: float | None = None
    """Over the channels of a frame. Only for channel gates."""
    std_space: float | None = None
    """Over the places of a frame. Only for spatial gates."""
    near_zero: float
    """Share of values below 5 % of `greatest`."""
    saturated: float
    """Share of values above 95 % of `greatest`."""
    greatest: float = 1.0
    """Upper end of a gate's range."""
    start: float | None = None
    """Value of a gate at the start. None: the attention does not tell."""

    def numbers(self) -> dict[str, float]:
        """The measured numbers, by name."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ("greatest", "start") and value is not None
        }

    @property
    def verdict(self) -> Verdict:
        """Whether the gates choose anything. Gates that never moved are "not moved", even if they are near one end."""
        if self.std < LEAST_STD:
            moved = self.start is not None and abs(self.mean - self.start) >= LEAST_MOVE
            return "constant" if moved else "not moved"
        return "stuck" if self.near_zero + self.saturated > MOST_AT_THE_ENDS else "fine"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageHealth:
    """The attention of one stage of the network."""

    stage: int
    """Counted from 1."""
    channel: GateHealth | None = None
    spatial: GateHealth | None = None
    grad_norm: float | None = None
    """Gradient norm of all parameters of the attention, before clipping, at the step before the measurement."""

    def gates(self) -> dict[GateKind, GateHealth]:
        found: dict[GateKind, GateHealth | None] = {"channel": self.channel, "spatial": self.spatial}
        return {kind: gate for kind, gate in found.items() if gate is not None}

    def metrics(self) -> dict[str, float]:
        """All numbers under names such as `stage1/channel/std`."""
        found = {
            f"stage{self.stage}/{kind}/{name}": value
            for kind, gate in self.gates().items()
            for name, value in gate.numbers().items()
        }
        return found if self.grad_norm is None else found | {f"stage{self.stage}/grad_norm": self.grad_norm}


def faults(stages: Iterable[StageHealth]) -> list[str]:
    """One sentence for each kind of gate and each fault; it says what to do. Empty if all gates are fine."""
    found: dict[tuple[GateKind, Verdict, str], list[tuple[int, GateHealth]]] = {}
    for stage in stages:
        for kind, gate in stage.gates().items():
            if gate.verdict != "fine":
                found.setdefault((kind, gate.verdict, _remedy(kind, gate)), []).append((stage.stage, gate))
    return [_sentence(kind, verdict, remedy, off) for (kind, verdict, remedy), off in found.items()]


def _remedy(kind: GateKind, gate: GateHealth) -> str:
    if gate.verdict == "stuck":
        return "lower the learning rate of the attention"
    # A sigmoid is steepest in the middle of its range, so a start there is not the cause.
    at_middle = gate.start is not None and abs(gate.start - gate.greatest / 2) < LEAST_MOVE
    if not at_middle:
        return _START_UNIT
    # With a higher learning rate more spatial gates stop moving, not fewer (part "screen" of the attention study).
    return _STILL if kind == "spatial" else _LEARN_MORE


def _sentence(kind: GateKind, verdict: Verdict, remedy: str, off: Sequence[tuple[int, GateHealth]]) -> str:
    where = f"the {kind} gates of stage{'s' if len(off) > 1 else ''} {', '.join(str(number) for number, _ in off)}"
    gates = [gate for _, gate in off]
    deviation = f"standard deviation at most {max(gate.std for gate in gates):.3f}"
    if verdict == "stuck":
        least = min(gate.near_zero + gate.saturated for gate in gates)
        return f"{where} are stuck: {least:.0%} or more of their values are near 0 or saturated; {remedy}"
    if verdict == "constant":
        return f"{where} are the same everywhere ({deviation}), so they choose nothing; {remedy}"
    start = "" if gates[0].start is None else f" from their start at {gates[0].start:.3g}"
    return f"{where} have not moved{start} ({deviation}), so they do nothing; {remedy}"


def deviations(stages: Iterable[StageHealth]) -> str:
    """Text such as "0.12 0.08 0.05 0.04 (channel), 0.10 0.09 0.03 0.02 (spatial)"; empty without gates."""
    stages = list(stages)
    parts = []
    for kind in GATE_KINDS:
        found = [f"{gates[kind].std:.3f}" for stage in stages if kind in (gates := stage.gates())]
        if found:
            parts.append(f"{' '.join(found)} ({kind})")
    return ", ".join(parts)


COLUMNS = (
    "stage", "gate", "mean", "std", "std_time", "std_channels", "std_space", "near_zero", "saturated", "verdict",
    "grad_norm",
)  # fmt: skip


def rows(stages: Iterable[StageHealth]) -> list[dict[str, Any]]:
    """A table with the columns `COLUMNS`: one row for each gate, and one row for each stage without gates."""
    table = []
    for stage in stages:
        of_stage: dict[str, Any] = {"stage": stage.stage, "grad_norm": stage.grad_norm}
        gates = stage.gates()
        table += [{**of_stage, "gate": kind, **one.numbers(), "verdict": one.verdict} for kind, one in gates.items()]
        if not gates:
            table.append(of_stage)
    return [{name: row.get(name) for name in COLUMNS} for row in table]


def document(stages: Iterable[StageHealth]) -> list[dict[str, Any]]:
    """The stages as JSON values; `from_document` reads them."""
    return [asdict(stage) for stage in stages]


def from_document(values: Any) -> tuple[StageHealth, ...]:
    """Read back the values that `document` returned.

    Raises:
        ValueError: the values are something else.
    """
    try:
        return tuple(
            StageHealth(
                stage=int(value["stage"]),
                channel=_gate(value["channel"]),
                spatial=_gate(value["spatial"]),
                grad_norm=_number(value["grad_norm"]),
            )
            for value in values
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no health of an attention: {error!r}") from error


def read_health(model: "StoragePath") -> tuple[StageHealth, ...]:
    """Read the health beside a model. Empty for a model without attention, or of a version that did not measure it."""
    path = model / HEALTH_NAME
    try:
        return from_document(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return ()  # a model without these numbers is still usable


_MAY_BE_ABSENT = {"std_channels", "std_space", "start"}


def _gate(value: Mapping[str, Any] | None) -> GateHealth | None:
    if value is None:
        return None
    numbers = {field.name: _number(value[field.name]) for field in fields(GateHealth)}
    if any(number is None and name not in _MAY_BE_ABSENT for name, number in numbers.items()):
        raise ValueError("a number is missing")
    return GateHealth(**numbers)  # type: ignore[arg-type]


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} was never measured")
    return number

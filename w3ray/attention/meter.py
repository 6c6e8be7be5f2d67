"""Measures the gates of a network while it runs.

Hooks on the gates add up a few sums of values that the network computes anyway. Nothing else is stored. The sums of
all workers are added before `stages` reads them, so the result does not depend on the number of workers.

Axes: B clips, T frames, X channels or places.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from w3ray.attention.health import GATE_KINDS, GateHealth, GateKind, StageHealth
from w3ray.attention.sites import Stages

_END = 0.05
"""A value in the lowest 5 % of a gate's range is near 0; a value in the highest 5 % is saturated."""
_NUM_SUMS = 7


class _Network(Protocol):
    def stages(self) -> Stages: ...


def gate_sums(gate_BTX: Tensor, greatest: float = 1.0) -> Tensor:
    """Sums over the values of gates, float64 [7]. More axes of places may follow X.

    The seven: count, sum, sum of squares, sum of squared distances from the mean over time, sum of squared distances
    from the mean over X, number of values near 0, number of values near `greatest`.
    """
    x_BTX = gate_BTX.detach().double().flatten(2)
    return torch.stack(
        [
            x_BTX.new_tensor(x_BTX.numel()),
            x_BTX.sum(),
            x_BTX.square().sum(),
            (x_BTX - x_BTX.mean(1, keepdim=True)).square().sum(),
            (x_BTX - x_BTX.mean(2, keepdim=True)).square().sum(),
            (x_BTX < _END * greatest).sum().double(),
            (x_BTX > (1 - _END) * greatest).sum().double(),
        ]
    )


def gate_health(
    kind: GateKind, sums: Sequence[float], *, greatest: float = 1.0, start: float | None = None
) -> GateHealth | None:
    """The health from sums of `gate_sums`. None: nothing was measured, or a sum is not finite."""
    count, total, squares, in_time, in_frame, near_zero, saturated = sums
    if not count or not all(math.isfinite(value) for value in sums):
        return None
    mean = total / count
    in_frame_std = math.sqrt(in_frame / count)
    return GateHealth(
        mean=mean,
        std=math.sqrt(max(0.0, squares / count - mean**2)),
        std_time=math.sqrt(in_time / count),
        std_channels=in_frame_std if kind == "channel" else None,
        std_space=in_frame_std if kind == "spatial" else None,
        near_zero=near_zero / count,
        saturated=saturated / count,
        greatest=greatest,
        start=start,
    )


class GateMeter:
    """Measures the gates of a network while `watching` is open. The sums stay on the device of the gates.

    Args:
        model: a model of w3ray. A model without attention is allowed; its result has no stages.
    """

    def __init__(self, model: _Network) -> None:
        self._attentions: list[tuple[int, nn.Module]] = [
            (i, attention)
            for i, stage in enumerate(model.stages())
            for site in stage
            if isinstance(attention := site.attention, nn.Module)
        ]
        self._sums: dict[tuple[int, GateKind], Tensor] = {}

    def __bool__(self) -> bool:
        """Whether the model has an attention."""
        return bool(self._attentions)

    @contextmanager
    def watching(self, valid_B: Tensor | None = None) -> Iterator[None]:
        """Measure the network's forward passes inside the `with` block.

        Args:
            valid_B: bool on the CPU: which clips count. None: all.
        """
        rows = None if valid_B is None or bool(valid_B.all()) else valid_B.nonzero().squeeze(1)
        with ExitStack() as stack:
            for stage, attention in self._attentions:
                for kind in GATE_KINDS:
                    if isinstance(gate := getattr(attention, kind, None), nn.Module):
                        hook = self._hook((stage, kind), _greatest(attention), rows)
                        stack.callback(gate.register_forward_hook(hook).remove)
            yield

    def _hook(self, key: tuple[int, GateKind], greatest: float, rows: Tensor | None) -> Any:
        def add(module: nn.Module, inputs: Any, gate_BTX: Tensor) -> None:
            if rows is not None:
                gate_BTX = gate_BTX.index_select(0, rows.to(gate_BTX.device))
            sums = gate_sums(gate_BTX, greatest)
            self._sums[key] = self._sums[key] + sums if key in self._sums else sums

        return add

    def sums(self) -> Tensor:
        """All sums so far, float64 [stages, kinds, 7] on the CPU. The caller adds them up over workers."""
        num_stages = 1 + max((stage for stage, _ in self._attentions), default=-1)
        found = torch.zeros(num_stages, len(GATE_KINDS), _NUM_SUMS, dtype=torch.float64)
        for (stage, kind), sums in self._sums.items():
            found[stage, GATE_KINDS.index(kind)] = sums.cpu()
        return found

    def stages(
        self, sums: Tensor | None = None, grad_norms: Mapping[int, float] | None = None
    ) -> tuple[StageHealth, ...]:
        """The health of the gates, for each stage of the network that has attention.

        Args:
            sums: the sums of all workers. None: this worker's own.
            grad_norms: by stage, counted from 1.
        """
        values = (self.sums() if sums is None else sums).tolist()
        found = []
        for stage, attention in dict(self._attentions).items():
            greatest, start = _greatest(attention), getattr(attention, "gate_start", None)
            channel, spatial = (
                gate_health(kind, values[stage][i], greatest=greatest, start=start) for i, kind in enumerate(GATE_KINDS)
            )
            norm = (grad_norms or {}).get(stage + 1)
            found.append(
                StageHealth(
                    stage=stage + 1,
                    channel=channel,
                    spatial=spatial,
                    grad_norm=norm if norm is not None and math.isfinite(norm) else None,
                )
            )
        return tuple(found)

    def parameters(self) -> dict[int, list[nn.Parameter]]:
        """The parameters of the attention, by stage, counted from 1."""
        found: dict[int, list[nn.Parameter]] = {}
        for stage, attention in self._attentions:
            found.setdefault(stage + 1, []).extend(attention.parameters())
        return found


def _greatest(attention: nn.Module) -> float:
    """Upper end of the gates' range. An attention from a plugin may not tell it: then 1, as for a sigmoid."""
    return float(getattr(attention, "gate_max", 1.0))

"""Which share of the base learning rate does update number `step` use? A pure function, so it has no state to save."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

Schedule = Literal["step", "cosine", "constant"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


def lr_factor(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int = 0,
    kind: Schedule = "step",
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
) -> float:
    """Factor on the base learning rate for the update `step` (0-based, counted over the whole stage).

    Warm-up is linear and never 0: update 0 uses the factor 1 / warmup_steps, update warmup_steps - 1 uses 1. After the
    warm-up, "step" multiplies by `gamma` at each milestone (in steps, counted from the start of the stage), "cosine"
    falls from 1 at the end of the warm-up to 0 at total_steps, and "constant" stays at 1.

    Raises:
        ValueError: the kind is unknown, or a count is out of range.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"unknown schedule {kind!r}: known are {', '.join(SCHEDULES)}")
    if step < 0 or total_steps < 1 or not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"need step >= 0, total_steps >= 1 and 0 <= warmup_steps <= total_steps, "
            f"got step {step}, total_steps {total_steps}, warmup_steps {warmup_steps}"
        )
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if kind == "step":
        return gamma ** sum(step >= milestone for milestone in milestones)
    if kind == "cosine":
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return 1.0

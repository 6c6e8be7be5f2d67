"""When has a training stopped getting better?"""

from collections.abc import Mapping
from typing import Any

LOWER_IS_BETTER = ("loss",)


class Patience:
    """Counts validations without improvement.

    Args:
        validations: after how many of them the training stops.
        metric: name of the validation metric.
        min_delta: a smaller improvement than this counts as none.
    """

    def __init__(self, validations: int, metric: str, min_delta: float = 0.0) -> None:
        self.validations, self.metric, self.min_delta = validations, metric, min_delta
        self.best: float | None = None
        self.in_vain = 0
        """Validations since the best one."""

    @property
    def spent(self) -> bool:
        """Whether the training stops here."""
        return self.in_vain >= self.validations

    def see(self, metrics: Mapping[str, float]) -> None:
        """Count a validation."""
        value = -metrics[self.metric] if self.metric in LOWER_IS_BETTER else metrics[self.metric]
        if self.best is None or value - self.best > self.min_delta:
            self.best, self.in_vain = value, 0
        else:
            self.in_vain += 1

    def stopped(self, epochs: int, of: int) -> dict[str, Any]:
        """What the driver is told: the epochs that were trained, and why not all of them."""
        why = f"stopped after epoch {epochs} of {of}: no better {self.metric} in {self.in_vain} validations"
        return {"epochs": epochs, "why": why}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON values."""
        return {"best": self.best, "in_vain": self.in_vain}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict()`."""
        self.best, self.in_vain = state["best"], state["in_vain"]

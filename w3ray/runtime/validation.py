"""Scores a stage's network on a split, and tells the driver the result."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from w3ray.attention.health import StageHealth
from w3ray.evaluation.counting import SplitCounts
from w3ray.events import AttentionHealth, Validated
from w3ray.models._common import VideoModel
from w3ray.runtime.event_channel import Sender
from w3ray.runtime.ranks import Ranks
from w3ray.runtime.split_evaluator import SplitEvaluator


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The result of a network on a split, the same on all ranks."""

    counts: SplitCounts
    metrics: Mapping[str, float]
    attention: tuple[StageHealth, ...]
    """What the gates did, one for each stage of the network; empty without attention."""


class Validation:
    """Validates a stage, and evaluates it at its end. All ranks must call `score` together.

    Args:
        stage: its name.
        evaluator: of the stage.
        ranks, events: the first rank sends the results.
    """

    def __init__(self, stage: str, evaluator: SplitEvaluator, *, ranks: Ranks, events: Sender) -> None:
        self._stage, self._evaluator, self._ranks, self._events = stage, evaluator, ranks, events
        self.grad_norms: dict[int, float] = {}
        """Of the attention in each stage of the network, in the last step before a validation."""

    def score(self, model: VideoModel, split: Literal["val", "test"], *, step: int, epoch: int) -> Scored:
        """Score the network on a split and tell the result.

        Args:
            model: put into eval mode, and left in it.
            split: of the stage.
            step: steps done.
            epoch: the epoch that ended, counted from 0.

        Raises:
            RunError: as `SplitEvaluator.evaluate`.
        """
        counts, attention = self._evaluator.evaluate(model, split, self.grad_norms)
        found = Scored(counts=counts, metrics=counts.result(), attention=attention)
        if self._ranks.rank == 0:
            if attention and split == "val":
                self._events.send(AttentionHealth(stage=self._stage, step=step, stages=attention))
            self._events.send(
                Validated(
                    stage=self._stage, step=step, epoch=epoch, metrics=dict(found.metrics), split=split,
                    time_s=time.time(),
                )
            )  # fmt: skip
            self._events.flush()
        return found

"""The workers report the progress of a validation: at intervals, and only the first worker."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from w3ray.data.microbatch import Microbatch
from w3ray.data.schedule import Schedule
from w3ray.events import ValidationProgress
from w3ray.heads import Heads
from w3ray.runtime import split_evaluator
from w3ray.runtime.event_channel import LocalChannel
from w3ray.runtime.split_evaluator import SplitEvaluator
from w3ray.training.transfer import Transfer

SCHEDULE = Schedule(
    num_train=8, num_val=10, num_test=20, batch_size=2, microbatch_size=2, epochs=1, validate_every_epochs=1, seed=0,
    world_size=1,
)  # fmt: skip


class Model(torch.nn.Module):
    def stages(self) -> list[list[torch.nn.Module]]:
        return []

    def forward(self, clips: torch.Tensor) -> Any:
        return SimpleNamespace(logits_BK=torch.zeros(len(clips), 3))


def sent(
    monkeypatch: pytest.MonkeyPatch, kind: Literal["val", "test"], *, round_s: float, rank: int = 0, world_size: int = 1
) -> list[Any]:
    """The events of one rank in a whole validation or test, if each round takes `round_s`."""
    now_s = 50.0
    events = LocalChannel()

    def read(kind: str) -> Microbatch:
        nonlocal now_s
        now_s += round_s
        rows = np.arange(2)
        clips = np.zeros((2, 1, 4, 4, 3), dtype=np.uint8)
        return Microbatch(
            0, kind, 0, 0, 0, clips, rows, np.ones(2, dtype=bool), rows, rows, ("a", "b"), np.zeros(2, np.uint64), ()
        )

    monkeypatch.setattr(split_evaluator, "time", SimpleNamespace(monotonic=lambda: now_s))
    # There are no other ranks, so nothing is added.
    ranks = SimpleNamespace(rank=rank, world_size=world_size, all_reduce=lambda sums: None)
    evaluator = SplitEvaluator(
        SimpleNamespace(name="teacher", heads=Heads(("a", "b", "c"))),
        SCHEDULE.for_world_size(world_size),
        step=SimpleNamespace(autocast=nullcontext, prepare=lambda clips: clips),
        reader=SimpleNamespace(read=read),
        ranks=ranks,
        failed=SimpleNamespace(share=lambda failures, leaving: (0, False)),
        events=events,
        device=torch.device("cpu"),
        transfer=Transfer(torch.device("cpu")),
    )
    counts, _ = evaluator.evaluate(Model(), kind, {})
    assert counts.rows > 0
    return events.unread()


def told(split: Literal["val", "test"], clips: int, total_clips: int) -> ValidationProgress:
    return ValidationProgress(stage="teacher", split=split, clips=clips, total_clips=total_clips)


class TestProgress:
    def test_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert sent(monkeypatch, "val", round_s=2.0) == [told("val", clips, 10) for clips in (2, 4, 6, 8, 10)]

    def test_throttled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert sent(monkeypatch, "test", round_s=0.25) == [told("test", clips, 20) for clips in (8, 16)]

    def test_all_workers_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last of two rounds of three workers is not full."""
        events = sent(monkeypatch, "val", round_s=2.0, world_size=3)
        assert events == [told("val", 6, 10), told("val", 10, 10)]

    def test_only_the_first_worker_tells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert sent(monkeypatch, "val", round_s=2.0, rank=1, world_size=3) == []

"""A worker takes the item that is due or none. All workers count the clips that failed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from w3ray.data.microbatch import ClipFailure, Microbatch
from w3ray.data.sample_log import SampleLog, read_lines
from w3ray.errors import RunError
from w3ray.events import ClipsFailed
from w3ray.runtime.event_channel import LocalChannel
from w3ray.runtime.failed_clips import FailedClips
from w3ray.runtime.heartbeat import Heartbeat
from w3ray.runtime.item_reader import ItemReader
from w3ray.runtime.ranks import Ranks


def item(number: int, kind: str = "train") -> Microbatch:
    rows = np.arange(2)
    clips = np.zeros((2, 1, 4, 4, 3), dtype=np.uint8)
    valid, draws = np.ones(2, dtype=bool), np.zeros(2, np.uint64)
    return Microbatch(number, kind, 0, number, 0, clips, rows, valid, rows, rows, ("a", "b"), draws, ())


def reader(*items: Microbatch, ranks: Ranks, samples: SampleLog | None = None) -> ItemReader:
    heartbeat = Heartbeat(LocalChannel(), stage="teacher", rank=ranks.rank, world_size=ranks.world_size)
    return ItemReader(iter(items), ranks=ranks, heartbeat=heartbeat, samples=samples)


class TestReader:
    def test_every_second_item_of_two_ranks(self, tmp_path: Path) -> None:
        ranks = Ranks(rank=1, world_size=2)
        second = reader(item(5), item(7), item(9, "val"), ranks=ranks, samples=SampleLog(tmp_path, 1))
        second.start_at(4)
        assert [second.read("train").number, second.read("train").number, second.read("val").number] == [5, 7, 9]
        second.flush_samples()
        assert [row["item"] for row in read_lines(tmp_path)] == [5, 7, 9]

    @pytest.mark.parametrize(
        ("items", "found"),
        [([item(1)], r"item 1 \(train\)"), ([item(0, "val")], r"item 0 \(val\)"), ([], "its end")],
    )
    def test_another_item_than_the_one_that_is_due(self, items: list[Microbatch], found: str) -> None:
        first = reader(*items, ranks=Ranks())
        first.start_at(0)
        with pytest.raises(RuntimeError, match=rf"stream: item 0 \(train\) is due for rank 0, found {found}"):
            first.read("train")


class TestFailedClips:
    def shared(self, events: LocalChannel, max_failed_share: float = 0.25) -> FailedClips:
        stage: Any = SimpleNamespace(
            name="teacher", num_clips=8, max_failed_share=max_failed_share, directory=Path("runs")
        )
        return FailedClips(stage, Ranks(), events)

    def failure(self, clip_id: str) -> ClipFailure:
        return ClipFailure(split="train", clip_id=clip_id, uri=f"{clip_id}.mp4", reason="empty", item=0)

    def test_each_is_told_once_and_counted_each_time(self) -> None:
        events = LocalChannel()
        failed = self.shared(events)
        assert failed.share([], leaving=False) == (0, False)
        assert failed.share([self.failure("b"), self.failure("a")], leaving=True) == (2, True)
        assert failed.share([self.failure("a")], leaving=False) == (1, False)
        (told,) = events.unread()
        assert isinstance(told, ClipsFailed)
        assert [failure["clip_id"] for failure in told.failures] == ["b", "a"]
        assert failed.known() == [("train", "a"), ("train", "b")]

    def test_too_many_with_those_of_the_checkpoint(self) -> None:
        failed = self.shared(LocalChannel())
        failed.remember([["train", "x"], ["train", "y"]])
        with pytest.raises(RunError, match=r"3 of 8 clips cannot be read, more than data\.max_failed_share=0\.25"):
            failed.share([self.failure("z")], leaving=False)

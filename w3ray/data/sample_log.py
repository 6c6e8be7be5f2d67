"""What did a stage train on, in the end? The logs that workers write with `train.log_samples`, and their reader.

Steps that were repeated after a restart are in the logs twice. What counts is the history that the final weights saw.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from w3ray.storage import RemotePath, StoragePath


class SampleLog:
    """The log of one rank: a line for each of its microbatches, in `samples-<rank>.jsonl`.

    Object storage cannot append to a file. There each file holds the lines between two checkpoints. The name of a file
    holds its first item and when it was read, so that repeated steps overwrite nothing.
    """

    def __init__(self, directory: StoragePath, rank: int) -> None:
        self._directory, self._rank = directory, rank
        self._waiting: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        if isinstance(self._directory, RemotePath):
            self._waiting.append(row)
            return
        with (self._directory / f"samples-{self._rank}.jsonl").open("a") as file:
            file.write("\n" + json.dumps(row))  # the line end comes first: a killed process may have left half a line

    def flush(self) -> None:
        """Write what waits. Must be called at each checkpoint."""
        if self._waiting:
            assert isinstance(self._directory, RemotePath)
            first = self._waiting[0]
            name = f"samples-{self._rank}-{first['item']:09d}-{first['time_s'] * 1000:.0f}.jsonl"
            (self._directory / name).write_text("".join(json.dumps(row) + "\n" for row in self._waiting))
            self._waiting = []


class Draw(NamedTuple):
    """One sample of the history: its place in the order, its clip, and the seed of its augmentation (`draw`)."""

    kind: str
    epoch: int
    position: int
    clip_id: str
    draw: int
    step: int
    valid: bool


def read_samples(directory: StoragePath) -> list[Draw]:
    """The surviving history of the stage in `directory`, in order of (kind, epoch, position).

    If two entries have the same place in an epoch's order, the later one counts.
    """
    found: dict[tuple[str, int, int], tuple[float, Draw]] = {}
    for line in read_lines(directory):
        for position, clip_id, draw, valid in zip(
            line["positions"], line["clips"], line["draws"], line["valid"], strict=True
        ):
            if clip_id:
                entry = Draw(line["kind"], line["epoch"], position, clip_id, draw, line["step"], valid)
                place = entry[:3]
                if place not in found or found[place][0] <= line["time_s"]:
                    found[place] = (line["time_s"], entry)
    return [draw for _, (_, draw) in sorted(found.items())]


def steps_done_again(directory: StoragePath) -> int:
    """How many optimiser steps were repeated after restarts. Counted by the first microbatch of each step."""
    seen: dict[int, set[float]] = {}
    for line in read_lines(directory):
        if line["kind"] == "train" and line["slot"] == 0:
            seen.setdefault(line["step"], set()).add(line["time_s"])
    return sum(len(times) - 1 for times in seen.values())


def read_lines(directory: StoragePath) -> Iterator[dict[str, Any]]:
    """What the workers wrote, a line a microbatch, rank after rank."""
    files: list[StoragePath] = list(directory.iterdir())
    for path in sorted(files, key=lambda path: path.name):
        if path.name.startswith("samples-"):
            yield from lines_of(path)


def lines_of(path: StoragePath) -> Iterator[dict[str, Any]]:
    """The lines of one rank."""
    for line in filter(None, path.read_text().split("\n")):
        with suppress(ValueError):  # half a line from a killed process: its step was repeated
            yield json.loads(line)

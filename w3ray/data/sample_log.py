"""What did a stage train on, in the end? Reads the logs that workers write with `train.log_samples`.

Steps that were done again after a restart are in the logs twice: what counts is the history that the final weights saw.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class Draw(NamedTuple):
    """One sample of the history: where in the order it stood, which clip it was, and from what it was augmented."""

    kind: str
    epoch: int
    position: int
    clip_id: str
    draw: int
    step: int
    valid: bool


def read_samples(directory: Path) -> list[Draw]:
    """The surviving history of the stage in `directory`, in order of (kind, epoch, position).

    Of two entries for one place in an epoch's order the later one counts.
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


def steps_done_again(directory: Path) -> int:
    """Optimiser steps that the logs hold more than once: what restarts cost. Counted by first microbatches."""
    seen: dict[int, set[float]] = {}
    for line in read_lines(directory):
        if line["kind"] == "train" and line["slot"] == 0:
            seen.setdefault(line["step"], set()).add(line["time_s"])
    return sum(len(times) - 1 for times in seen.values())


def read_lines(directory: Path) -> Iterator[dict[str, Any]]:
    """What the workers wrote, a line a microbatch, rank after rank."""
    for path in sorted(directory.glob("samples-*.jsonl")):
        yield from lines_of(path)


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of one rank."""
    for line in filter(None, path.read_text().split("\n")):
        with suppress(ValueError):  # half a line, by a process that was killed: its step was done again
            yield json.loads(line)

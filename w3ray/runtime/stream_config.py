"""Builds the stream of microbatches for Ray Train, each time a worker group starts.

Not in `w3ray.data.stream`, which decoders and readers import: they do not need Ray Train.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, pairwise
from typing import Any

import ray
import ray.train
from ray.data import DataIterator

from w3ray.data.microbatch import ClipTables
from w3ray.data.schedule import Schedule
from w3ray.data.stream import DecoderPool, build_dataset
from w3ray.data.stream_spec import StreamSpec
from w3ray.ray_internals import stream_coordinator

STREAM_NAME = "stream"
"""The name under which a training worker finds its part: `ray.train.get_dataset_shard(STREAM_NAME)`."""

READERS_PER_COORDINATOR = 8
"""Maximum size of a group of workers with its own stream: the number of GPUs of most nodes."""


class StreamConfig(ray.train.DataConfig):
    """Builds the stream for Ray Train, each time a worker group starts.

    Args:
        spec: for any world size; that of the worker group is filled in.
        tables: the rows.
        steps_done: called when a worker group starts; returns the step to resume at (of the newest good checkpoint).
        pool: the decoders of all groups of workers together.
        readers_per_coordinator: how large such a group may be; there are no more groups than decoders.
    """

    def __init__(
        self,
        spec: StreamSpec[Schedule],
        tables: ClipTables,
        pool: DecoderPool,
        *,
        steps_done: Callable[[], int],
        readers_per_coordinator: int = READERS_PER_COORDINATOR,
    ) -> None:
        super().__init__(datasets_to_split=[STREAM_NAME])
        self._spec, self._tables = spec, tables
        self._pool, self._readers = pool, readers_per_coordinator
        self._steps_done = steps_done
        self._prepared: tuple[int, int, list[DataIterator]] | None = None
        self._mine: list[DataIterator] = []

    def prepare(self, world_size: int) -> None:
        """Build the stream now: its coordinator then starts while Ray Train starts the workers.

        The first worker group uses it if it has `world_size` workers and starts at the present step. Any other group
        ends it and builds its own stream.
        """
        step = self._steps_done()
        self._mine = self._split(world_size, step)
        self._prepared = (world_size, step, self._mine)

    def release(self) -> None:
        """End a stream that was prepared here, used or not.

        The coordinator belongs to the process that prepared the stream. Left alone, it still runs after its readers are
        gone, and holds the processors of its decoders.
        """
        shards, self._mine = self._mine, []
        _end(shards)

    def _split(self, world_size: int, step: int) -> list[DataIterator]:
        spec, watch_name = self._spec.for_world_size(world_size), uuid.uuid4().hex
        groups = min(-(-world_size // self._readers), self._pool.size)
        shards: list[DataIterator] = []
        for ranks, decoders in zip(_parts(world_size, groups), _parts(self._pool.size, groups), strict=True):
            dataset = build_dataset(
                spec, self._tables, replace(self._pool, size=len(decoders)),
                first_item=spec.schedule.first_item(step), ranks=ranks, watch_name=watch_name,
            )  # fmt: skip
            shards += dataset.streaming_split(len(ranks), equal=False)
        return shards

    def configure(
        self,
        datasets: dict[str, Any],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **kwargs: Any,
    ) -> list[dict[str, DataIterator]]:
        # Ray Train passes what `WorkerGroups` returned: the world size is known only here. Each group has its own copy
        # of this object, so only that number tells which group is the first.
        step = self._steps_done()
        if self._prepared is not None:
            prepared_for, shards = self._prepared[:2], self._prepared[2]
            if datasets[STREAM_NAME] == 0 and prepared_for == (world_size, step):
                return [{STREAM_NAME: shard} for shard in shards]
            # It belongs to the driver, so it does not end with its worker group, and blocks that nobody read may keep
            # its decoders alive. The new stream would wait for their processors.
            _end(shards)
        return [{STREAM_NAME: shard} for shard in self._split(world_size, step)]


class WorkerGroups:
    """Counts the worker groups of a stage. Ray Train calls its data sets in the controller, once for each group."""

    def __init__(self) -> None:
        self._numbers = count()

    def __call__(self) -> int:
        """The number of the new worker group, from 0."""
        return next(self._numbers)


def _end(shards: Sequence[DataIterator]) -> None:
    """End the coordinators of a stream, and so its decoders. Harmless if they have ended."""
    for coordinator in {stream_coordinator(shard) for shard in shards}:
        ray.kill(coordinator)


def _parts(size: int, parts: int) -> list[range]:
    """0 to `size` - 1 in `parts` neighbouring ranges that are as equal as possible."""
    bounds = [size * part // parts for part in range(parts + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]

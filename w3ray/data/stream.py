"""How do decoded microbatches reach the training workers, in the schedule's order, exactly once?

Ray Data does the work. One row for each microbatch (its item number) goes to a pool of decoder actors. Each actor turns
its row into one block. `streaming_split` with `preserve_order` deals the blocks round robin, so consumer i of n gets
items i, i+n, i+2n, ... whatever the speed of decoders and consumers. The stream of a whole stage is ONE execution:
training, validations and test follow each other without a pause. `StreamConfig` builds it anew each time Ray Train
(re)starts its worker group, from the step and the world size of that moment.

One process, the coordinator, deals out all blocks of an execution, about 130 per second. So a large number of workers
is divided into groups. Each group has its own execution with the items of its ranks. This changes no order.
"""

import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.train
from ray.data import ActorPoolStrategy, DataIterator, Dataset, Datasource, ReadTask, TaskPoolStrategy
from ray.data.block import BlockMetadata

from w3ray.data.decode_watch import WatchSpec
from w3ray.data.microbatch import ClipTables, Microbatch, MicrobatchDecoder, decode_in_task, from_row
from w3ray.data.schedule import Order, Schedule
from w3ray.data.stream_spec import StreamSpec
from w3ray.ray_internals import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
    ExecutionCallback,
    blocks_read_ahead,
    forget_blocks,
    policy_setting,
    stream_coordinator,
)

STREAM_NAME = "stream"
"""The name under which a training worker finds its part: `ray.train.get_dataset_shard(STREAM_NAME)`."""

# All read tasks are planned before the first one starts, so there are at most this many, however long the stage. There
# is more than one, because a task whose process is lost is read again from its beginning.
_MAX_READ_TASKS = 1024
_MIN_ITEMS_PER_READ_TASK = 128

_READ_CPUS = 0.05

READERS_PER_COORDINATOR = 8
"""Maximum size of a group of workers with its own stream: the number of GPUs of most nodes."""

# How many item numbers wait for each decoder. They keep it busy while more are read.
_READ_AHEAD = 4
_READ_AHEAD_KEY = "w3ray.read_ahead"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderPool:
    """How many decoders run and what each one asks of Ray (from the resource plan)."""

    size: int
    cpus: float
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources that only some nodes have. Decoders are placed on these nodes."""
    as_tasks: bool = False
    """Decoders are Ray tasks and not actors of one stream. Ray reuses their processes for other streams."""


class ItemNumbers(Datasource):
    """Item numbers in order, one in each row, made when they are needed: see `ReadAhead`.

    Args:
        first, stop: the range in the whole stream; multiples of `world_size`.
        world_size: how many ranks read the stream.
        ranks: the ranks that get these items; None: all.
    """

    def __init__(self, first: int, stop: int, world_size: int = 1, ranks: range | None = None) -> None:
        self._first_round, self._world_size = first // world_size, world_size
        self._ranks = range(world_size) if ranks is None else ranks
        self._count = (stop - first) // world_size * len(self._ranks)

    def estimate_inmemory_data_size(self) -> int:
        return 8 * self._count

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """At most `_MAX_READ_TASKS`, whatever `parallelism` Ray Data would like."""
        items = max(_MIN_ITEMS_PER_READ_TASK, -(-self._count // _MAX_READ_TASKS))
        return [self._read_task(start, min(start + items, self._count)) for start in range(0, self._count, items)]

    def _read_task(self, start: int, stop: int) -> ReadTask:
        first_round, world_size, ranks = self._first_round, self._world_size, self._ranks

        def read() -> Iterator[pa.Table]:
            for index in range(start, stop):
                round_, place = divmod(index, len(ranks))
                number = (first_round + round_) * world_size + ranks[place]
                yield pa.table({"item": pa.array([number], pa.int64())})

        rows = stop - start
        return ReadTask(read, BlockMetadata(num_rows=rows, size_bytes=8 * rows, input_files=None, exec_stats=None))


class ReadAhead(BackpressurePolicy):
    """Reading pauses while enough item numbers wait for decoders.

    Ray Data limits the bytes that wait, and a number has next to none. Without this policy the coordinator reads the
    whole stage ahead of the decoders. That costs half a processor, and memory that grows with the stage.
    """

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        waiting = blocks_read_ahead(self, op)
        return 0 if waiting is not None and waiting >= policy_setting(self, _READ_AHEAD_KEY) else None


class ForgetBlocks(ExecutionCallback):
    """Drops statistics and the empty queue of each block. Ray Data would keep them for all the millions of a stage."""

    def on_execution_step(self, executor: Any) -> None:
        forget_blocks(executor)


def read_microbatches(shard: DataIterator | Dataset, *, prefetch: int = 2) -> Generator[Microbatch, None, None]:
    """The microbatches of one consumer, in order. `prefetch` is how many are fetched ahead.

    Close it if it is not read to its end: closing ends the threads that read ahead. The garbage collector would end
    them at an unknown time, and if Ray is shut down by then, Ray starts to look for a cluster, for ever.
    """
    with closing(blocks(shard, prefetch=prefetch)) as rows:
        for row in rows:
            yield from_row(row)


def blocks(shard: DataIterator | Dataset, *, prefetch: int = 2) -> Generator[dict[str, np.ndarray], None, None]:
    """The blocks of one consumer, in order, each as it was made. Close it as `read_microbatches`."""
    # batch_size None: a batch is a block, without a copy.
    batches = iter(shard.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=prefetch))
    with closing(cast("Generator[dict[str, np.ndarray], None, None]", batches)):
        yield from batches


def build_dataset(
    spec: StreamSpec[Order],
    tables: ClipTables,
    pool: DecoderPool,
    *,
    first_item: int,
    ranks: range | None = None,
    watch_name: str | None = None,
) -> Dataset:
    """The stream from `first_item` to the stage's end, not yet split: one block for each microbatch, in order.

    Args:
        spec: what is delivered.
        tables: the rows.
        pool: the decoders.
        first_item: its number, a multiple of the world size.
        ranks: the ranks that get these items, for `len(ranks)` consumers; None: all of the schedule's world size.
        watch_name: streams with the same name share their notes about clips that hang; None: a new name.
    """
    schedule = spec.schedule
    dataset = ray.data.read_datasource(
        ItemNumbers(first_item, schedule.total_items, schedule.world_size, ranks),
        num_cpus=_READ_CPUS,
        concurrency=1,
    )
    context = dataset.context
    # A block is cut off at this many bytes, but never inside a row. So each block is exactly one microbatch, and the
    # round robin of streaming_split is exact.
    context.target_max_block_size = 1
    context.target_min_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    watch = WatchSpec(stream=watch_name or uuid.uuid4().hex, clip_timeout_s=spec.clip_timeout_s)
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, ReadAhead])
    context.set_config(_READ_AHEAD_KEY, _READ_AHEAD * pool.size)
    context.custom_execution_callback_classes = [ForgetBlocks]
    arguments = (spec, tables, watch)
    if pool.as_tasks:
        return dataset.map_batches(
            decode_in_task,
            fn_args=arguments,
            batch_size=1,
            compute=TaskPoolStrategy(size=pool.size),
            num_cpus=pool.cpus,
            resources=dict(pool.resources) or None,
        )
    return dataset.map_batches(
        MicrobatchDecoder,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ActorPoolStrategy(size=pool.size, max_tasks_in_flight_per_actor=2),
        num_cpus=pool.cpus,
        resources=dict(pool.resources) or None,
    )


def _parts(size: int, parts: int) -> list[range]:
    """0 to `size` - 1 in `parts` neighbouring ranges that are as equal as possible."""
    bounds = [size * part // parts for part in range(parts + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]


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
        builds its own stream.
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
        for coordinator in {stream_coordinator(shard) for shard in shards}:
            ray.kill(coordinator)

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
        datasets: dict[str, Dataset],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **kwargs: Any,
    ) -> list[dict[str, DataIterator]]:
        # Ray Train passes a placeholder in `datasets`: the world size is known only here.
        step = self._steps_done()
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[:2] == (world_size, step):
            shards = prepared[2]
        else:
            shards = self._split(world_size, step)
        return [{STREAM_NAME: shard} for shard in shards]

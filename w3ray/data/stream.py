"""How do decoded microbatches reach the training workers, in the schedule's order, exactly once?

Ray Data does the work. Rows of a few item numbers (each microbatch has one) go to a pool of decoder actors. Each actor
makes one block of each number. `streaming_split` with `preserve_order` deals the blocks round robin, so consumer i of n
gets items i, i+n, i+2n, ... whatever the speed of decoders and consumers. The stream of a whole stage is ONE execution:
training, validations and test follow each other without a pause. `w3ray.runtime.stream_config` builds it again whenever
Ray Train (re)starts its worker group, from the step and the world size of that moment.

Decoders, readers and the coordinator import this module, so it imports neither Ray Train nor torch.

One process, the coordinator, deals out all blocks of an execution, about 130 per second. So a large number of workers
is divided into groups. Each group has its own execution with the items of its ranks. This changes no order.
"""

import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataIterator, Dataset, Datasource, ReadTask, TaskPoolStrategy
from ray.data.block import BlockMetadata

from w3ray.data.decode_watch import WatchSpec
from w3ray.data.microbatch import ClipTables, Microbatch, MicrobatchDecoder, decode_in_task, from_row
from w3ray.data.schedule import Order
from w3ray.data.stream_spec import StreamSpec
from w3ray.ray_internals import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
    ExecutionCallback,
    blocks_made_ahead,
    blocks_read_ahead,
    buffer_blocks,
    forget_blocks,
    policy_setting,
)

# All read tasks are planned before the first one starts, so there are at most this many, however long the stage. There
# is more than one, because a task whose process is lost is read again from its beginning.
_MAX_READ_TASKS = 1024
_MIN_ITEMS_PER_READ_TASK = 128

_READ_CPUS = 0.05

# How many items a decoder gets at once. Ray Data looks at its tasks about ten times a second, and each task costs the
# decoder, its node and the coordinator some milliseconds: with one item a task, decoders of small clips often wait.
_ITEMS_TOGETHER = 4
# A stream with fewer rows of items for each decoder than this has fewer items in a row, so that all decoders have work.
_MIN_ROWS_PER_DECODER = 8

# How many rows of item numbers wait for each decoder. They keep it busy while more are read.
_READ_AHEAD = 4
_READ_AHEAD_KEY = "w3ray.read_ahead"

# How many decoded microbatches wait for each decoder, at most: enough for the pauses of training, and little is decoded
# in vain if the run is stopped.
_DECODE_AHEAD = 32
_DECODE_AHEAD_KEY = "w3ray.decode_ahead"


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
    """Item numbers in order, a list of them in each row, made when they are needed: see `ReadAhead`.

    Args:
        first, stop: the range in the whole stream; multiples of `world_size`.
        world_size: how many ranks read the stream.
        ranks: the ranks that get these items; None: all.
        together: how many items a row has; the last row of a read task may have fewer.
    """

    def __init__(
        self, first: int, stop: int, world_size: int = 1, ranks: range | None = None, *, together: int = 1
    ) -> None:
        self._first_round, self._world_size = first // world_size, world_size
        self._ranks = range(world_size) if ranks is None else ranks
        self._count = (stop - first) // world_size * len(self._ranks)
        self._together = together

    def estimate_inmemory_data_size(self) -> int:
        return 8 * self._count

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """At most `_MAX_READ_TASKS`, whatever `parallelism` Ray Data would like."""
        items = max(_MIN_ITEMS_PER_READ_TASK, -(-self._count // _MAX_READ_TASKS))
        return [self._read_task(start, min(start + items, self._count)) for start in range(0, self._count, items)]

    def _read_task(self, start: int, stop: int) -> ReadTask:
        first_round, world_size, ranks, together = self._first_round, self._world_size, self._ranks, self._together

        def number(index: int) -> int:
            round_, place = divmod(index, len(ranks))
            return (first_round + round_) * world_size + ranks[place]

        def read() -> Iterator[pa.Table]:
            for index in range(start, stop, together):
                numbers = [number(one) for one in range(index, min(index + together, stop))]
                yield pa.table({"items": pa.array([numbers], pa.list_(pa.int64()))})

        rows = -(-(stop - start) // together)
        return ReadTask(
            read, BlockMetadata(num_rows=rows, size_bytes=8 * (stop - start), input_files=None, exec_stats=None)
        )


class ReadAhead(BackpressurePolicy):
    """Reading pauses while enough item numbers wait for decoders, and decoding while enough microbatches are decoded.

    Ray Data limits the bytes that wait. A number has next to none: without this policy the coordinator reads the whole
    stage ahead of the decoders. That costs half a processor, and memory that grows with the stage. Microbatches of
    small clips have few: a whole stage of them would be decoded while the first epochs train.
    """

    def can_add_input(self, op: Any) -> bool:
        waiting = blocks_made_ahead(self, op)
        return waiting is None or waiting < policy_setting(self, _DECODE_AHEAD_KEY)

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
    count = (schedule.total_items - first_item) // schedule.world_size * len(ranks or range(schedule.world_size))
    together = max(1, min(_ITEMS_TOGETHER, count // (_MIN_ROWS_PER_DECODER * pool.size)))
    dataset = ray.data.read_datasource(
        ItemNumbers(first_item, schedule.total_items, schedule.world_size, ranks, together=together),
        num_cpus=_READ_CPUS,
        concurrency=1,
    )
    context = dataset.context
    # A block is cut off at this many bytes, but never inside a row. So each block is exactly one microbatch, and the
    # round robin of streaming_split is exact.
    context.target_max_block_size = 1
    context.target_min_block_size = 1
    buffer_blocks(context, 2 * _ITEMS_TOGETHER)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    watch = WatchSpec(stream=watch_name or uuid.uuid4().hex, clip_timeout_s=spec.clip_timeout_s)
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, ReadAhead])
    context.set_config(_READ_AHEAD_KEY, _READ_AHEAD * pool.size)
    context.set_config(_DECODE_AHEAD_KEY, _DECODE_AHEAD * pool.size)
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

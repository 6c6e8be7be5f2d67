"""How do decoded microbatches reach the training workers, in the schedule's order, exactly once?

Ray Data does the work. One row a microbatch (its item number) goes to a pool of decoder actors; each turns its row
into one block; `streaming_split` with `preserve_order` deals the blocks round robin, so consumer i of n gets items
i, i+n, i+2n, ... whatever the speed of decoders and consumers. The stream of a whole stage is ONE execution: training,
validations and test follow each other without a pause. `StreamConfig` builds it anew each time Ray Train (re)starts its
worker group, from the step and the world size of that moment.

A video that can not be read is never replaced by another: it is tried again, then masked out, and the reason travels
with the batch to the failure ledger.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.train
from ray.data import ActorPoolStrategy, DataIterator, Dataset, Datasource, ExecutionResources, ReadTask
from ray.data.block import BlockMetadata

from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.decoders import DecodeError
from w3ray.data.schedule import PADDING, Item, Kind, Schedule

STREAM_NAME = "stream"
"""The name under which a training worker finds its part: `ray.train.get_dataset_shard(STREAM_NAME)`."""

_KINDS: tuple[Kind, ...] = ("train", "val", "test")

# Rows of one read task. Reading is one number a row, so few tasks keep the driver's work small for long stages, and a
# task this short never delays the decoders behind it.
_ITEMS_PER_READ_TASK = 128

_READ_CPUS = 0.05
_ATTEMPTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTables:
    """The rows of each split (`clip_id`, `uri` resolved, `start_s`, `end_s`, `reversed`, `label`) in manifest order.

    The tables travel as references into Ray's object store, so that decoders on a node share one copy.
    """

    train: "ray.ObjectRef[pa.Table]"
    val: "ray.ObjectRef[pa.Table]"
    test: "ray.ObjectRef[pa.Table]"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderPool:
    """How many decoder actors run and what each one asks of Ray (from the resource plan)."""

    size: int
    cpus: float
    trainer_cpus: float
    trainer_gpus: float


class ClipFailure(NamedTuple):
    """One row of the failure ledger: a clip that was masked out of a microbatch."""

    split: str
    clip_id: str
    uri: str
    reason: str
    item: int


@dataclass(frozen=True, slots=True)
class Microbatch:
    """What one item became. M is the microbatch size, T frames, S pixels.

    `clips` uint8 [M, T, S, S, 3]; `labels` int64 [M]; `valid` bool [M] is False at padding and at unreadable clips;
    `positions` and `samples` as in `Item`.
    """

    number: int
    kind: Kind
    epoch: int
    step: int
    slot: int
    clips: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    positions: np.ndarray
    samples: np.ndarray
    failures: tuple[ClipFailure, ...]


class ItemNumbers(Datasource):
    """The numbers `first` to `stop` - 1, in order, a row each. Few short tasks, whatever the length of the stage."""

    def __init__(self, first: int, stop: int) -> None:
        self._first, self._stop = first, stop

    def estimate_inmemory_data_size(self) -> int:
        return 8 * (self._stop - self._first)

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """One task for each `_ITEMS_PER_READ_TASK` numbers, whatever `parallelism` Ray Data would like."""
        starts = range(self._first, self._stop, _ITEMS_PER_READ_TASK)
        return [_read_task(start, min(start + _ITEMS_PER_READ_TASK, self._stop)) for start in starts]


def _read_task(start: int, stop: int) -> ReadTask:
    def read() -> Iterator[pa.Table]:
        yield pa.table({"item": pa.array(range(start, stop), pa.int64())})

    metadata = BlockMetadata(num_rows=stop - start, size_bytes=8 * (stop - start), input_files=None, exec_stats=None)
    return ReadTask(read, metadata)


class MicrobatchDecoder:
    """Decodes the microbatch of an item number: the body of a decoder actor, a pure function of its argument."""

    def __init__(self, schedule: Schedule, tables: ClipTables, spec: ClipSpec, flip_map: dict[int, int]) -> None:
        import torch

        torch.set_num_threads(1)  # one decoder is one core's work: the pool's size says how many cores decode
        self._schedule = schedule
        self._tables: dict[Kind, pa.Table] = {kind: ray.get(getattr(tables, kind)) for kind in _KINDS}
        self._spec = spec
        self._flip_map = flip_map

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return _to_row(self.decode(int(batch["item"][0])))

    def decode(self, number: int) -> Microbatch:
        item = self._schedule.item(number)
        size, spec = len(item.samples), self._spec
        clips = np.zeros((size, spec.num_frames, spec.size, spec.size, 3), dtype=np.uint8)
        labels = np.zeros(size, dtype=np.int64)
        valid = item.samples != PADDING
        failures = []
        for place in np.flatnonzero(valid):
            row = self._tables[item.kind].slice(int(item.samples[place]), 1).to_pylist()[0]
            try:
                clips[place], labels[place] = self._load(item, int(item.positions[place]), row)
            except DecodeError as error:
                valid[place] = False
                failures.append(ClipFailure(item.kind, row["clip_id"], row["uri"], error.reason, number))
        return Microbatch(
            number, item.kind, item.epoch, item.step, item.slot, clips, labels, valid, item.positions, item.samples,
            tuple(failures),
        )  # fmt: skip

    def _load(self, item: Item, position: int, row: dict[str, Any]) -> tuple[np.ndarray, int]:
        for attempt in range(1, _ATTEMPTS + 1):
            # A new generator for each attempt: a second try must draw what the first one drew.
            rng = self._schedule.augmentation_generator(item.epoch, position) if item.kind == "train" else None
            try:
                return load_clip(
                    row["uri"], label=row["label"], spec=self._spec, rng=rng, start_s=row["start_s"],
                    end_s=row["end_s"], reversed=row["reversed"], flip_map=self._flip_map,
                )  # fmt: skip
            except DecodeError:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")


def _to_row(microbatch: Microbatch) -> dict[str, np.ndarray]:
    """One block row: every field gets a leading dimension of 1, what is not a number travels as text."""
    row: dict[str, np.ndarray] = {}
    for field in fields(Microbatch):
        value = getattr(microbatch, field.name)
        if field.name == "failures":
            value = json.dumps([failure._asdict() for failure in value])
        row[field.name] = np.asarray(value)[None]
    return row


def _from_row(row: dict[str, np.ndarray]) -> Microbatch:
    values: dict[str, Any] = {}
    for field in fields(Microbatch):
        value = row[field.name][0]
        if field.name in ("number", "epoch", "step", "slot"):
            value = int(value)
        elif field.name == "kind":
            value = str(value)
        elif field.name == "failures":
            value = tuple(ClipFailure(**failure) for failure in json.loads(str(value)))
        values[field.name] = value
    return Microbatch(**values)


def read_microbatches(shard: DataIterator, *, prefetch: int = 2) -> Iterator[Microbatch]:
    """The microbatches of one consumer, in order. `prefetch` is how many are fetched ahead."""
    # batch_size None: a batch is a block as it was made, without a copy.
    for row in shard.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=prefetch):
        yield _from_row(row)


def build_dataset(
    *,
    schedule: Schedule,
    tables: ClipTables,
    spec: ClipSpec,
    flip_map: dict[int, int],
    pool: DecoderPool,
    first_step: int,
) -> Dataset:
    """The stream from optimiser step `first_step` to the stage's end, not yet split: a block a microbatch, in order."""
    dataset = ray.data.read_datasource(
        ItemNumbers(schedule.first_item(first_step), schedule.total_items),
        num_cpus=_READ_CPUS,
    )
    context = dataset.context
    # A block is cut off at this many bytes, but never inside a row: so each block is exactly one microbatch, which is
    # what makes the round robin of streaming_split exact.
    context.target_max_block_size = 1
    context.target_min_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    options = context.execution_options
    options.preserve_order = True
    options.exclude_resources = ExecutionResources(cpu=pool.trainer_cpus, gpu=pool.trainer_gpus)
    return dataset.map_batches(
        MicrobatchDecoder,
        fn_constructor_args=(schedule, tables, spec, flip_map),
        batch_size=1,
        compute=ActorPoolStrategy(size=pool.size, max_tasks_in_flight_per_actor=2),
        num_cpus=pool.cpus,
    )


class StreamConfig(ray.train.DataConfig):
    """Builds the stream for Ray Train, each time a worker group starts.

    Args:
        schedule: for any world size; the worker group's is put in.
        steps_done: called when a worker group starts; says where to go on (the newest good checkpoint's step).
        tables, spec, flip_map, pool: see `build_dataset`.
    """

    def __init__(
        self,
        *,
        schedule: Schedule,
        tables: ClipTables,
        spec: ClipSpec,
        flip_map: dict[int, int],
        pool: DecoderPool,
        steps_done: Callable[[], int],
    ) -> None:
        super().__init__(datasets_to_split=[STREAM_NAME])
        self._build: dict[str, Any] = dict(tables=tables, spec=spec, flip_map=flip_map, pool=pool)
        self._schedule = schedule
        self._steps_done = steps_done

    def configure(
        self,
        datasets: dict[str, Dataset],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **kwargs: Any,
    ) -> list[dict[str, DataIterator]]:
        # What Ray Train hands over in `datasets` is a placeholder: the world size is known only here.
        dataset = build_dataset(
            schedule=self._schedule.for_world_size(world_size), first_step=self._steps_done(), **self._build
        )
        return [{STREAM_NAME: shard} for shard in dataset.streaming_split(world_size, equal=False)]

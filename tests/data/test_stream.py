"""The stream on a real Ray: every item once, in order, for any number of consumers, from any step."""

import sys
import time
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import ray
from patience import PATIENCE_S, wait_until
from ray.data._internal.execution.execution_callback import ExecutionCallback

from w3ray.data import microbatch
from w3ray.data.clip import ClipSpec, load_clip, read_clip
from w3ray.data.manifest import read_manifest
from w3ray.data.microbatch import ClipTables, MicrobatchDecoder
from w3ray.data.schedule import PADDING, Schedule
from w3ray.data.shared_clips import SharedClips
from w3ray.data.stream import (
    _DECODE_AHEAD,
    _ITEMS_TOGETHER,
    DecoderPool,
    ItemNumbers,
    build_dataset,
    read_microbatches,
)
from w3ray.data.stream_spec import StreamSpec
from w3ray.runtime.stream_config import STREAM_NAME, StreamConfig, WorkerGroups, _parts

SPEC = ClipSpec(num_frames=4, size=32)
SCHEDULE = Schedule(
    num_train=24, num_val=16, num_test=8, batch_size=10, microbatch_size=3, epochs=2, validate_every_epochs=1, seed=5,
    world_size=1,
)  # fmt: skip
POOL = DecoderPool(size=1, cpus=0.5)
TASKS = replace(POOL, as_tasks=True)  # for what is compared with the stream of actors: their processes are reused

STREAM = StreamSpec(schedule=SCHEDULE, clip=SPEC)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def tables_of(manifest, **changed_uris):
    tables = {}
    for kind in ("train", "val", "test"):
        rows = manifest.split(kind).to_pylist()
        for row in rows:
            row["uri"] = changed_uris.get(row["clip_id"], manifest.resolve(row["uri"]))
        tables[kind] = manifest.split(kind).schema.empty_table().from_pylist(rows)
    return ClipTables.of(tables)


@ray.remote(num_cpus=0)
def consume(shard):
    # Copies, because the memory of a block belongs to the stream.
    return [replace(m, clips=m.clips.copy(), samples=m.samples.copy()) for m in read_microbatches(shard)]


def read_all(tables, world_size, first_step=0, pool=TASKS):
    spec = STREAM.for_world_size(world_size)
    dataset = build_dataset(spec, tables, pool, first_item=spec.schedule.first_item(first_step))
    return ray.get([consume.remote(shard) for shard in dataset.streaming_split(world_size, equal=False)], timeout=120)


@pytest.fixture(scope="module")
def manifest(motion_manifest):
    return read_manifest(motion_manifest)


@pytest.fixture(scope="module")
def tables(ray_session, manifest):
    return tables_of(manifest)


@pytest.fixture(scope="module")
def alone(tables):
    return read_all(tables, 1, pool=POOL)[0]


def content(microbatches):
    """(kind, epoch, place in the epoch's order) -> pixels of every clip, in whichever microbatch it was."""
    return {
        (m.kind, m.epoch, int(position)): m.clips[place]
        for m in microbatches
        for place, position in enumerate(m.positions)
        if position != PADDING
    }


def test_one_consumer_gets_every_item_in_order(alone):
    assert [m.number for m in alone] == list(range(SCHEDULE.total_items))
    for m in alone:
        item = SCHEDULE.item(m.number)
        assert (m.kind, m.epoch, m.step, m.slot) == (item.kind, item.epoch, item.step, item.slot)
        assert np.array_equal(m.samples, item.samples)
        assert np.array_equal(m.valid, item.samples != PADDING)
        assert m.clips.shape == (3, 4, 32, 32, 3)


def test_pixels_are_those_of_load_clip(alone, manifest):
    for m in (alone[0], alone[-1]):
        place = int(np.flatnonzero(m.valid)[0])
        row = manifest.split(m.kind).to_pylist()[int(m.samples[place])]
        rng = SCHEDULE.augmentation_generator(m.epoch, int(m.positions[place])) if m.kind == "train" else None
        clip, label = load_clip(
            manifest.resolve(row["uri"]), label=row["label"], spec=SPEC, rng=rng, reversed=row["reversed"]
        )
        assert np.array_equal(m.clips[place], clip)
        assert m.labels[place] == label


def test_a_repeated_clip_is_decoded_once(tables, manifest, monkeypatch):
    schedule = replace(SCHEDULE, batch_size=12, microbatch_size=6, repeats=3)
    decoder = MicrobatchDecoder(replace(STREAM, schedule=schedule), tables)
    reads = []
    real = microbatch.read_frames
    monkeypatch.setattr(microbatch, "read_frames", lambda uri, **rest: reads.append(uri) or real(uri, **rest))
    m = decoder.decode(0)
    assert len(reads) == 2
    rows = manifest.split("train").to_pylist()
    for place in range(6):
        row, position = rows[int(m.samples[place])], int(m.positions[place])
        alone = read_clip(
            manifest.resolve(row["uri"]), label=row["label"], spec=SPEC, reversed=row["reversed"],
            rng=schedule.augmentation_generator(0, position), frames_rng=schedule.frames_generator(0, position),
        )  # fmt: skip
        assert np.array_equal(m.clips[place], alone.frames_TSSC)
    assert len({m.clips[place].tobytes() for place in range(6)}) == 6  # other crops


def test_two_consumers_share_the_same_samples_and_pixels(alone, tables):
    shards = read_all(tables, 2)
    for rank, shard in enumerate(shards):
        assert [m.number for m in shard] == list(range(rank, SCHEDULE.for_world_size(2).total_items, 2))
    together, one = content([m for shard in shards for m in shard]), content(alone)
    assert together.keys() == one.keys()
    assert all(np.array_equal(together[key], one[key]) for key in one)


def test_resume_in_the_middle_of_an_epoch_gives_the_rest(alone, tables):
    rest = read_all(tables, 1, first_step=4)[0]
    first = SCHEDULE.first_item(4)
    assert [m.number for m in rest] == list(range(first, SCHEDULE.total_items))
    for again, before in zip(rest, alone[first:], strict=True):
        assert np.array_equal(again.clips, before.clips)


@pytest.mark.parametrize("as_tasks", [True, False])
def test_what_one_stream_decoded_another_one_finds(alone, tables, tmp_path, as_tasks):
    shared = SharedClips(folder=tmp_path / "sweep", limit_bytes=1 << 30)
    dataset = build_dataset(replace(STREAM, shared=shared), tables, replace(POOL, as_tasks=as_tasks), first_item=0)
    reader = MicrobatchDecoder(replace(STREAM, shared=shared), tables)
    assert reader.shared(0) is None
    first = [replace(one, clips=one.clips.copy()) for one in read_microbatches(dataset)]
    later = [reader.shared(number) for number in range(SCHEDULE.total_items)]
    for one in (first, later):
        for mine, theirs in zip(one, alone, strict=True):
            assert mine.number == theirs.number
            assert np.array_equal(mine.clips, theirs.clips)
            assert np.array_equal(mine.labels, theirs.labels)
            assert np.array_equal(mine.draws, theirs.draws)
            assert mine.clip_ids == theirs.clip_ids
    kept = 24 * 2 + 16 + 8  # training clips in each epoch, evaluation clips once
    assert len(list(shared.folder.glob("*.clip"))) == kept
    other = MicrobatchDecoder(replace(STREAM, schedule=replace(SCHEDULE, seed=6), shared=shared), tables)
    assert other.shared(0) is None, "another seed needs other pixels"


def numbers_of(task):
    """The item numbers of each row of a read task."""
    return [row for block in task() for row in block["items"].to_pylist()]


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize(("first", "stop"), [(7, 8), (0, 130), (5, 1_000_003), (1_000_000_000, 1_062_500_000)])
def test_few_read_tasks_however_long_the_stage(first, stop, together):
    tasks = ItemNumbers(first, stop, together=together).get_read_tasks(8)
    assert len(tasks) <= 1024
    # The first items of each task are ready at once. The tasks join without a gap.
    due = first
    for task in tasks:
        start = next(iter(task()))["items"].to_pylist()[0]
        assert start == list(range(due, min(due + together, stop)))
        due += task.metadata.size_bytes // 8
    assert due == stop
    if stop - first < 1000:
        rows = [row for task in tasks for row in numbers_of(task)]
        assert [number for row in rows for number in row] == list(range(first, stop))
        assert sum(task.metadata.num_rows for task in tasks) == len(rows)
        assert max(map(len, rows)) == min(together, stop - first)


@pytest.mark.parametrize(("world_size", "groups"), [(1, 1), (3, 2), (8, 1), (20, 3), (256, 32)])
def test_groups_of_workers_share_the_items_without_changing_their_order(world_size, groups):
    """Each group's stream, dealt round robin to its ranks, gives every rank the items of a single stream."""
    schedule = replace(SCHEDULE, world_size=world_size)
    first, stop = schedule.first_item(1), schedule.total_items
    dealt = []
    for ranks in _parts(world_size, groups):
        tasks = ItemNumbers(first, stop, world_size, ranks, together=4).get_read_tasks(1)
        numbers = [number for task in tasks for row in numbers_of(task) for number in row]
        dealt += [numbers[place :: len(ranks)] for place in range(len(ranks))]
    assert dealt == [list(range(first + rank, stop, world_size)) for rank in range(world_size)]


def test_two_workers_with_a_coordinator_each(alone, tables):
    config = StreamConfig(STREAM, tables, replace(TASKS, size=2), steps_done=lambda: 0, readers_per_coordinator=1)
    shards = [parts[STREAM_NAME] for parts in config.configure({STREAM_NAME: 0}, 2, None, None)]
    assert len({shard._coord_actor for shard in shards}) == 2
    read = ray.get([consume.remote(shard) for shard in shards], timeout=120)
    assert [[m.number for m in one] for one in read] == [
        list(range(rank, SCHEDULE.for_world_size(2).total_items, 2)) for rank in range(2)
    ]
    together, one = content([m for shard in read for m in shard]), content(alone)
    assert together.keys() == one.keys()
    assert all(np.array_equal(together[key], one[key]) for key in one)


def test_all_coordinators_end_with_the_stage(tables):
    config = StreamConfig(STREAM, tables, replace(POOL, size=2), steps_done=lambda: 0, readers_per_coordinator=1)
    config.prepare(2)
    coordinators = [parts[STREAM_NAME]._coord_actor for parts in config.configure({STREAM_NAME: 0}, 2, None, None)]
    config.release()
    for coordinator in coordinators:
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(coordinator.__ray_ready__.remote(), timeout=PATIENCE_S)


def test_a_prepared_stream_is_for_the_first_worker_group(tables):
    config = StreamConfig(STREAM, tables, replace(POOL, size=2), steps_done=lambda: 0)
    config.prepare(2)
    numbers = WorkerGroups()

    def coordinator() -> ray.actor.ActorHandle:
        (one,) = {p[STREAM_NAME]._coord_actor for p in config.configure({STREAM_NAME: numbers()}, 2, None, None)}
        return one

    first, second = coordinator(), coordinator()
    try:
        assert first != second
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(first.__ray_ready__.remote(), timeout=PATIENCE_S)
    finally:
        ray.kill(second)


class Watch(ExecutionCallback):
    """The maximum that the coordinator held at once, by kind. It counts in the process that created the class."""

    most: ClassVar[Counter] = Counter()

    def on_execution_step(self, executor):
        reading, decoding = list(executor._topology)[1:3]
        held = {"waiting": len(executor._topology[reading].output_queue)}
        held["decoded"] = executor._topology[decoding].total_enqueued_output_blocks()
        for op in (reading, decoding):
            held["statistics"] = max(held.get("statistics", 0), *(len(blocks) for blocks in op.get_stats().values()))
            held["queues"] = max(
                held.get("queues", 0), len(op._output_queue._inner), len(op._output_queue._finalized_keys)
            )
        Watch.most |= Counter(held)


# Decoders get the class but cannot import this file, so it is pickled by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_a_long_stage_is_not_read_ahead_and_leaves_nothing_behind(tables):
    """The stream is in this process, not in a coordinator's, so that the test can inspect it."""
    dataset = build_dataset(replace(STREAM, schedule=replace(SCHEDULE, epochs=100_000)), tables, POOL, first_item=0)
    dataset.context.custom_execution_callback_classes.append(Watch)
    numbers = []
    for bundle in dataset.iter_internal_ref_bundles():
        if not numbers:  # a long step: decoders work until they are far enough ahead
            wait_until(lambda: Watch.most["decoded"] >= _DECODE_AHEAD)
            time.sleep(1.0)
        numbers.append(ray.get(bundle.block_refs[0])["number"][0].as_py())
        if len(numbers) == 120:
            break
    assert numbers == list(range(120))
    # In addition to the limit of four: a step's share of the reading task's buffer, and items in flight. A busy machine
    # has more of them. Without the limit, the number grows as fast as blocks are read.
    assert 0 < Watch.most["waiting"] <= 40
    # In addition to the limit: the items of two rows that are in a decoder's hands.
    assert _DECODE_AHEAD <= Watch.most["decoded"] <= _DECODE_AHEAD + 2 * _ITEMS_TOGETHER
    assert Watch.most["statistics"] <= 8
    assert Watch.most["queues"] <= 8


@ray.remote(num_cpus=0)
def look_up(tables, row):
    before = pa.total_allocated_bytes()
    table = ray.get(tables[0])
    return table.slice(row, 1).to_pylist()[0]["uri"], table.nbytes, pa.total_allocated_bytes() - before


def test_decoders_look_rows_up_in_shared_memory(ray_session):
    rows = pa.table({"uri": pa.array(np.arange(1_000_000)).cast(pa.string()), "label": np.zeros(1_000_000, np.int32)})
    uri, size, own = ray.get(look_up.remote([ray.put(rows)], 765_432))
    assert uri == "765432"
    assert size > 10_000_000
    assert own < 100_000


def test_an_unreadable_clip_is_masked_and_named(manifest, tmp_path):
    broken = manifest.split("val").to_pylist()[5]
    empty = tmp_path / "empty.mp4"
    empty.touch()
    decoder = MicrobatchDecoder(STREAM, tables_of(manifest, **{broken["clip_id"]: str(empty)}))
    hit = [m for m in map(decoder.decode, range(SCHEDULE.total_items)) if m.failures]
    assert [m.kind for m in hit] == ["val"] * SCHEDULE.epochs
    for m in hit:
        assert m.valid.sum() == (m.samples != PADDING).sum() - 1
        place = int(np.flatnonzero(m.samples == 5)[0])
        assert not m.valid[place]
        assert not m.clips[place].any()
        (failure,) = m.failures
        assert (failure.split, failure.clip_id, failure.uri) == ("val", broken["clip_id"], str(empty))
        assert "empty" in failure.reason or "zero" in failure.reason or "0 bytes" in failure.reason

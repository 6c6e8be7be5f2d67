"""What does one item of the stream become? The microbatch, and the decoder that makes it.

A video that cannot be read is never replaced by another: it is tried again, then masked out, and the reason travels
with the batch to the failure ledger.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import ray

from w3ray.data.clip import ReadFrames, made_clip, read_frames
from w3ray.data.decode_watch import DecodeWatch, WatchSpec
from w3ray.data.decoders import DecodeError
from w3ray.data.schedule import PADDING, Item, Kind, Order, draw_generator
from w3ray.data.side_inputs import Extras, blank_extras, extras_of, extras_of_views
from w3ray.data.stream_spec import StreamSpec
from w3ray.data.views import read_views
from w3ray.errors import RunError
from w3ray.heads import UNLABELLED
from w3ray.storage import StoragePath

_Load = Callable[[Item, int, dict[str, Any]], tuple[np.ndarray, int, Extras]]
"""From an item, a place in it, and the row of the sample there, to the clip, its label and its side inputs."""

_EXTRA = "extras."
"""Before the name of a side input in a block row."""

_ATTEMPTS = 2

_WARM_STREAMS = 2
"""Number of streams whose decoders a process keeps. Each decoder keeps its tables in shared memory."""

_CLIPS_TIMEOUT_S = 1800.0
_CLIPS_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTables:
    """The rows of each split (`clip_id`, `uri` resolved, `start_s`, `end_s`, `reversed`, `label`) in manifest order.

    If the clips have boxes, the rows also have the column `w3ray.data.boxes.BOXES_COLUMN`; with a bank, the column
    `w3ray.data.bank.BANK_COLUMN`.

    The tables travel as references into Ray's object store, so that decoders on a node share one copy.
    """

    splits: "Mapping[str, ray.ObjectRef[pa.Table]]"

    @classmethod
    def of(cls, splits: Mapping[str, pa.Table]) -> Self:
        """Put the tables of the splits that a stream reads into the object store."""
        return cls(splits={kind: ray.put(table) for kind, table in splits.items()})

    def fetched(self) -> dict[str, pa.Table]:
        """The tables, in memory that all processes of a node share."""
        return {kind: ray.get(table) for kind, table in self.splits.items()}


class ClipFailure(NamedTuple):
    """One row of the failure ledger: a clip that was masked out of a microbatch."""

    split: str
    clip_id: str
    uri: str
    reason: str
    item: int


@dataclass(frozen=True, slots=True)
class Microbatch:
    """The content of one item. M is the microbatch size, T frames, S pixels.

    `clips` uint8 [M, T, S, S, C]; `labels` int64 [M] (`UNLABELLED` if not known); `valid` bool [M] is
    False at padding and at unreadable clips; `positions` and `samples` as in `Item`. `clip_ids` are the clips that were
    read (empty at padding). `draws` uint64 [M] are the seeds from which the random frames, box and mirror of training
    clips were drawn (0 in evaluation).
    With a test protocol, `clips` is uint8 [M, V, T, S, S, C] (see `w3ray.data.views`).
    `extras` are the side inputs of the clips by name, [M, ...] each, or [M, V, ...] with a test protocol; see
    `w3ray.data.side_inputs`. A clip that is not valid has zeros.
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
    clip_ids: tuple[str, ...]
    draws: np.ndarray
    failures: tuple[ClipFailure, ...]
    extras: Extras = field(default_factory=dict)


class _NotShared(Exception):
    """No trial has decoded this clip yet."""


class MicrobatchDecoder:
    """Decodes the microbatch of an item number: the body of a decoder actor, a pure function of its argument.

    Args:
        spec: what the items hold and how a clip is loaded.
        tables: the rows of each split, or where they are.
        watch: watches the reading, so that a clip that hangs or crashes the process is given up in the end; None: no
            watch.
        in_task: the watch belongs to one item, which Ray tries again in another process, and not to one actor.
    """

    def __init__(
        self,
        spec: StreamSpec[Order],
        tables: ClipTables | Mapping[str, pa.Table],
        watch: WatchSpec | None = None,
        *,
        in_task: bool = False,
    ) -> None:
        # Not during the import of torch below: two threads that import torch and a module of it wait for each other.
        spec.plugins.load()
        # Torch resizes the frames. It is imported while the first clip is decoded, instead of before it. One thread is
        # enough (Ray sets OMP_NUM_THREADS for an actor of one CPU): the size of the pool sets how many cores decode.
        threading.Thread(target=import_module, args=("torch",), name="import-torch", daemon=True).start()
        self._spec = spec
        self._tables = tables.fetched() if isinstance(tables, ClipTables) else dict(tables)
        self._watch_spec = watch if in_task else None
        self._watch = None if watch is None or in_task else _open_watch(watch, _actor())
        self._last: tuple[tuple[int, int], ReadFrames] | None = None
        self._shared = None if spec.shared is None else spec.shared.opened(spec.clip, spec.plugins.clip_sources)
        if spec.clips_ready is not None:
            _wait_for(spec.clips_ready)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Block rows of the items of a row."""
        for number in batch["items"][0]:
            yield to_row(self.decode(int(number)))

    def in_task(self, number: int) -> dict[str, np.ndarray]:
        """The block row of an item, with a watch of its own."""
        assert self._watch_spec is not None
        self._watch = _open_watch(self._watch_spec, f"item-{number}")
        try:
            return to_row(self.decode(number))
        finally:
            self._watch.close()

    def shared(self, number: int) -> Microbatch | None:
        """The microbatch of an item, if other streams have decoded all its clips; decodes nothing."""
        if self._shared is None:
            return None
        try:
            return self.decode(number, load=self._load_shared)
        except _NotShared:
            return None

    def decode(self, number: int, *, load: _Load | None = None) -> Microbatch:
        load = load or self._load
        item = self._spec.schedule.item(number)
        size, spec = len(item.samples), self._spec.clip
        views = () if self._spec.protocol is None else (self._spec.protocol.num_views,)
        extras = blank_extras(spec, (size, *views))
        clips: np.ndarray | None = None
        labels = np.zeros(size, dtype=np.int64)
        valid = item.samples != PADDING
        clip_ids, failures = [""] * size, []
        for place in np.flatnonzero(valid):
            row = self._tables[item.kind].slice(int(item.samples[place]), 1).to_pylist()[0]
            clip_ids[place] = row["clip_id"]
            try:
                clip, labels[place], its = load(item, int(place), row)
            except DecodeError as error:
                valid[place] = False
                failures.append(ClipFailure(item.kind, row["clip_id"], row["uri"], error.reason, number))
                continue
            if clips is None:
                clips = np.zeros((size, *clip.shape), dtype=np.uint8)
            clips[place] = clip
            for name, values in its.items():
                extras[name][place] = values
        if clips is None:
            clips = np.zeros((size, *views, spec.num_frames, spec.size, spec.size, spec.channels), dtype=np.uint8)
        return Microbatch(
            number, item.kind, item.epoch, item.step, item.slot, clips, labels, valid, item.positions, item.samples,
            tuple(clip_ids), item.draws, tuple(failures), extras,
        )  # fmt: skip

    def _load_shared(self, item: Item, place: int, row: dict[str, Any]) -> tuple[np.ndarray, int, Extras]:
        assert self._shared is not None
        if (found := self._shared.get(self._key(item, place, row))) is None:
            raise _NotShared
        return found

    def _key(self, item: Item, place: int, row: dict[str, Any]) -> str:
        assert self._shared is not None
        draw: int | tuple[int, int] | None = None
        if item.kind == "train":
            own = int(item.draws[place])
            draw = own if item.frame_draws is None else (own, int(item.frame_draws[place]))
        return self._shared.key(row, draw, self._spec.flip_map, self._spec.roots)

    def _load(self, item: Item, place: int, row: dict[str, Any]) -> tuple[np.ndarray, int, Extras]:
        if self._shared is None:
            return self._read(item, place, row)
        key = self._key(item, place, row)
        if (found := self._shared.get(key)) is not None:
            return found
        with self._shared.alone(key):
            if (found := self._shared.get(key)) is not None:  # made while this one waited
                return found
            clip, label, extras = self._read(item, place, row)
            self._shared.keep(key, clip, label, extras)
            return clip, label, extras

    def _read(self, item: Item, place: int, row: dict[str, Any]) -> tuple[np.ndarray, int, Extras]:
        clip, spec = f"{item.kind}-{item.samples[place]}", self._spec
        if self._watch is not None and (reason := self._watch.given_up(clip)):
            raise DecodeError(row["uri"], reason)
        for attempt in range(1, _ATTEMPTS + 1):
            # A new generator for each attempt: a second try must draw what the first one drew.
            rng = draw_generator(item.draws[place]) if item.kind == "train" else None
            try:
                with nullcontext() if self._watch is None else self._watch.at(clip):
                    if spec.protocol is not None:
                        views = read_views(
                            row["uri"], spec=spec.clip, protocol=spec.protocol, start_s=row["start_s"],
                            end_s=row["end_s"], reversed=row["reversed"], roots=spec.roots, cache=spec.cache,
                        )  # fmt: skip
                        pixels = np.stack([view.frames_TSSC for view in views])
                        label = UNLABELLED if row["label"] is None else row["label"]
                        return pixels, label, extras_of_views(row, views, spec.clip)
                    frames = self._frames(item, place, row, rng)
                    found = made_clip(frames, label=row["label"], spec=spec.clip, rng=rng, flip_map=spec.flip_map)
                    return found.frames_TSSC, found.label, extras_of(row, found, spec.clip)
            except DecodeError:
                if attempt == _ATTEMPTS:
                    raise
            except MemoryError as error:
                if attempt == _ATTEMPTS:
                    raise DecodeError(row["uri"], "out of memory while reading it") from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _frames(self, item: Item, place: int, row: dict[str, Any], rng: np.random.Generator | None) -> ReadFrames:
        """The decoded frames of a clip. They are kept if the next place may hold the same clip again."""
        key = None
        if item.frame_draws is not None:
            rng = draw_generator(item.frame_draws[place])
            key = (int(item.samples[place]), int(item.frame_draws[place]))
            if self._last is not None and self._last[0] == key:
                return self._last[1]
        frames = read_frames(
            row["uri"], spec=self._spec.clip, rng=rng, start_s=row["start_s"], end_s=row["end_s"],
            reversed=row["reversed"], roots=self._spec.roots, cache=self._spec.cache,
        )  # fmt: skip
        if key is not None:
            self._last = (key, frames)
        return frames


_warm: OrderedDict[str, MicrobatchDecoder] = OrderedDict()  # by stream; the most recently used one is last


def decode_in_task(
    batch: dict[str, np.ndarray], spec: StreamSpec[Order], tables: ClipTables, watch: WatchSpec
) -> Iterator[dict[str, np.ndarray]]:
    """`MicrobatchDecoder` as a task of Ray: see `DecoderPool.as_tasks`.

    It gives way to nobody: Ray may give its process another task, or make an actor of it.
    """
    if watch.stream not in _warm:
        _warm[watch.stream] = MicrobatchDecoder(spec, tables, watch, in_task=True)
    _warm.move_to_end(watch.stream)
    while len(_warm) > _WARM_STREAMS:
        _warm.popitem(last=False)
    decoder = _warm[watch.stream]
    for number in batch["items"][0]:
        yield decoder.in_task(int(number))


def _actor() -> str:
    return str(ray.get_runtime_context().get_actor_id())


def _open_watch(spec: WatchSpec, decoder: str) -> DecodeWatch:
    """A watch that keeps its notes in Ray's session folder on this node, so they are removed with it."""
    ray_here = ray.get_runtime_context()
    session = Path(ray_here.get_temp_dir()) / ray_here.get_session_name()
    return DecodeWatch(session / f"w3ray-stream-{spec.stream}", decoder, timeout_s=spec.clip_timeout_s)


def _wait_for(clips: StoragePath) -> None:
    given_up_at = time.monotonic() + _CLIPS_TIMEOUT_S
    while not clips.exists():
        if time.monotonic() > given_up_at:
            raise RunError(f"decoder: the clips {clips} are not there after {_CLIPS_TIMEOUT_S:g} s of making them")
        time.sleep(_CLIPS_POLL_S)


def to_row(microbatch: Microbatch) -> dict[str, np.ndarray]:
    """One block row: every field gets a leading dimension of 1; a field that is not a number becomes text."""
    row: dict[str, np.ndarray] = {}
    for one in fields(Microbatch):
        value = getattr(microbatch, one.name)
        if one.name == "extras":
            row |= {_EXTRA + name: values[None] for name, values in value.items()}
            continue
        if one.name == "failures":
            value = json.dumps([failure._asdict() for failure in value])
        elif one.name == "clip_ids":
            value = json.dumps(value)
        row[one.name] = np.asarray(value)[None]
    return row


def from_row(row: dict[str, np.ndarray]) -> Microbatch:
    values: dict[str, Any] = {}
    for one in fields(Microbatch):
        if one.name == "extras":
            continue
        value = row[one.name][0]
        if one.name in ("number", "epoch", "step", "slot"):
            value = int(value)
        elif one.name == "kind":
            value = str(value)
        elif one.name == "failures":
            value = tuple(ClipFailure(**failure) for failure in json.loads(str(value)))
        elif one.name == "clip_ids":
            value = tuple(json.loads(str(value)))
        values[one.name] = value
    values["extras"] = {name.removeprefix(_EXTRA): row[name][0] for name in row if name.startswith(_EXTRA)}
    return Microbatch(**values)

"""Which videos of a data set are there? Many are looked for at once, and a killed import resumes where it stopped.

Clips are looked for in slices. On a file system a slice is some consecutive clips, each looked for by itself. At an
address (`s3://...`) a slice is the clips of one folder, which is listed: 1,000 names per request. The work is done by
threads of this process, or by Ray tasks on a cluster whose nodes see the same files. A journal keeps the answers: in
a slice that was looked at before, only the missing clips are looked for again.
"""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from w3ray.errors import InputError, RunError
from w3ray.storage import is_remote, storage_path, write_text

_AT_ONCE = 16  # threads: a network file system answers many questions in the time of one
_CLIPS_A_SLICE = 1024
_SLICES_A_TASK = 16
_LISTED_FROM = 16
"""Wanted clips from which a remote folder is listed. Fewer are looked for one by one: a list may name a million."""
_JOURNAL_EVERY_S = 2.0
_JOURNAL_HEAD = "w3ray: which videos an import has looked for"

T = TypeVar("T")
Ask = Callable[[Sequence[T]], list[int]]
"""Returns the places of the missing items in the given sequence."""


class Journal:
    """A small file of what was looked for: one line for each slice, with the places of its missing clips.

    Args:
        location: path or address of the file.

    Raises:
        InputError: the file is not a journal, or cannot be read.
    """

    def __init__(self, location: str) -> None:
        self._place = storage_path(location)
        self._missing: dict[str, list[int]] = {}
        self._written_s = float("-inf")
        try:
            text = self._place.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{location}: cannot be read; the import keeps its journal in this file") from error
        head, *lines = text.split("\n")
        try:
            if head != _JOURNAL_HEAD:
                raise ValueError
            self._missing = {digest: [int(at) for at in missing] for digest, missing in map(json.loads, lines)}
        except (ValueError, TypeError) as error:
            raise InputError(f"{location}: not the journal of an import, which must be here; move the file") from error

    def __str__(self) -> str:
        return str(self._place)

    def missing(self, digest: str) -> list[int] | None:
        """The places of missing clips in a slice; None: it was not looked at."""
        return self._missing.get(digest)

    def note(self, digest: str, missing: list[int]) -> None:
        self._missing[digest] = missing
        if time.monotonic() - self._written_s > _JOURNAL_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the file. Raises: InputError if that is impossible."""
        text = "\n".join([_JOURNAL_HEAD, *(json.dumps(entry) for entry in self._missing.items())])
        try:
            write_text(self._place, text)
        except OSError as error:
            raise InputError(f"{self._place}: cannot be written ({error.strerror})") from error
        self._written_s = time.monotonic()

    def remove(self) -> None:
        self._place.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """How an import looks for its videos."""

    journal: Journal | None = None
    on_cluster: bool = False
    """By tasks on the Ray cluster that this process is connected to."""
    progress: Callable[[int, int], None] = lambda done, total: None
    note: Callable[[str], None] = lambda line: None
    skip: bool = False
    """Do not look at all."""


# Not an argument of the importers: all of them would only pass it on.
_CURRENT: ContextVar[Looking] = ContextVar("looking", default=Looking())  # noqa: B039  (it is frozen)


@contextmanager
def looking(how: Looking) -> Iterator[None]:
    """Imports in this context look for their videos in this way. Other imports use threads, without a journal."""
    token = _CURRENT.set(how)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> Looking:
    return _CURRENT.get()


@dataclass(frozen=True, slots=True)
class Slice:
    """Places of clips that are looked for together. The clips of a remote slice are all in one folder."""

    places: np.ndarray
    remote: bool


def slices_of(uris: Iterable[str]) -> Iterator[Slice]:
    """Slices of all clips, except clips at web addresses, whose folders cannot be listed."""
    local: list[int] = []
    folders: dict[tuple[str, str], list[int]] = {}
    for at, uri in enumerate(uris):
        if not is_remote(uri):
            local.append(at)
            if len(local) == _CLIPS_A_SLICE:
                yield Slice(np.array(local), False)
                local = []
        elif not uri.startswith(("http://", "https://")):
            path, _, query = uri.partition("?")
            folders.setdefault((path.rpartition("/")[0], query), []).append(at)
    if local:
        yield Slice(np.array(local), False)
    for places in folders.values():
        yield Slice(np.array(places), True)


def find_missing(
    slices: Iterable[Slice],
    items: Callable[[np.ndarray], Sequence[T]],
    total: int,
    *,
    local: Ask[T],
    remote: Ask[T],
    key: Callable[[T], str],
    question: str,
) -> np.ndarray:
    """The places of missing items, ascending. They are looked for as `looking` says.

    Args:
        slices: which places are looked for together; read when they are needed, so that few are in memory.
        items: returns the items at these places.
        total: number of places in all slices.
        local: finds the missing items of a slice on a file system, `remote` those of a slice at an address. Both must
            be picklable.
        key: what the answer for an item depends on.
        question: name of what is checked; answers in the journal to another question do not count.

    Raises:
        InputError, StorageFailing: as `local` and `remote`.
    """
    how = current()
    missing: list[np.ndarray] = []
    done = known = 0
    units = (_unit(cut, items(cut.places), remote if cut.remote else local, key, question, how) for cut in slices)
    try:
        for unit, absent in _answers_on_ray(units) if how.on_cluster else _answers_by_threads(units):
            absent = [unit.asked[at] for at in absent]
            missing.append(unit.places[absent])
            done += len(unit.places)
            known += len(unit.places) - len(unit.asked)
            if how.journal is not None and unit.asked:
                how.journal.note(unit.digest, absent)
            how.progress(done, total)
    finally:
        if how.journal is not None:
            how.journal.write()
    if how.journal is not None and sum(map(len, missing)) == total:
        how.journal.remove()  # nothing is there: perhaps it is the wrong folder, so keep nothing of it
    if known:
        how.note(f"{how.journal}: {known} of {total} videos were found before; remove the file to look for all of them")
    return np.sort(np.concatenate(missing)) if missing else np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Unit(Generic[T]):
    """A slice, the places in it that must be looked for, and how."""

    places: np.ndarray
    digest: str
    asked: Sequence[int]
    items: Sequence[T]
    ask: Ask[T]

    def answer(self) -> list[int]:
        return self.ask(self.items) if self.items else []


def _unit(
    cut: Slice, items: Sequence[T], ask: Ask[T], key: Callable[[T], str], question: str, how: Looking
) -> _Unit[T]:
    digest, asked = "", range(len(items))
    if how.journal is not None:
        text = "\0".join([question, *map(key, items)])
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        before = how.journal.missing(digest)
        if before is not None:
            return _Unit(cut.places, digest, before, [items[at] for at in before], ask)
    return _Unit(cut.places, digest, asked, items, ask)


def _answers_by_threads(units: Iterable[_Unit[T]]) -> Iterator[tuple[_Unit[T], list[int]]]:
    """The answers in order. A few slices are looked at ahead."""
    waiting: deque[tuple[_Unit[T], Future[list[int]]]] = deque()
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for unit in units:
            waiting.append((unit, pool.submit(unit.answer)))
            if len(waiting) > 2 * _AT_ONCE:
                first, answer = waiting.popleft()
                yield first, answer.result()
        for unit, answer in waiting:
            yield unit, answer.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _answers_on_ray(units: Iterable[_Unit[T]]) -> Iterator[tuple[_Unit[T], list[int]]]:
    """The answers in order. Two tasks for each processor run ahead."""
    import ray

    ask = ray.remote(_ask_all)
    ahead = max(1, 2 * int(ray.cluster_resources().get("CPU", 1)))
    waiting: deque[tuple[list[_Unit[T]], Any]] = deque()

    def oldest() -> Iterator[tuple[_Unit[T], list[int]]]:
        some, reference = waiting.popleft()
        try:
            answers = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError | RunError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            raise RunError(f"the cluster could not look for videos: {str(error).splitlines()[0]}") from error
        yield from zip(some, answers, strict=True)

    some: list[_Unit[T]] = []
    for unit in units:
        some.append(unit)
        if len(some) == _SLICES_A_TASK:
            waiting.append((some, ask.remote(some)))
            some = []
            if len(waiting) > ahead:
                yield from oldest()
    if some:
        waiting.append((some, ask.remote(some)))
    while waiting:
        yield from oldest()


def _ask_all(units: Sequence[_Unit[Any]]) -> list[list[int]]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_Unit.answer, units))


def not_there(uris: Sequence[str]) -> list[int]:
    """Look for files or folders on a file system."""
    return [at for at, uri in enumerate(uris) if not os.path.exists(uri)]


def not_listed(uris: Sequence[str], fits: Callable[[pafs.FileInfo], bool] = lambda info: True) -> list[int]:
    """Look in object storage for files or folders that `fits` accepts. All must be in one remote folder.

    Raises:
        InputError, StorageFailing, StorageRefused: the storage does not answer.
    """
    wanted = [storage_path(uri) for uri in uris]
    folder = wanted[0].parent
    assert not isinstance(folder, Path)
    try:
        if len(wanted) < _LISTED_FROM:
            paths = [where.path for where in wanted if not isinstance(where, Path)]
            infos = [info for info in folder.filesystem.get_file_info(paths) if info.type != pafs.FileType.NotFound]
        else:
            infos = folder.filesystem.get_file_info(pafs.FileSelector(folder.path, allow_not_found=True))
    except pa.ArrowInvalid as error:
        raise InputError(f"{uris[0]}: not an address that can be looked for ({str(error).splitlines()[0]})") from error
    found = {info.base_name for info in infos if fits(info)}
    return [at for at, where in enumerate(wanted) if where.name not in found]

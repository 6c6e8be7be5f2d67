"""How do rows become Arrow columns?"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w3ray.data.clip_files import is_video
from w3ray.data.decoders.frames import frames_uri
from w3ray.data.importers._common import (
    clip_name,
)
from w3ray.data.importers.csv.columns import Columns, label_columns
from w3ray.errors import InputError

BETWEEN_LABELS = "\x1f"  # ASCII's unit separator

NAMES = pa.dictionary(pa.int32(), pa.string())

CLIPS = pa.schema(
    {
        "line": pa.int32(),
        "path": pa.string(),
        "clip_id": pa.string(),
        "uri": pa.string(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "label": NAMES,
        "split": NAMES,
        "group": NAMES,
    }
)


class ToBatch:
    """Turns rows into columns of `CLIPS`."""

    def __init__(
        self,
        table: Path,
        columns: Columns,
        header: Sequence[str],
        folder: str,
        needs_split: bool,
        find_group: Callable[[str], str] | None,
        frame_prefix: str | None,
    ) -> None:
        self._frame_prefix = frame_prefix
        self._table, self._columns, self._folder = table, columns, folder
        self._place = {name: place for place, name in enumerate(header)}
        self._needs_split, self._find_group = needs_split, find_group

    def __call__(self, rows: list[list[str]], lines: list[int]) -> pa.RecordBatch:
        values = list(zip(*rows, strict=True))
        names = self._columns
        path = pc.replace_substring(self._text(values, names.path), "\\", "/")
        labels = {name: self._text(values, name) for name in label_columns(names.label, list(self._place))}
        label = (
            pc.binary_join_element_wise(*labels.values(), BETWEEN_LABELS) if len(labels) > 1 else labels[names.label]
        )
        split = self._text(values, names.split) if self._needs_split else None
        faults = [(pc.index(path, "").as_py(), f"{names.path!r} is empty")]
        faults += [
            (pc.index(column, "").as_py(), f"{name!r} is empty{_none(column)}") for name, column in labels.items()
        ]
        if split is not None:
            faults += [(pc.index(split, "").as_py(), f"{names.split!r} is empty")]
        seconds = {}
        for name in (names.start, names.end):
            seconds[name], at = self._seconds(values, name)
            faults += (
                [(at, f"{name!r} must be seconds, not {values[self._place[name]][at].strip()!r}")] if at >= 0 else []
            )
        if found := [(at, fault) for at, fault in faults if at >= 0]:
            at, fault = min(found, key=lambda one: one[0])
            raise InputError(f"{self._table}:{lines[at]}: {fault}")
        return pa.record_batch(
            {
                "line": pa.array(lines, pa.int32()),
                "path": path,
                "clip_id": _clip_ids(path, seconds[names.start], seconds[names.end]),
                "uri": self._uris(path),
                "start_s": seconds[names.start],
                "end_s": seconds[names.end],
                "label": label.dictionary_encode(),
                "split": pa.nulls(len(rows), NAMES) if split is None else split.dictionary_encode(),
                "group": self._groups(values, path),
            },
            schema=CLIPS,
        )

    def _text(self, values: Sequence[tuple[str, ...]], name: str) -> pa.Array:
        return pc.utf8_trim_whitespace(pa.array(values[self._place[name]], pa.string()))

    def _seconds(self, values: Sequence[tuple[str, ...]], name: str) -> tuple[pa.Array, int]:
        """The seconds of a column (null for empty values), and the first row with another value, or -1."""
        texts = values[self._place[name]] if name in self._place else ("",) * len(values[0])
        found: list[float | None] = []
        try:
            for text in texts:
                found.append(float(text) if text and not text.isspace() else None)
        except ValueError:
            return None, len(found)
        return pa.array(found, pa.float64()), -1

    def _uris(self, path: pa.Array) -> pa.Array:
        uris = self._uris_of_paths(path)
        if self._frame_prefix is None:
            return uris
        texts = zip(path.to_pylist(), uris.to_pylist(), strict=True)
        prefix = self._frame_prefix
        return pa.array([uri if is_video(one) else frames_uri(uri, prefix) for one, uri in texts], pa.string())

    def _uris_of_paths(self, path: pa.Array) -> pa.Array:
        whole = pc.or_(pc.match_substring(path, "://"), pc.starts_with(path, "/"))
        if "://" in self._folder:
            folder, mark, query = self._folder.partition("?")
            below = pc.binary_join_element_wise(f"{folder.rstrip('/')}/", path, f"{mark}{query}", "")
            return pc.if_else(whole, path, below)
        uris = pc.if_else(whole, path, pc.binary_join_element_wise(self._folder.rstrip("/"), path, "/"))
        # Paths that `normpath` changes: with a part that is empty, "." or "..".
        odd = pc.and_not(pc.match_substring_regex(path, r"(^|/)\.{0,2}(/|$)"), whole)
        if not pc.any(odd).as_py():
            return uris
        return pc.replace_with_mask(
            uris, odd, pa.array(map(os.path.normpath, uris.filter(odd).to_pylist()), pa.string())
        )

    def _groups(self, values: Sequence[tuple[str, ...]], path: pa.Array) -> pa.Array:
        if self._find_group is not None:
            return pa.array(map(self._find_group, path.to_pylist()), pa.string()).dictionary_encode()
        if self._columns.group not in self._place:
            return pa.nulls(len(path), NAMES)
        groups = self._text(values, self._columns.group)
        return pc.if_else(pc.equal(groups, ""), pa.scalar(None, pa.string()), groups).dictionary_encode()


def _none(labels: pa.Array) -> str:
    """How a row says that its multi-label clip has no class."""
    several = pc.any(pc.match_substring(labels, "|")).as_py()
    return "; a clip with none of the classes has the label '|'" if several else ""


def _clip_ids(path: pa.Array, start_s: pa.Array, end_s: pa.Array) -> pa.Array:
    if start_s.null_count == len(path) == end_s.null_count:
        return path
    spans = zip(path.to_pylist(), start_s.to_pylist(), end_s.to_pylist(), strict=True)
    return pa.array([clip_name(*span) for span in spans], pa.string())


def encoded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The distinct texts of a column of `NAMES` without nulls, and int32 [N]: the index of each row's text."""
    chunks = column.unify_dictionaries().chunks
    return chunks[0].dictionary.to_pylist(), np.concatenate([chunk.indices.to_numpy() for chunk in chunks])

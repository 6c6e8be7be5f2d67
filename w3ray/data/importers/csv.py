"""A CSV file into a manifest: one row a clip, with path and label, and perhaps split, group, start and end.

Lists without a header, as other projects have them (`path label`, `path num_frames label`), are read in the same way
once their columns are named.

Rows become Arrow columns some ten thousand at a time, and no row is a Python object for longer: the memory that an
import takes is a small multiple of the finished table: 4.2 GiB for 12 million rows, a table of 1.2 GiB
(`benchmarks/results/imports.json`).
Only names are kept as Python objects: of the classes, and of the groups where they are dealt into splits.
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w3ray._nearest import did_you_mean
from w3ray.data.clip_files import is_video
from w3ray.data.decoders.frames import frames_uri
from w3ray.data.importers._common import (
    DEALT,
    Dealing,
    check_text,
    clip_name,
    flip_labels,
    group_finder,
    line_without_text,
    no_group,
    splits_at_random,
    splits_of_groups,
)
from w3ray.data.importers._label_columns import joined_labels
from w3ray.data.importers._looking import current, find_missing, not_listed, not_there, slices_of
from w3ray.data.manifest import Manifest, build_manifest
from w3ray.data.split_names import split_names
from w3ray.errors import InputError
from w3ray.heads import Heads

_ROWS_AT_ONCE = 50_000
_BETWEEN_LABELS = "\x1f"  # ASCII's unit separator
_NAMES = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema(
    {
        "line": pa.int32(),
        "path": pa.string(),
        "clip_id": pa.string(),
        "uri": pa.string(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "label": _NAMES,
        "split": _NAMES,
        "group": _NAMES,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The names of the CSV's columns; all but path and label may be absent from the file. start and end in seconds.

    Several labels a clip: `label` names their columns with a plus between, as in "verb+noun"; each one is a head.
    """

    path: str = "path"
    label: str = "label"
    split: str = "split"
    group: str = "group"
    start: str = "start"
    end: str = "end"

    def known(self) -> dict[str, str]:
        """What each column is read for, by its name."""
        labels = dict.fromkeys(self.label.split("+"), "label")
        others = {self.split: "split", self.group: "group", self.start: "start", self.end: "end"}
        return {self.path: "path"} | labels | others


NOT_READ = ("num_frames", "_")
"""Names of columns in a file without a header that nothing is read from; "_" may stand several times."""


class _Labelled(NamedTuple):
    """The label of each clip, and what labels mean."""

    label: pa.ChunkedArray
    heads: Heads
    flip_map: dict[int, int]


def import_csv(
    source: str | os.PathLike[str],
    *,
    root: str | None = None,
    columns: Columns | None = None,
    header: Sequence[str] | None = None,
    delimiter: str | None = None,
    split: Literal["column", "group", "random"] | None = None,
    group: str | None = None,
    dealing: Dealing | None = None,
    classes: Sequence[str] | None = None,
    flip_map: Mapping[str, str] | Literal["identity"] | None = None,
    missing_ok: bool = False,
    frame_prefix: str | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Every row of a CSV with a header line, or without one where `header` says what its columns are.

    Args:
        source: the CSV file.
        root: what paths are relative to, a folder or an address such as `s3://bucket/clips`; None: the CSV's folder.
        columns: the columns' names.
        header: the names of all columns in their order, of a file without a header line; "num_frames" and "_" are not
            read. A first line of just these names is taken for the header that it is.
        delimiter: the character between two values, " " for any blanks. None: a comma; of a file without a header the
            comma, tab, semicolon or blanks that give its first line as many values as there are names.
        split: "column" reads the split column, "group" and "random" deal as `dealing` says; None: the column where
            there is one, else "random".
        group: regular expression with one capture on the path; None: the group column where there is one.
        classes: the class names in label order. None: the names in the CSV, sorted; labels that are all whole numbers
            are taken as they are and name their classes ("0", "1", ...). So it is for each of several label columns.
        flip_map: class -> class of its mirror image, or "identity": a mirrored clip keeps its class.
        missing_ok: do not look whether the videos exist (those at web addresses are never looked for).
        frame_prefix: as `import_folder` takes it, of all paths that are no videos by their names.
        note: told in one line what each column was taken for.

    Raises:
        InputError: file, column, value or video missing or unusable; names the line.
    """
    table = Path(os.path.abspath(source))
    columns = columns or Columns()
    if delimiter is not None and len(delimiter) != 1:
        raise InputError(f"delimiter {delimiter!r} must be one character")
    if header is not None:
        _check_header(header, columns)
    find_group = None if group is None else group_finder(group, str(table))
    with _opened(table, delimiter, header, columns.path) as rows:
        if not rows.header:
            raise _no_rows(table)
        for needed in (columns.path, *_label_columns(columns.label, rows.header)):
            if needed not in rows.header:
                raise InputError(f"{table}: no column {needed!r}; {_what_it_has(rows, delimiter)}")
        if split is None:
            split = "column" if columns.split in rows.header else "random"
        if split == "column" and columns.split not in rows.header:
            raise InputError(f"{table}: no column {columns.split!r}; it has {', '.join(rows.header)}")
        folder = str(table.parent) if root is None else root if "://" in root else os.path.abspath(root)
        check_text(folder)
        to_batch = _ToBatch(table, columns, rows.header, folder, split == "column", find_group, frame_prefix)
        clips = pa.Table.from_batches([to_batch(*chunk) for chunk in rows.chunks()], _SCHEMA)
    if not clips.num_rows:
        raise _no_rows(table)
    note(_taken_for(rows, columns, table, {"split": split == "column", "group": group is None}))
    names, codes = _encoded(clips["label"])
    dealing = dealing or Dealing()
    if split == "group":
        splits = _dealt_by_group(clips, dealing, str(table))
    elif split == "random":
        splits = _dealt_at_random(clips, names, codes, dealing)
    else:
        splits = _one_name_each(clips, table, note)
    heads = _label_columns(columns.label, rows.header)
    if len(heads) > 1:
        labelled = _several_labels(heads, names, codes, classes, flip_map, str(table))
    else:
        labelled = _one_label(names, codes, classes, flip_map, clips["line"], table)
    manifest = build_manifest(
        {
            **{name: clips[name] for name in ("clip_id", "uri", "start_s", "end_s", "group")},
            "label": labelled.label,
            "split": splits,
        },
        labelled.heads.classes,
        labelled.flip_map,
        head_sizes=labelled.heads.sizes,
    )
    if not missing_ok and not current().skip:
        _check_there(clips, table)
    return manifest


def _label_columns(label: str, header: Sequence[str]) -> list[str]:
    """The columns that hold the labels; a column whose own name has a plus is one."""
    return [label] if label in header else label.split("+")


def _several_labels(
    heads: Sequence[str],
    combinations: Sequence[str],
    codes: np.ndarray,
    classes: Sequence[str] | None,
    flip_map: Mapping[str, str] | Literal["identity"] | None,
    where: str,
) -> _Labelled:
    """Labels by head, of the different texts that `_ToBatch` joined and of which one each row has."""
    if classes is not None:
        raise InputError(f"{where}: class names are taken from the columns {', '.join(heads)}; leave classes out")
    if flip_map not in (None, "identity"):
        raise InputError(f"{where}: of several labels the flip map can only be 'identity': a mirror image keeps them")
    parts = [text.split(_BETWEEN_LABELS) for text in combinations]
    columns = {
        head: pa.chunked_array([pa.array([part[place] for part in parts], pa.string()).take(pa.array(codes))])
        for place, head in enumerate(heads)
    }
    found = joined_labels(columns, where)
    flip = {} if flip_map is None else {label: label for label in range(found.heads.num_scores)}
    return _Labelled(found.label, found.heads, flip)


def _one_label(
    found: Sequence[str],
    codes: np.ndarray,
    classes: Sequence[str] | None,
    flip_map: Mapping[str, str] | Literal["identity"] | None,
    lines: pa.ChunkedArray,
    table: Path,
) -> _Labelled:
    names, labels = _name_classes(found, codes, classes, lines, table)
    flip = flip_labels(flip_map, {name: label for label, name in enumerate(names)})
    return _Labelled(pa.chunked_array([labels]), Heads(tuple(names)), flip)


def _no_rows(table: Path) -> InputError:
    return InputError(f"{table}: it has no rows below its header")


def _check_header(header: Sequence[str], columns: Columns) -> None:
    """Raises: InputError where a name is there twice, or nothing is read from a column of that name."""
    known = columns.known()
    for place, name in enumerate(header):
        if name in header[:place] and name != "_":
            raise InputError(f"columns: {name!r} is named twice; '_' is a column that is not read")
        if name not in known and name not in NOT_READ:
            hint = did_you_mean(name, [*known, *NOT_READ])
            raise InputError(f"columns: {name!r} is read for nothing; {hint}known: {', '.join([*known, *NOT_READ])}")


def _what_it_has(rows: "_Rows", delimiter: str | None) -> str:
    """What a file has in place of a column, and what to do if its first line is no header."""
    if rows.separator is not None:
        return f"it has {', '.join(rows.header)}"
    if not _looks_like_a_clip(rows.header, delimiter):
        return (
            f"it has {', '.join(rows.header)}; say which is which with --columns path=...,label=..., or, if that is no "
            "header, name all columns in their order: --columns path,label"
        )
    values = _values(rows.first_line, delimiter)
    names = {2: "path,label", 4: "path,label,start,end"}.get(len(values), "path,label,...")
    if len(values) == 3:
        names = "path,num_frames,label" if values[1].isdecimal() else "path,label,split"
    return (
        f"its first line is {rows.first_line!r}: if that is a clip and no header, name its columns in their order, as "
        f"--columns {names} ('_' for one that is not read)"
    )


def _looks_like_a_clip(header: Sequence[str], delimiter: str | None) -> bool:
    values = [value for text in header for value in (text.split() if delimiter is None else [text])]
    return any("/" in value or is_video(value) or value.replace(".", "", 1).isdecimal() for value in values)


def _values(line: str, delimiter: str | None) -> list[str]:
    separators = (",", "\t", ";") if delimiter is None else (delimiter,)
    found = max((line.split(one) for one in separators), key=len)
    return found if len(found) > 1 else line.split()


def _taken_for(rows: "_Rows", columns: Columns, table: Path, reads: Mapping[str, bool]) -> str:
    """One line: what each column of a file was read for. `reads` says so of those that may be left aside."""
    known = columns.known()
    if columns.label in rows.header:  # a column whose own name has a plus
        known[columns.label] = "label"
    taken, aside = [], []
    for place, name in enumerate(rows.header):
        if name not in known or not reads.get(known[name], True):
            aside.append(repr(name) if rows.separator is None else f"column {place + 1}")
        elif rows.separator is None:
            taken.append(f"{known[name]} from {name!r}")
        else:
            labels = f" {name!r}" if known[name] == "label" and name != "label" else ""
            taken.append(f"{known[name]}{labels} from column {place + 1} ({rows.first_row[place]!r})")
    how = "" if rows.separator is None else f"no header, values separated by {_SEPARATORS[rows.separator]}; "
    return f"{table}: {how}{', '.join(taken)}" + (f"; not read: {', '.join(aside)}" if aside else "")


class _Lines:
    """Splits lines at blanks, with the interface of `csv.reader`. Blanks in the path stay where it comes first."""

    def __init__(self, lines: Iterable[str], width: int, path_first: bool) -> None:
        self._lines, self._width, self._path_first = lines, width, path_first
        self.line_num = 0

    def __iter__(self) -> Iterator[list[str]]:
        for line in self._lines:
            self.line_num += 1
            yield line.rsplit(maxsplit=self._width - 1) if self._path_first else line.split()


_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", " ": "blanks"}


def _separator(line: str, header: Sequence[str]) -> str:
    """What stands between the values of a list without a header."""
    fitting = [one for one in _SEPARATORS if one != " " and len(line.split(one)) == len(header)]
    return fitting[0] if fitting else " " if len(line.split()) >= len(header) else ","


class _Rows:
    """The header of an open CSV file, and its rows.

    `separator` is what stands between the values where the file has no header of its own, else None.
    """

    def __init__(
        self, stream: TextIO, table: Path, delimiter: str | None, header: Sequence[str] | None, path: str
    ) -> None:
        self._table = table
        self.separator: str | None = None
        self.first_row: list[str] = []
        lines = [next(stream, "")]
        while lines[-1].isspace():
            lines.append(next(stream, ""))
        self.first_line, every = lines[-1].strip(), chain(lines, stream)
        self._reader: Any
        if header is None:
            self._reader = csv.reader(every, delimiter=delimiter or ",", strict=True)
            self.header = [name.strip() for name in next(filter(None, self._reader), [])]
            return
        self.header = list(header)
        self.separator = _separator(self.first_line, header) if delimiter is None else delimiter
        self._reader = (
            _Lines(every, len(header), header[0] == path) if self.separator == " "
            else csv.reader(every, delimiter=self.separator, strict=True)
        )  # fmt: skip

    @property
    def line(self) -> int:
        """Where the reader is, from 1."""
        line: int = self._reader.line_num
        return line

    def chunks(self) -> Iterator[tuple[list[list[str]], list[int]]]:
        """Some rows, and the line in which each one ends, from 1."""
        rows: list[list[str]] = []
        lines: list[int] = []
        width, reader = len(self.header), self._reader
        for row in reader:
            if len(row) != width:
                if not row:
                    continue
                whose = "the header has" if self.separator is None else f"--columns names ({','.join(self.header)})"
                raise InputError(f"{self._table}:{reader.line_num}: not {width} values, as {whose}")
            if self.separator is not None and not self.first_row:
                values = [value.strip() for value in row]
                if not rows and values == self.header:
                    continue  # a header after all
                self.first_row = values
            rows.append(row)
            lines.append(reader.line_num)
            if len(rows) == _ROWS_AT_ONCE:
                yield rows, lines
                rows, lines = [], []
        if rows:
            yield rows, lines


@contextmanager
def _opened(table: Path, delimiter: str | None, header: Sequence[str] | None, path: str) -> Iterator[_Rows]:
    """Raises: InputError where the file cannot be read, and for what is no CSV in it."""
    rows = None
    try:
        with open(table, encoding="utf-8-sig", newline="") as stream:
            rows = _Rows(stream, table, delimiter, header, path)
            yield rows
    except UnicodeDecodeError as error:
        raise InputError(f"{table}:{line_without_text(table)}: cannot be read as CSV: no UTF-8 text") from error
    except csv.Error as error:
        raise InputError(f"{table}:{rows.line if rows else 1}: cannot be read as CSV: {error}") from error
    except OSError as error:
        raise InputError(f"{table}: cannot be read as CSV: {error}") from error


class _ToBatch:
    """Turns rows into columns of `_SCHEMA`."""

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
        labels = {name: self._text(values, name) for name in _label_columns(names.label, list(self._place))}
        label = (
            pc.binary_join_element_wise(*labels.values(), _BETWEEN_LABELS) if len(labels) > 1 else labels[names.label]
        )
        split = self._text(values, names.split) if self._needs_split else None
        faults = [(pc.index(path, "").as_py(), f"{names.path!r} is empty")]
        faults += [(pc.index(column, "").as_py(), f"{name!r} is empty") for name, column in labels.items()]
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
                "split": pa.nulls(len(rows), _NAMES) if split is None else split.dictionary_encode(),
                "group": self._groups(values, path),
            },
            schema=_SCHEMA,
        )

    def _text(self, values: Sequence[tuple[str, ...]], name: str) -> pa.Array:
        return pc.utf8_trim_whitespace(pa.array(values[self._place[name]], pa.string()))

    def _seconds(self, values: Sequence[tuple[str, ...]], name: str) -> tuple[pa.Array, int]:
        """The seconds of a column, null where it has none, and the first row that has something else, or -1."""
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
        # What `normpath` changes: a part that is empty, a dot or two.
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
            return pa.nulls(len(path), _NAMES)
        groups = self._text(values, self._columns.group)
        return pc.if_else(pc.equal(groups, ""), pa.scalar(None, pa.string()), groups).dictionary_encode()


def _clip_ids(path: pa.Array, start_s: pa.Array, end_s: pa.Array) -> pa.Array:
    if start_s.null_count == len(path) == end_s.null_count:
        return path
    spans = zip(path.to_pylist(), start_s.to_pylist(), end_s.to_pylist(), strict=True)
    return pa.array([clip_name(*span) for span in spans], pa.string())


def _one_name_each(clips: pa.Table, table: Path, note: Callable[[str], None]) -> pa.ChunkedArray:
    """The split column with the one name of each split.

    Raises: InputError where two of its names differ in case alone.
    """
    found, codes = _encoded(clips["split"])
    names = split_names(found, str(table), synonyms=True)
    if len(set(names.values())) < len(found):
        note(f"{table}: splits: " + ", ".join(f"{name!r} is {names[name]}" for name in found))
    return pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(codes), pa.array([names[n] for n in found]))])


def _check_there(clips: pa.Table, table: Path) -> None:
    uris = clips["uri"]
    if pc.any(pc.match_substring(uris, "*")).as_py():  # of frames with a prefix the folder is looked for
        uris = pc.replace_substring_regex(uris, r"/[^/?]*\*(\?|$)", r"\1")
    missing = find_missing(
        slices_of(uri for chunk in uris.chunks for uri in chunk.to_pylist()),
        lambda places: uris.take(pa.array(places)).to_pylist(),
        len(uris),
        local=not_there,
        remote=not_listed,
        key=str,
        question="a file or folder",
    )
    if len(missing):
        first = int(missing[0])
        raise InputError(
            f"{table}:{clips['line'][first]}: no file or folder {uris[first]} ({len(missing)} of {len(uris)} are "
            "missing); give the folder of the videos as root, or allow missing ones"
        )


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The different texts of a column of `_NAMES` without nulls, and int32 [N]: which one each row has."""
    chunks = column.unify_dictionaries().chunks
    return chunks[0].dictionary.to_pylist(), np.concatenate([chunk.indices.to_numpy() for chunk in chunks])


def _dealt_by_group(clips: pa.Table, dealing: Dealing, where: str) -> pa.ChunkedArray:
    if clips["group"].null_count:
        first = pc.index(pc.is_null(clips["group"]), True).as_py()
        raise no_group(clips["path"][first].as_py(), where)
    names, codes = _encoded(clips["group"])
    order = sorted(range(len(names)), key=names.__getitem__)
    sizes = np.bincount(codes, minlength=len(names))
    of_group = np.empty(len(names), np.int8)
    of_group[order] = splits_of_groups([names[at] for at in order], sizes[order], dealing, where)
    return _splits(of_group[codes])


def _dealt_at_random(clips: pa.Table, names: Sequence[str], codes: np.ndarray, dealing: Dealing) -> pa.ChunkedArray:
    rank = np.empty(len(names), np.int32)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    ranks = rank[codes]
    keys = pa.table({"rank": ranks, "path": clips["path"], "start_s": pc.fill_null(clips["start_s"], 0.0)})
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names]).to_numpy()
    ends = np.cumsum(np.bincount(ranks, minlength=len(names)))
    by_class = (order[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True))
    return _splits(splits_at_random(by_class, len(order), dealing))


def _splits(numbers: np.ndarray) -> pa.ChunkedArray:
    return pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(DEALT))])


def _name_classes(
    found: Sequence[str], codes: np.ndarray, classes: Sequence[str] | None, lines: pa.ChunkedArray, table: Path
) -> tuple[list[str], pa.Array]:
    """All the class names in label order, and the label of each clip. Whole numbers are labels, else it is a name."""
    if classes is None and not all(label.isdecimal() for label in found):
        classes = sorted(found)
    if classes is not None and set(found) <= set(classes):
        label_of = {name: label for label, name in enumerate(classes)}
        return list(classes), pa.array(np.array([label_of[name] for name in found], np.int32)[codes])
    if classes is not None and not all(label.isdecimal() for label in found):
        code = next(code for code, name in enumerate(found) if name not in set(classes))
        line = lines[int(np.argmax(codes == code))]
        raise InputError(f"{table}:{line}: label {found[code]!r} is none of the classes {', '.join(classes)}")
    num_classes = max(int(label) for label in found) + 1
    if classes is None and num_classes > len(codes):
        raise InputError(
            f"{table}: label {num_classes - 1} with {len(codes)} clips: are these labels? name the classes"
        )
    names = [str(label) for label in range(num_classes)] if classes is None else list(classes)
    if num_classes > len(names):
        raise InputError(f"{table}: label {num_classes - 1} is out of range for {len(names)} classes")
    return names, pa.array(np.array([int(label) for label in found], np.int32)[codes])

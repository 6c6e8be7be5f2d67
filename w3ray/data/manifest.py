"""What is a manifest? One Parquet table that names every clip of a data set: the only form in which data enters.

Columns, one row a clip:

| column   | type    | required | meaning                                                               |
|----------|---------|----------|-----------------------------------------------------------------------|
| clip_id  | string  | yes      | unique name of the clip                                               |
| uri      | string  | yes      | video: absolute, `s3://...`, or relative to the manifest's folder     |
| start_s  | float64 | no       | where the clip begins in the video, seconds; null: the video's start  |
| end_s    | float64 | no       | where it ends (exclusive), seconds; null: the video's end             |
| reversed | bool    | no       | the clip is played backwards; absent: false                           |
| label    | int32   | yes      | index into the class names; null: not known, as of a test split       |
| split    | string  | yes      | `train`, `val`, `test` or any other name                              |
| group    | string  | no       | what a fold must not tear apart: a subject, a sequence, a camera      |

A uri may be a folder of numbered JPEG or PNG images in place of a video file; where it holds other images too, the
frames are named with what their names begin with, as `clips/17/img_*`. Such frames have no clock: whatever rate they
were taken at, by convention each one lasts 1 / 30 s (`FOLDER_FPS`), so the frames i to j - 1, counted from 0 at the
first image, are the clip with start_s = i / 30 and end_s = j / 30.

Columns that say what the files were when they were imported: see `w3ray.data.stamps`.

Schema metadata, JSON: `w3ray.version` (1), `w3ray.classes` (list of class names, in label order) and `w3ray.flip_map`
(object: a label -> the label of its mirror image, such as "moving left" -> "moving right"; a label that is not in it
keeps its meaning when mirrored; an empty object says that nothing is known about mirroring).

Clips with several labels, such as a verb and a noun, have `w3ray.heads` too: a list of [name, number of classes], an
entry a HEAD, in order. The class names are then those of all heads, one head behind the other, `label` is the number of
the combination (`w3ray.heads` says how it is counted), and a mirror image keeps its labels.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from w3ray._address import local_path
from w3ray.data.split_names import split_among
from w3ray.errors import InputError
from w3ray.heads import UNLABELLED, Heads
from w3ray.storage import file_system, replacing, storage_path

MANIFEST_VERSION = 1
FOLDER_FPS = 30
"""Frames a second of a folder of images, by convention."""
SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("reversed", pa.bool_(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("group", pa.string()),
    ]
)
CLIP_COLUMNS = ("clip_id", "uri", "start_s", "end_s", "reversed", "label")
"""What is needed to read and to count a clip."""
STAMPS = pa.schema([pa.field("size", pa.int64()), pa.field("modified_ns", pa.int64()), pa.field("sha256", pa.string())])
"""Columns that a manifest may have: what its files were when they were imported (`w3ray.data.stamps`)."""
REQUIRED_COLUMNS = ("clip_id", "uri", "label", "split")

# A manifest may have a hundred million rows: whatever needs more than a few bytes a row besides the table itself goes
# through it in slices of this many.
_ROWS_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest.

    `table` has the columns of SCHEMA, and those of STAMPS that its file has; `location` is the Parquet file it was read
    from or will be written to, and "" while it has none (then every uri must be absolute). `classes` are the names of
    all heads, `head_sizes` as in `w3ray.heads.Heads`.
    """

    table: pa.Table
    classes: tuple[str, ...]
    flip_map: dict[int, int]
    location: str = ""
    head_sizes: tuple[tuple[str, int], ...] = ()

    @property
    def heads(self) -> Heads:
        return Heads(self.classes, self.head_sizes)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def splits(self) -> dict[str, int]:
        """Clips in each split, by name."""
        counted = pc.value_counts(self.table["split"]).to_pylist()
        return {row["values"]: row["counts"] for row in sorted(counted, key=lambda row: row["values"])}

    def split_named(self, name: str) -> str:
        """The split of this manifest that a name means, in whatever case: "Train" is "train".

        Raises:
            InputError: the manifest has no clip in that split (the splits it has are listed), or several splits have
                that name.
        """
        splits = self.splits()
        where = self.location or "manifest"
        found = split_among(name, splits, where)
        if found is None:
            known = ", ".join(f"{known} ({count})" for known, count in splits.items())
            raise InputError(f"{where}: split {name!r} is empty; it has {known}")
        return found

    def split(self, name: str, columns: Sequence[str] = tuple(SCHEMA.names)) -> pa.Table:
        """The rows of one split, of `columns` alone where they are given.

        Raises:
            InputError: as `split_named`.
        """
        table = self.table.select(columns)
        rows = table.filter(pc.equal(self.table["split"], name))
        return rows if rows.num_rows else table.filter(pc.equal(self.table["split"], self.split_named(name)))

    def resolve(self, uri: str) -> str:
        """A uri of the table as one that can be opened from anywhere."""
        if "://" in uri or os.path.isabs(uri):
            return uri
        if not self.location:
            raise InputError(f"the relative uri {uri!r} needs a manifest with a location; write the manifest first")
        return f"{_folder(self.location)}/{uri}"

    def resolved(self, uris: pa.ChunkedArray) -> pa.ChunkedArray:
        """`resolve` for a column of uris."""
        return pa.chunked_array([self._resolved_slice(piece) for piece in _slices(uris)], pa.string())

    def resolved_uris(self, rows: pa.Table | None = None) -> list[str]:
        """`resolve` for every row (of the whole table unless `rows` are given)."""
        uris: list[str] = self.resolved((self.table if rows is None else rows)["uri"]).to_pylist()
        return uris

    def _resolved_slice(self, uris: pa.Array) -> pa.Array:
        as_they_are = pc.or_(pc.match_substring(uris, "://"), pc.starts_with(uris, "/"))
        relative = pc.index(as_they_are, False).as_py()
        if relative < 0:
            return uris
        if not self.location:
            self.resolve(uris[relative].as_py())
        return pc.if_else(as_they_are, uris, pc.binary_join_element_wise(_folder(self.location), uris, "/"))

    def fingerprint(self) -> str:
        """SHA-256 of the rows and the metadata, as hex: the same wherever the file lies and however it is compressed.

        It covers the uris as written, not the bytes of the videos or their stamps. Reads every row: a second or two for
        each million.
        """
        digest = hashlib.sha256(json.dumps(_metadata(self), sort_keys=True).encode())
        for name in SCHEMA.names:
            digest.update(f'["{name}",['.encode())
            for i, piece in enumerate(_slices(self.table[name])):
                digest.update(b"," if i else b"")
                digest.update(_json_values(piece))
            digest.update(b"]]")
        return digest.hexdigest()

    def with_fold(self, fold: int, folds: int, seed: int = 0) -> "Manifest":
        """The same clips with train and val dealt anew by group: fold `fold` of `folds` becomes val, the rest train.

        Groups are dealt round robin in sorted order (in an order shuffled by `seed` where it is not 0). Rows of other
        splits, such as `test`, stay as they are.

        Raises:
            InputError: `fold` is outside 0..folds-1, a clip has no group, or there are fewer groups than folds.
        """
        where = self.location or "manifest"
        if folds < 2 or not 0 <= fold < folds:
            raise InputError(f"{where}: fold {fold} of {folds}: needs at least 2 folds and a fold in 0..folds-1")
        splits, groups = self.table["split"], self.table["group"]
        anew = [name for name in self.splits() if name.casefold() in ("train", "val")]
        dealt = pc.is_in(splits, pa.array(anew, pa.string()))
        if pc.any(pc.and_(dealt, pc.is_null(groups))).as_py():
            raise InputError(f"{where}: folds need a group for every clip; import with --group or a group column")
        names = sorted(pc.unique(groups.filter(dealt)).to_pylist())
        if len(names) < folds:
            raise InputError(f"{where}: {len(names)} groups cannot be dealt into {folds} folds")
        if seed:
            names = [names[place] for place in np.random.default_rng(seed).permutation(len(names))]
        held_out = pc.is_in(groups, pa.array(names[fold::folds], pa.string()))
        fresh = pc.if_else(dealt, pc.if_else(held_out, "val", "train"), splits)
        place = SCHEMA.get_field_index("split")
        table = self.table.set_column(place, SCHEMA.field("split"), fresh)
        return replace(self, table=table)


def build_manifest(
    columns: Mapping[str, list[object] | pa.ChunkedArray],
    classes: tuple[str, ...] | list[str],
    flip_map: dict[int, int] | None = None,
    location: str = "",
    head_sizes: Sequence[tuple[str, int]] = (),
) -> Manifest:
    """A checked manifest from columns in memory; the optional ones may be left out.

    Raises:
        InputError: as `read_manifest`.
    """
    arrays: dict[str, pa.Array] = {}
    known = pa.schema([*SCHEMA, *STAMPS])
    for name, values in columns.items():
        if name not in known.names:
            raise InputError(f"manifest: unknown column {name!r}; known: {', '.join(known.names)}")
        try:
            arrays[name] = values if isinstance(values, pa.ChunkedArray) else pa.array(values, known.field(name).type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise InputError(f"manifest: column {name!r}: {error}") from error
        except UnicodeEncodeError as error:
            raise InputError(f"manifest: column {name!r}: {error.object!a} is no UTF-8 text; rename it") from error
    return _checked(pa.table(arrays), tuple(classes), dict(flip_map or {}), location, tuple(head_sizes))


def read_manifest(location: str | os.PathLike[str]) -> Manifest:
    """Read and check a manifest from a local path or a URI that pyarrow or fsspec knows.

    Raises:
        InputError: no such file, no Parquet file, not a manifest, a column is missing or of a wrong type, an empty
            table, a duplicate clip_id, a label outside the classes, an end before its start; says which and where.
    """
    location = _absolute(os.fspath(location))
    filesystem, path = file_system(location)
    try:
        kind = filesystem.get_file_info(path).type
        if kind != pafs.FileType.File:
            found = "it is a folder" if kind == pafs.FileType.Directory else "no such file"
            raise InputError(f"manifest {location}: {found}; make one with `w3ray data import` or `w3ray data synth`")
        table = _read_columns(path, filesystem)
    except pa.ArrowInvalid as error:
        raise InputError(f"manifest {location}: not a readable Parquet file ({_first_line(error)})") from error
    except OSError as error:
        raise InputError(f"manifest {location}: cannot be read ({_first_line(error)})") from error
    metadata = {key.decode(): value for key, value in (table.schema.metadata or {}).items()}
    try:
        version = json.loads(metadata["w3ray.version"])
        classes = json.loads(metadata["w3ray.classes"])
        if not isinstance(classes, list):
            raise TypeError("the classes are no list")
        flip_map = {int(label): int(mirror) for label, mirror in json.loads(metadata["w3ray.flip_map"]).items()}
        head_sizes = tuple((str(name), int(size)) for name, size in json.loads(metadata.get("w3ray.heads", "[]")))
    except KeyError as error:
        raise InputError(
            f"manifest {location}: the metadata {error} is missing, so it is no w3ray manifest; "
            "make one with `w3ray data import`"
        ) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"manifest {location}: its w3ray metadata cannot be read ({error})") from error
    if version != MANIFEST_VERSION:
        raise InputError(f"manifest {location}: version {version}; this w3ray reads version {MANIFEST_VERSION}")
    return _checked(table, tuple(classes), flip_map, location, head_sizes)


def write_manifest(manifest: Manifest, location: str | os.PathLike[str]) -> Manifest:
    """Write a manifest in one step (a reader sees the old file or the new one) and return it as written.

    Videos beneath the manifest's new folder are named relative to it, so that the folder can be moved as a whole.

    Raises:
        InputError: the place cannot be written to.
    """
    location = _absolute(os.fspath(location))
    folder = _folder(location) + "/"
    uris = manifest.resolved(manifest.table["uri"])
    uris = pc.if_else(pc.starts_with(uris, folder), pc.utf8_slice_codeunits(uris, len(folder)), uris)
    place = SCHEMA.get_field_index("uri")
    table = manifest.table.set_column(place, SCHEMA.field("uri"), uris)
    written = _checked(table, manifest.classes, manifest.flip_map, location, manifest.head_sizes)
    stored = written.table.replace_schema_metadata(
        {key: json.dumps(value, sort_keys=True) for key, value in _metadata(written).items()}
    )
    try:
        with replacing(storage_path(location)) as part:
            pq.write_table(stored, part)
    except OSError as error:
        raise InputError(f"manifest {location}: cannot be written ({_first_line(error)})") from error
    return written


def _metadata(manifest: Manifest) -> dict[str, object]:
    metadata: dict[str, object] = {
        "w3ray.version": MANIFEST_VERSION,
        "w3ray.classes": list(manifest.classes),
        "w3ray.flip_map": {str(label): mirror for label, mirror in sorted(manifest.flip_map.items())},
    }
    if manifest.head_sizes:  # absent otherwise: older fingerprints hold
        metadata["w3ray.heads"] = [list(head) for head in manifest.head_sizes]
    return metadata


def _checked(
    table: pa.Table,
    classes: tuple[str, ...],
    flip_map: dict[int, int],
    location: str,
    head_sizes: tuple[tuple[str, int], ...],
) -> Manifest:
    where = f"manifest {location}" if location else "manifest"
    table = _conform(table, where)
    if table.num_rows == 0:
        raise InputError(f"{where}: it has no clips")
    _check_labels(table, _heads(classes, head_sizes, where), where)
    for label, mirror in flip_map.items():
        if not (0 <= label < len(classes) and 0 <= mirror < len(classes)):
            raise InputError(f"{where}: flip_map {label} -> {mirror} is outside the labels 0..{len(classes) - 1}")
        if flip_map.get(mirror, mirror) != label:
            raise InputError(f"{where}: flip_map {label} -> {mirror} but not back; mirroring twice must change nothing")
        if head_sizes and mirror != label:
            raise InputError(
                f"{where}: flip_map {label} -> {mirror}: with several heads a mirror image keeps its labels"
            )
    _check_unique(table["clip_id"], where)
    _check_spans(table, where)
    return Manifest(table=table, classes=classes, flip_map=flip_map, location=location, head_sizes=head_sizes)


def _heads(classes: tuple[str, ...], head_sizes: tuple[tuple[str, int], ...], where: str) -> Heads:
    """The heads, with names that are different, non-empty strings in each."""
    if not classes:
        raise InputError(f"{where}: it has no class names")
    try:
        heads = Heads(classes, head_sizes)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    for head in heads.each():
        names = head.classes
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
            of = f" of {head.name!r}" if head.name else ""
            raise InputError(f"{where}: the class names{of} must be different, non-empty strings, not {list(names)}")
    return heads


def _check_labels(table: pa.Table, heads: Heads, where: str) -> None:
    labels = pc.fill_null(table["label"], 0).to_numpy()
    wrong = np.flatnonzero((labels < 0) | (labels >= heads.num_labels))
    if wrong.size:
        row = int(wrong[0])
        known = f"its {len(heads.classes)} classes" if not heads.several else f"the combinations of {dict(heads.sizes)}"
        raise InputError(
            f"{where}: {wrong.size} label(s) out of range, first {labels[row]} of clip "
            f"{table['clip_id'][row].as_py()!r}; {known} have the labels 0..{heads.num_labels - 1}"
        )


def known_labels(table: pa.Table) -> np.ndarray:
    """int64 [N]: the labels of a table of clips, `UNLABELLED` where one is not known."""
    labels: np.ndarray = pc.fill_null(table["label"], UNLABELLED).to_numpy().astype(np.int64)
    return labels


def _conform(table: pa.Table, where: str) -> pa.Table:
    """Exactly the columns and types of SCHEMA and of STAMPS; missing optional columns filled, others dropped."""
    missing = [name for name in REQUIRED_COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(f"{where}: column(s) {', '.join(missing)} missing; it has {', '.join(table.column_names)}")
    columns = []
    stamps = [field for field in STAMPS if field.name in table.column_names]
    for field in (*SCHEMA, *stamps):
        if field.name not in table.column_names:
            filler = pa.scalar(False if field.name == "reversed" else None, field.type)
            columns.append(pa.chunked_array([pa.repeat(filler, table.num_rows)]))
            continue
        column = table[field.name]
        same_kind = pa.types.is_null(column.type) or any(
            of_kind(column.type) and of_kind(field.type)
            for of_kind in (_is_text, pa.types.is_integer, _is_number, pa.types.is_boolean)
        )
        try:
            if not same_kind or (pa.types.is_integer(field.type) and not pa.types.is_integer(column.type)):
                raise pa.ArrowInvalid("another kind of value")
            column = _cast(column, field.type)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{where}: column {field.name!r} is {table[field.name].type}, it must be {field.type} ({error})"
            ) from error
        if not field.nullable and column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise InputError(f"{where}: column {field.name!r} is empty in row {row} (of {column.null_count} such rows)")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema([*SCHEMA, *stamps]))


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """`column.cast`, in slices where it makes new strings: one array of `pa.string()` ends at 2 GiB."""
    if column.type == kind or not pa.types.is_string(kind):
        return column.cast(kind)
    # Beside an empty one: a slice still points into all of what it was cut from, which is what the cast measures.
    return pa.chunked_array([pa.concat_arrays([piece, piece[:0]]).cast(kind) for piece in _slices(column)], kind)


def _check_unique(clip_ids: pa.ChunkedArray, where: str) -> None:
    """By a 64-bit hash a row; only rows whose hash occurs twice are compared as what they are."""
    hashes = np.concatenate([_hash(piece) for piece in _slices(clip_ids)])
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not repeated.size:
        return
    counts = pc.value_counts(clip_ids.filter(pa.array(np.isin(hashes, repeated))))
    counts = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(counts):
        raise InputError(f"{where}: clip_id {counts[0]['values'].as_py()!r} occurs {counts[0]['counts']} times")


def _hash(texts: pa.Array) -> np.ndarray:
    """uint64 [N]: equal for equal texts, different for nearly all others. A polynomial of the bytes, modulo 2**64."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    lengths = np.diff(bounds)
    codes = np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]
    powers = np.full(int(lengths.max()) + 1, 0x9E3779B97F4A7C15, np.uint64)
    with np.errstate(over="ignore"):
        powers = np.cumprod(powers, dtype=np.uint64)
        within = np.arange(codes.size) - np.repeat(bounds[:-1] - bounds[0], lengths)
        sums = np.concatenate([[np.uint64(0)], np.cumsum((codes + np.uint64(1)) * powers[within], dtype=np.uint64)])
        return sums[bounds[1:] - bounds[0]] - sums[bounds[:-1] - bounds[0]]


def _check_spans(table: pa.Table, where: str) -> None:
    start_s = pc.fill_null(table["start_s"], 0.0)
    end_s = pc.fill_null(table["end_s"], float("inf"))
    # `not (a and b)` rather than the opposite comparisons: a NaN must not pass.
    sane = pc.and_(pc.greater_equal(start_s, 0.0), pc.greater(end_s, start_s))
    row = pc.index(sane, False).as_py()
    if row >= 0:
        clip = table.slice(row, 1).to_pylist()[0]
        raise InputError(
            f"{where}: clip {clip['clip_id']!r} runs from {clip['start_s']} to {clip['end_s']} s; "
            "0 <= start_s < end_s must hold"
        )


def _read_columns(path: str, filesystem: pafs.FileSystem) -> pa.Table:
    """The known columns of a Parquet file, one after the other: decoding all at once takes twice the memory."""
    with filesystem.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        schema = file.schema_arrow
        names = [name for name in (*SCHEMA.names, *STAMPS.names) if name in schema.names]
        columns = {name: file.read([name])[name] for name in names}
        # A file without a known column still says which ones it has.
        missing = [name for name in REQUIRED_COLUMNS if name not in names]
        table = file.read() if missing else pa.table(columns)
        return table.replace_schema_metadata(schema.metadata)


def _slices(column: pa.ChunkedArray) -> Iterator[pa.Array]:
    """A column in order, `_ROWS_AT_ONCE` rows at a time: as many in each however it is chunked."""
    for start in range(0, len(column), _ROWS_AT_ONCE):
        chunks = column.slice(start, _ROWS_AT_ONCE).chunks
        yield chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)


# What JSON writes between quotes as it is.
_PLAIN = r"^[ !#-\[\]-~]*$"


def _json_values(values: pa.Array) -> bytes:
    """What `json.dumps` writes between the brackets of a list of these values; without making each a Python object
    where it can be helped."""
    kind = values.type
    if values.null_count == len(values):
        return b",".join([b"null"] * len(values))
    if values.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return _joined(values.cast(pa.string()), ",")
    if values.null_count == 0 and pa.types.is_string(kind) and pc.all(pc.match_substring_regex(values, _PLAIN)).as_py():
        return b'"' + _joined(values, '","') + b'"'
    return json.dumps(values.to_pylist(), ensure_ascii=True, separators=(",", ":"))[1:-1].encode()


def _joined(texts: pa.Array, separator: str) -> bytes:
    text: bytes = (
        pc.binary_join(pa.ListArray.from_arrays([0, len(texts)], texts), separator)[0].as_buffer().to_pybytes()
    )
    return text


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _absolute(location: str) -> str:
    location = local_path(location)
    return location if "://" in location else os.path.abspath(location)


def _folder(location: str) -> str:
    return location.rpartition("/")[0]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""What is a manifest? One Parquet table that names every clip of a data set: the only form in which data enters.

Columns, one row a clip:

| column   | type    | required | meaning                                                               |
|----------|---------|----------|-----------------------------------------------------------------------|
| clip_id  | string  | yes      | unique name of the clip                                               |
| uri      | string  | yes      | video file: absolute, `s3://...`, or relative to the manifest's folder |
| start_s  | float64 | no       | where the clip begins in the video, seconds; null: the video's start  |
| end_s    | float64 | no       | where it ends (exclusive), seconds; null: the video's end             |
| reversed | bool    | no       | the clip is played backwards; absent: false                           |
| label    | int32   | yes      | index into the class names                                            |
| split    | string  | yes      | `train`, `val`, `test` or any other name                              |
| group    | string  | no       | what a fold must not tear apart: a subject, a sequence, a camera      |

Schema metadata, JSON: `w3ray.version` (1), `w3ray.classes` (list of class names, in label order) and `w3ray.flip_map`
(object: a label -> the label of its mirror image, such as "moving left" -> "moving right"; a label that is not in it
keeps its meaning when mirrored; an empty object says that nothing is known about mirroring).
"""

import hashlib
import json
import os
import uuid
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from w3ray.errors import InputError

MANIFEST_VERSION = 1
SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("reversed", pa.bool_(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("group", pa.string()),
    ]
)
REQUIRED_COLUMNS = ("clip_id", "uri", "label", "split")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest.

    `table` has exactly the columns of SCHEMA; `location` is the Parquet file it was read from or will be written to,
    and "" while it has none (then every uri must be absolute).
    """

    table: pa.Table
    classes: tuple[str, ...]
    flip_map: dict[int, int]
    location: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def splits(self) -> dict[str, int]:
        """Clips in each split, by name."""
        counted = pc.value_counts(self.table["split"]).to_pylist()
        return {row["values"]: row["counts"] for row in sorted(counted, key=lambda row: row["values"])}

    def split(self, name: str) -> pa.Table:
        """The rows of one split.

        Raises:
            InputError: the manifest has no clip in that split; the splits it has are listed.
        """
        rows = self.table.filter(pc.equal(self.table["split"], name))
        if rows.num_rows == 0:
            known = ", ".join(f"{known} ({count})" for known, count in self.splits().items())
            raise InputError(f"{self.location or 'manifest'}: split {name!r} is empty; it has {known}")
        return rows

    def resolve(self, uri: str) -> str:
        """A uri of the table as one that can be opened from anywhere."""
        if "://" in uri or os.path.isabs(uri):
            return uri
        if not self.location:
            raise InputError(f"the relative uri {uri!r} needs a manifest with a location; write the manifest first")
        return f"{_folder(self.location)}/{uri}"

    def resolved_uris(self, rows: pa.Table | None = None) -> list[str]:
        """`resolve` for every row (of the whole table unless `rows` are given)."""
        return [self.resolve(uri) for uri in (self.table if rows is None else rows)["uri"].to_pylist()]

    def fingerprint(self) -> str:
        """SHA-256 of the rows and the metadata, as hex: the same wherever the file lies and however it is compressed.

        It covers the uris as written, not the bytes of the videos.
        """
        digest = hashlib.sha256(json.dumps(_metadata(self), sort_keys=True).encode())
        for name in SCHEMA.names:
            values = self.table[name].to_pylist()
            digest.update(json.dumps([name, values], ensure_ascii=True, separators=(",", ":")).encode())
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
        splits = self.table["split"].to_pylist()
        groups = self.table["group"].to_pylist()
        dealt = [split in ("train", "val") for split in splits]
        if any(group is None for group, take in zip(groups, dealt, strict=True) if take):
            raise InputError(f"{where}: folds need a group for every clip; import with --group or a group column")
        names = sorted({group for group, take in zip(groups, dealt, strict=True) if take})
        if len(names) < folds:
            raise InputError(f"{where}: {len(names)} groups can not be dealt into {folds} folds")
        if seed:
            names = [names[place] for place in np.random.default_rng(seed).permutation(len(names))]
        held_out = set(names[fold::folds])
        fresh = [
            split if not take else ("val" if group in held_out else "train")
            for split, group, take in zip(splits, groups, dealt, strict=True)
        ]
        place = SCHEMA.get_field_index("split")
        table = self.table.set_column(place, SCHEMA.field("split"), pa.array(fresh, pa.string()))
        return replace(self, table=table)


def build_manifest(
    columns: dict[str, list[object]],
    classes: tuple[str, ...] | list[str],
    flip_map: dict[int, int] | None = None,
    location: str = "",
) -> Manifest:
    """A checked manifest from columns in memory; the optional ones may be left out.

    Raises:
        InputError: as `read_manifest`.
    """
    arrays: dict[str, pa.Array] = {}
    for name, values in columns.items():
        if name not in SCHEMA.names:
            raise InputError(f"manifest: unknown column {name!r}; known: {', '.join(SCHEMA.names)}")
        try:
            arrays[name] = pa.array(values, SCHEMA.field(name).type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise InputError(f"manifest: column {name!r}: {error}") from error
    return _checked(pa.table(arrays), tuple(classes), dict(flip_map or {}), location)


def read_manifest(location: str | os.PathLike[str]) -> Manifest:
    """Read and check a manifest from a local path or a URI that pyarrow or fsspec knows.

    Raises:
        InputError: no such file, no Parquet file, not a manifest, a column is missing or of a wrong type, an empty
            table, a duplicate clip_id, a label outside the classes, an end before its start; says which and where.
    """
    location = _absolute(os.fspath(location))
    filesystem, path = _filesystem(location)
    try:
        kind = filesystem.get_file_info(path).type
        if kind != pafs.FileType.File:
            found = "it is a folder" if kind == pafs.FileType.Directory else "no such file"
            raise InputError(f"manifest {location}: {found}; make one with `w3ray data import` or `w3ray data synth`")
        table = pq.read_table(path, filesystem=filesystem)
    except pa.ArrowInvalid as error:
        raise InputError(f"manifest {location}: not a readable Parquet file ({_first_line(error)})") from error
    except OSError as error:
        raise InputError(f"manifest {location}: can not be read ({_first_line(error)})") from error
    metadata = {key.decode(): value for key, value in (table.schema.metadata or {}).items()}
    try:
        version = json.loads(metadata["w3ray.version"])
        classes = json.loads(metadata["w3ray.classes"])
        if not isinstance(classes, list):
            raise TypeError("the classes are no list")
        flip_map = {int(label): int(mirror) for label, mirror in json.loads(metadata["w3ray.flip_map"]).items()}
    except KeyError as error:
        raise InputError(
            f"manifest {location}: the metadata {error} is missing, so it is no w3ray manifest; "
            "make one with `w3ray data import`"
        ) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"manifest {location}: its w3ray metadata can not be read ({error})") from error
    if version != MANIFEST_VERSION:
        raise InputError(f"manifest {location}: version {version}; this w3ray reads version {MANIFEST_VERSION}")
    return _checked(table, tuple(classes), flip_map, location)


def write_manifest(manifest: Manifest, location: str | os.PathLike[str]) -> Manifest:
    """Write a manifest in one step (a reader sees the old file or the new one) and return it as written.

    Videos beneath the manifest's new folder are named relative to it, so that the folder can be moved as a whole.

    Raises:
        InputError: the place can not be written to.
    """
    location = _absolute(os.fspath(location))
    folder = _folder(location) + "/"
    uris = [uri.removeprefix(folder) for uri in manifest.resolved_uris()]
    place = SCHEMA.get_field_index("uri")
    table = manifest.table.set_column(place, SCHEMA.field("uri"), pa.array(uris, pa.string()))
    written = _checked(table, manifest.classes, manifest.flip_map, location)
    stored = written.table.replace_schema_metadata(
        {key: json.dumps(value, sort_keys=True) for key, value in _metadata(written).items()}
    )
    filesystem, path = _filesystem(location)
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            part = f"{path}.{uuid.uuid4().hex}.part"
            try:
                pq.write_table(stored, part)
                os.replace(part, path)
            finally:
                if os.path.exists(part):
                    os.remove(part)
        else:
            pq.write_table(stored, path, filesystem=filesystem)  # an object appears whole, on close
    except OSError as error:
        raise InputError(f"manifest {location}: can not be written ({_first_line(error)})") from error
    return written


def _metadata(manifest: Manifest) -> dict[str, object]:
    return {
        "w3ray.version": MANIFEST_VERSION,
        "w3ray.classes": list(manifest.classes),
        "w3ray.flip_map": {str(label): mirror for label, mirror in sorted(manifest.flip_map.items())},
    }


def _checked(table: pa.Table, classes: tuple[str, ...], flip_map: dict[int, int], location: str) -> Manifest:
    where = f"manifest {location}" if location else "manifest"
    table = _conform(table, where)
    if table.num_rows == 0:
        raise InputError(f"{where}: it has no clips")
    if not classes or not all(isinstance(name, str) and name for name in classes) or len(set(classes)) != len(classes):
        raise InputError(f"{where}: the class names must be different, non-empty strings, not {list(classes)}")
    labels = table["label"].to_numpy()
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"{where}: {wrong.size} label(s) out of range, first {labels[row]} of clip "
            f"{table['clip_id'][row].as_py()!r}; its {len(classes)} classes have the labels 0..{len(classes) - 1}"
        )
    for label, mirror in flip_map.items():
        if not (0 <= label < len(classes) and 0 <= mirror < len(classes)):
            raise InputError(f"{where}: flip_map {label} -> {mirror} is outside the labels 0..{len(classes) - 1}")
        if flip_map.get(mirror, mirror) != label:
            raise InputError(f"{where}: flip_map {label} -> {mirror} but not back; mirroring twice must change nothing")
    counts = pc.value_counts(table["clip_id"])
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise InputError(f"{where}: clip_id {repeated[0]['values'].as_py()!r} occurs {repeated[0]['counts']} times")
    _check_spans(table, where)
    return Manifest(table=table, classes=classes, flip_map=flip_map, location=location)


def _conform(table: pa.Table, where: str) -> pa.Table:
    """Exactly the columns and types of SCHEMA; missing optional columns filled, others dropped."""
    missing = [name for name in REQUIRED_COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(f"{where}: column(s) {', '.join(missing)} missing; it has {', '.join(table.column_names)}")
    columns = []
    for field in SCHEMA:
        if field.name not in table.column_names:
            filler = pa.scalar(False if field.name == "reversed" else None, field.type)
            columns.append(pa.repeat(filler, table.num_rows))
            continue
        column = table[field.name]
        same_kind = pa.types.is_null(column.type) or any(
            of_kind(column.type) and of_kind(field.type)
            for of_kind in (_is_text, pa.types.is_integer, _is_number, pa.types.is_boolean)
        )
        try:
            if not same_kind or (pa.types.is_integer(field.type) and not pa.types.is_integer(column.type)):
                raise pa.ArrowInvalid("another kind of value")
            column = column.cast(field.type)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{where}: column {field.name!r} is {table[field.name].type}, it must be {field.type} ({error})"
            ) from error
        if not field.nullable and column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise InputError(f"{where}: column {field.name!r} is empty in row {row} (of {column.null_count} such rows)")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=SCHEMA).combine_chunks()


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


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _absolute(location: str) -> str:
    if location.startswith("file://"):
        location = location.removeprefix("file://")
    return location if "://" in location else os.path.abspath(location)


def _folder(location: str) -> str:
    return location.rpartition("/")[0]


def _filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system of a location and the path within it; fsspec serves schemes pyarrow does not know."""
    if "://" not in location:
        return pafs.LocalFileSystem(), location
    try:
        return pafs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        import fsspec

        try:
            filesystem, path = fsspec.core.url_to_fs(location)
        except (ValueError, ImportError) as error:
            raise InputError(f"{location}: no file system for this address ({_first_line(error)})") from error
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

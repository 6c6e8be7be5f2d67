"""How is a manifest built from columns, read from a file and written to a file?"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from w3ray._address import local_path
from w3ray.data.manifest.checks import checked
from w3ray.data.manifest.schema import MANIFEST_VERSION, REQUIRED_COLUMNS, SCHEMA, STAMPS
from w3ray.data.manifest.table import Manifest, folder_of, metadata_of
from w3ray.errors import InputError
from w3ray.storage import file_system, replacing, storage_path
from w3ray.storage.errors import first_line


def build_manifest(
    columns: Mapping[str, list[object] | pa.ChunkedArray],
    classes: tuple[str, ...] | list[str],
    flip_map: dict[int, int] | None = None,
    location: str = "",
    head_sizes: Sequence[tuple[str, int]] = (),
    label_sets: Sequence[Sequence[int]] | None = None,
) -> Manifest:
    """A checked manifest from columns in memory; optional columns may be absent.

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
            raise InputError(f"manifest: column {name!r}: {error.object!a} is not UTF-8 text; rename it") from error
    sets = None if label_sets is None else tuple(tuple(one) for one in label_sets)
    return checked(pa.table(arrays), tuple(classes), dict(flip_map or {}), location, tuple(head_sizes), sets)


def read_manifest(location: str | os.PathLike[str]) -> Manifest:
    """Read and check a manifest from a local path or a URI that pyarrow or fsspec knows.

    Raises:
        InputError: no such file, not a Parquet file, not a manifest, a column missing or of the wrong type, an empty
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
        raise InputError(f"manifest {location}: not a readable Parquet file ({first_line(error)})") from error
    except OSError as error:
        raise InputError(f"manifest {location}: cannot be read ({first_line(error)})") from error
    metadata = {key.decode(): value for key, value in (table.schema.metadata or {}).items()}
    try:
        version = json.loads(metadata["w3ray.version"])
        classes = json.loads(metadata["w3ray.classes"])
        if not isinstance(classes, list):
            raise TypeError("the classes are no list")
        flip_map = {int(label): int(mirror) for label, mirror in json.loads(metadata["w3ray.flip_map"]).items()}
        head_sizes = tuple((str(name), int(size)) for name, size in json.loads(metadata.get("w3ray.heads", "[]")))
        label_sets = _label_sets(metadata.get("w3ray.label_sets"))
        flow, rebased = (json.loads(metadata.get(f"w3ray.{name}", "false")) is True for name in ("flow", "rebased"))
    except KeyError as error:
        raise InputError(
            f"manifest {location}: the metadata {error} is missing, so it is not a w3ray manifest; "
            "make one with `w3ray data import`"
        ) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"manifest {location}: its w3ray metadata cannot be read ({error})") from error
    if version != MANIFEST_VERSION:
        raise InputError(f"manifest {location}: version {version}; this w3ray reads version {MANIFEST_VERSION}")
    manifest = checked(table, tuple(classes), flip_map, location, head_sizes, label_sets)
    return replace(manifest, flow=flow, rebased=rebased)


def _label_sets(text: bytes | None) -> tuple[tuple[int, ...], ...] | None:
    """Raises: ValueError or TypeError if these are no lists of whole numbers."""
    if text is None:
        return None
    sets = tuple(tuple(one) for one in json.loads(text))
    if not all(type(label) is int for one in sets for label in one):
        raise TypeError("the sets of classes hold other values than class numbers")
    return sets


def write_manifest(manifest: Manifest, location: str | os.PathLike[str]) -> Manifest:
    """Write a manifest atomically (a reader sees the old file or the new one) and return it as written.

    Uris of videos below the manifest's new folder become relative to it, so that the folder can be moved as a whole.

    Raises:
        InputError: the file cannot be written.
    """
    location = _absolute(os.fspath(location))
    folder = folder_of(location) + "/"
    uris = manifest.resolved(manifest.table["uri"])
    uris = pc.if_else(pc.starts_with(uris, folder), pc.utf8_slice_codeunits(uris, len(folder)), uris)
    place = SCHEMA.get_field_index("uri")
    table = manifest.table.set_column(place, SCHEMA.field("uri"), uris)
    written = checked(table, manifest.classes, manifest.flip_map, location, manifest.head_sizes, manifest.label_sets)
    written = replace(written, flow=manifest.flow, rebased=manifest.rebased)
    stored = written.table.replace_schema_metadata(
        {key: json.dumps(value, sort_keys=True) for key, value in metadata_of(written).items()}
    )
    try:
        with replacing(storage_path(location)) as part:
            pq.write_table(stored, part)
    except OSError as error:
        raise InputError(f"manifest {location}: cannot be written ({first_line(error)})") from error
    return written


def _read_columns(path: str, filesystem: pafs.FileSystem) -> pa.Table:
    """The known columns of a Parquet file, read one by one: reading all at once takes twice the memory."""
    with filesystem.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        schema = file.schema_arrow
        names = [name for name in (*SCHEMA.names, *STAMPS.names) if name in schema.names]
        columns = {name: file.read([name])[name] for name in names}
        # If a required column is missing, read all columns, so that the error can list them.
        missing = [name for name in REQUIRED_COLUMNS if name not in names]
        table = file.read() if missing else pa.table(columns)
        return table.replace_schema_metadata(schema.metadata)


def _absolute(location: str) -> str:
    location = local_path(location)
    return location if "://" in location else os.path.abspath(location)

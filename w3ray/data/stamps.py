"""Is each video still the file that was imported?

A manifest names videos by their uri. A video that is replaced in place has other content under the same name, so stages
that were trained on the old content would count as finished. Therefore an import records a stamp of each local file:

| column      | type   | meaning                                                                 |
|-------------|--------|-------------------------------------------------------------------------|
| size        | int64  | bytes; for a folder of images: number of its entries                    |
| modified_ns | int64  | time of the last change; for a folder: when its list of entries changed |
| sha256      | string | hash of the content, if asked for; for a folder: of names and content   |

The columns are not part of the manifest's fingerprint: a manifest is the same wherever and whenever it was made. A run
looks at the files again. A file with another size, or another hash, has CHANGED: its content decides the result. A file
with another time and the same size may only have been touched or copied. A hash tells; without one the file counts as
unchanged, and the run says so. An image that is overwritten in its folder is noticed only by a hash, and only if an
entry of the folder was added or removed, too.

Videos in object storage have no stamps. Files that the import did not find have none either.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from w3ray._address import local_path
from w3ray.data.manifest import STAMPS, Manifest

_THREADS = 16
"""Looking at a file waits for the disk or the network, not for the processor."""
_AT_ONCE = 4096
"""Files in one slice: a manifest may name a hundred million, and a Python object for each would hold gigabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """The state of a file: see the columns."""

    size: int | None = None
    modified_ns: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChanges:
    """What a look at the files of a manifest found."""

    changed: tuple[str, ...] = ()
    """Uris, as in the manifest, whose content has changed."""
    touched: tuple[str, ...] = ()
    """Uris with another time, the same size and no known hash: they may have changed."""
    digest: str | None = None
    """Hex SHA-256 of the changed uris and their content now; None: nothing changed."""

    def messages(self) -> list[str]:
        """A line for each kind of finding, for people."""
        lines = []
        if self.changed:
            lines.append(
                f"{_some(self.changed)} changed since the import: stages that saw the old content are not reused"
            )
        if self.touched:
            lines.append(
                f"{_some(self.touched)} touched since the import, the size is the same: taken as unchanged; "
                "import with --hash to be sure"
            )
        return lines


def stamped(manifest: Manifest, *, content: bool = False) -> Manifest:
    """The manifest with the stamps of its local videos.

    Args:
        content: hash the files, too; reads all of them.
    """
    encoded = manifest.table["uri"].dictionary_encode().unify_dictionaries()
    uris = encoded.chunk(0).dictionary
    columns: dict[str, list[pa.Array]] = {field.name: [] for field in STAMPS}
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(uris), _AT_ONCE):
            paths = [_local(manifest, uri) for uri in uris.slice(start, _AT_ONCE).to_pylist()]
            stamps = list(pool.map(lambda path: _stamp(path, content), paths))
            for field in STAMPS:
                columns[field.name].append(pa.array([getattr(stamp, field.name) for stamp in stamps], field.type))
    table = manifest.table
    for field in STAMPS:
        of_uri = pa.concat_arrays(columns[field.name])
        of_row = pa.chunked_array([of_uri.take(chunk.indices) for chunk in encoded.chunks], field.type)
        table = _with(table, field, of_row)
    return replace(manifest, table=table)


def changes_since_import(manifest: Manifest, splits: Iterable[str]) -> FileChanges:
    """Look at the files of some splits again. Files without a stamp, and files not seen from here, are skipped."""
    names = [field.name for field in STAMPS]
    if not set(names) <= set(manifest.table.column_names):
        return FileChanges()
    wanted = pc.is_in(manifest.table["split"], pa.array(list(splits), pa.string()))
    rows = manifest.table.select(["uri", *names]).filter(pc.and_(wanted, pc.is_valid(manifest.table["modified_ns"])))
    rows = rows.group_by("uri").aggregate([(name, "min") for name in names])
    changed: dict[str, str] = {}
    touched = []
    for uri, path, before, now in _looked_at(manifest, rows):
        if now.modified_ns is None or now.modified_ns == before.modified_ns:
            continue
        if now.size == before.size and before.sha256 is None:
            touched.append(uri)
            continue
        with suppress(OSError):  # the decoder will report that it cannot be read
            if (sha256 := _sha256(path)) != before.sha256:
                changed[uri] = sha256
    text = "".join(f"{uri}\0{changed[uri]}\n" for uri in sorted(changed))
    return FileChanges(
        changed=tuple(sorted(changed)),
        touched=tuple(sorted(touched)),
        digest=hashlib.sha256(text.encode()).hexdigest() if changed else None,
    )


def _looked_at(manifest: Manifest, rows: pa.Table) -> Iterator[tuple[str, Path, Stamp, Stamp]]:
    """(uri, file, its stamp in the manifest, its stamp now) of each row that names a file of this machine."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, rows.num_rows, _AT_ONCE):
            part = rows.slice(start, _AT_ONCE).to_pylist()
            local = [(row, path) for row in part if (path := _local(manifest, row["uri"])) is not None]
            now = pool.map(lambda path: _stamp(path, content=False), [path for _, path in local])
            for (row, path), stamp in zip(local, now, strict=True):
                before = Stamp(**{field.name: row[f"{field.name}_min"] for field in STAMPS})
                yield row["uri"], path, before, stamp


def _stamp(path: Path | None, content: bool) -> Stamp:
    if path is None:
        return Stamp()
    try:
        status = path.stat()
        return Stamp(
            size=len(os.listdir(path)) if path.is_dir() else status.st_size,
            modified_ns=status.st_mtime_ns,
            sha256=_sha256(path) if content else None,
        )
    except OSError:  # an audit and every run report what cannot be read
        return Stamp()


def _sha256(path: Path) -> str:
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for image in sorted(path.iterdir()):
        if image.is_file():
            digest.update(f"{image.name}\0{_sha256(image)}\n".encode())
    return digest.hexdigest()


def _local(manifest: Manifest, uri: str) -> Path | None:
    """The file or folder of a uri on this machine; None: it is somewhere else. The prefix of frames names a folder."""
    path = local_path(manifest.resolve(uri))
    if "://" in path:
        return None
    return Path(path.rpartition("/")[0]) if path.endswith("*") else Path(path)


def _with(table: pa.Table, field: pa.Field, column: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(field.name)
    return table.append_column(field, column) if place < 0 else table.set_column(place, field, column)


def _some(uris: tuple[str, ...]) -> str:
    shown = ", ".join(os.fspath(uri) for uri in uris[:3])
    more = f" and {len(uris) - 3} more" if len(uris) > 3 else ""
    return f"{shown}{more} {'was' if len(uris) == 1 else 'were'}"

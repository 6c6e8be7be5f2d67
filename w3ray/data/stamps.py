"""Is each video still the file that was imported?

A manifest names videos by their uri. One that is replaced in place has another content under the same name, so stages
trained on it would be taken for finished. An import therefore writes down a stamp of each local file:

| column      | type   | meaning                                                                 |
|-------------|--------|-------------------------------------------------------------------------|
| size        | int64  | bytes; of a folder of images: number of its entries                     |
| modified_ns | int64  | time of the last change; of a folder: an entry came, went or was renamed |
| sha256      | string | hash of the content, where it was asked for; of a folder: of names and content |

The columns are no part of the manifest's fingerprint: a manifest is the same wherever and whenever it was made. A run
looks at the files again. A file with another size, or another hash, has CHANGED: its content decides the result. One
that was only touched, or copied, has not: for certain where there is a hash, else the run says so. An image that is
overwritten in its folder is seen by nothing but a hash, and only where an entry of the folder came or went, too.

Videos of object storage have no stamps, nor has a file that the import did not find.
"""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from w3ray._address import local_path
from w3ray.data.manifest import STAMPS, Manifest

_THREADS = 16
"""Looking at a file waits for the disk or the network, not for the processor."""
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What a file was: see the columns."""

    size: int | None = None
    modified_ns: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChanges:
    """What a look at the files of a manifest found."""

    changed: tuple[str, ...] = ()
    """Uris, as the manifest has them, whose content is another one now."""
    touched: tuple[str, ...] = ()
    """Uris with another time but the same size, of which no hash is known: changed or not."""
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
    uris = manifest.table["uri"].combine_chunks().dictionary_encode()
    stamps = list(_each([_local(manifest, uri) for uri in uris.dictionary.to_pylist()], content))
    table = manifest.table
    for field in STAMPS:
        values = pa.array([getattr(stamp, field.name) for stamp in stamps], field.type)
        table = _with(table, field, values.take(uris.indices))
    return replace(manifest, table=table)


def changes_since_import(manifest: Manifest, splits: Iterable[str]) -> FileChanges:
    """Look at the files of some splits again. Files without a stamp, or that are not seen from here, tell nothing."""
    names = [field.name for field in STAMPS]
    if not set(names) <= set(manifest.table.column_names):
        return FileChanges()
    wanted = pc.is_in(manifest.table["split"], pa.array(list(splits), pa.string()))
    rows = manifest.table.select(["uri", *names]).filter(pc.and_(wanted, pc.is_valid(manifest.table["modified_ns"])))
    rows = rows.group_by("uri").aggregate([(name, "min") for name in names])
    old = {
        uri: Stamp(size=size, modified_ns=modified_ns, sha256=sha256)
        for uri, size, modified_ns, sha256 in zip(
            *(rows[name].to_pylist() for name in ("uri", *(f"{name}_min" for name in names))), strict=True
        )
    }
    changed: dict[str, str] = {}
    touched = []
    for uri, now in zip(old, _each([_local(manifest, uri) for uri in old], content=False), strict=True):
        before, path = old[uri], _local(manifest, uri)
        if path is None or now.modified_ns is None or now.modified_ns == before.modified_ns:
            continue
        if now.size == before.size and before.sha256 is None:
            touched.append(uri)
        elif (sha256 := _sha256(path)) != before.sha256:
            changed[uri] = sha256
    text = "".join(f"{uri}\0{changed[uri]}\n" for uri in sorted(changed))
    return FileChanges(
        changed=tuple(sorted(changed)),
        touched=tuple(sorted(touched)),
        digest=hashlib.sha256(text.encode()).hexdigest() if changed else None,
    )


def _each(paths: list[Path | None], content: bool) -> Iterable[Stamp]:
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(paths), _AT_ONCE):  # a task for each of millions of files would hold gigabytes
            yield from pool.map(lambda path: _stamp(path, content), paths[start : start + _AT_ONCE])


def _stamp(path: Path | None, content: bool) -> Stamp:
    if path is None:
        return Stamp()
    try:
        status = path.stat()
    except OSError:
        return Stamp()
    return Stamp(
        size=len(os.listdir(path)) if path.is_dir() else status.st_size,
        modified_ns=status.st_mtime_ns,
        sha256=_sha256(path) if content else None,
    )


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

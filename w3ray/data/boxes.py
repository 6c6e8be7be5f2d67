"""Boxes of things in the frames of clips: one Parquet file for a manifest.

    clip_id   text     of the manifest
    time_s    float    of the frame in its video, seconds; or
    frame     integer  number of the frame in its video, from 0
    x1 y1 x2 y2        left, top, right and bottom, in shares of the frame's width and height: 0 to 1
    score     float    boxes with a higher score are taken first

A box without an area says that its frame was looked at and holds nothing. A clip needs at least one row.

Times and numbers are those of the clip's video, from its begin. A clip that `w3ray data pack` made of a part of a video
is a video of its own: its times begin at 0. Boxes of such clips have the metadata `w3ray.own_times`: `true`. Without
it they are boxes of the videos of before, and in most frames of a packed part they would be those of another moment.

In a table of clips, the boxes of a clip are one packed value in the column `BOXES_COLUMN`, so that they travel with the
rows.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from w3ray.errors import InputError
from w3ray.storage import StorageFailing, StorageRefused, storage_path

BOXES_COLUMN = "boxes"
_PLACE = ("x1", "y1", "x2", "y2")
_WHEN = ("time_s", "frame")
_PACKED = ("time_s", "frame", *_PLACE, "score")
_OWN_TIMES = b"w3ray.own_times"
_ROUNDING = 1e-3
"""A coordinate may be so far outside of 0 to 1."""

BOXES_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("time_s", pa.float32(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in (*_PLACE, "score")),
    ]
)
"""The columns that `w3ray data boxes` writes."""


class ClipBoxes(NamedTuple):
    """The P boxes of one clip."""

    when_P: np.ndarray
    """When the frame of each box is shown, seconds, or its number."""
    by_time: bool
    place_P4: np.ndarray
    score_P: np.ndarray


def unpacked(packed: bytes) -> ClipBoxes:
    """The value of the column `BOXES_COLUMN`."""
    values_PF = np.frombuffer(packed, dtype="<f4").reshape(-1, len(_PACKED))
    by_time = not np.isnan(values_PF[:, 0]).any()
    return ClipBoxes(values_PF[:, 0 if by_time else 1], by_time, values_PF[:, 2:6], values_PF[:, 6])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxFile:
    """A file of boxes, read and checked."""

    location: str
    digest: str
    """SHA-256 of the file."""
    clip_ids: pa.Array
    packed: pa.Array
    """The boxes of each of these clips."""
    own_times: bool = False
    """It was made for clips with times of their own (`Manifest.own_times`)."""
    timeless: bool = False
    """Each clip has the same boxes in all frames, as those of a grid."""

    def of(self, *names: str) -> bytes:
        """The boxes of the clip with the first of these names that is there, as in the column `BOXES_COLUMN`.

        Raises:
            InputError: none is there.
        """
        for name in names:
            place = pc.index(self.clip_ids, pa.scalar(name, self.clip_ids.type)).as_py()
            if place >= 0:
                packed: bytes = self.packed[place].as_py()
                return packed
        raise InputError(f"{self.location}: has no boxes of {names[0]}")

    def joined(self, rows: pa.Table, where: str, *, own_times: bool | None = None) -> pa.Table:
        """`rows` with the column `BOXES_COLUMN`.

        Args:
            rows: with the column `clip_id`.
            where: the manifest, for messages.
            own_times: of the manifest; None: the rows are of no manifest.

        Raises:
            InputError: a clip has no boxes, or the boxes' times are not those of the clips.
        """
        if own_times is not None and own_times != self.own_times and not self.timeless:
            ours, theirs = "before they were packed", "packed ones or flow, with times of their own"
            if self.own_times:
                ours, theirs = "after they were packed", "parts of videos with the times of before"
            raise InputError(
                f"{self.location}: its times are those of the clips {ours}, and the clips of {where} are {theirs}; "
                "make boxes of this manifest with `w3ray data boxes`"
            )
        ids = rows["clip_id"].combine_chunks() if rows.num_rows else pa.array([], pa.string())
        places = pc.index_in(ids, value_set=self.clip_ids)
        if places.null_count:
            first = ids[pc.index(pc.is_null(places), True).as_py()].as_py()
            raise InputError(
                f"{self.location}: {places.null_count} of {rows.num_rows} clips of {where} have no boxes, such as "
                f"{first!r}; make boxes of this manifest with `w3ray data boxes`"
            )
        return rows.append_column(BOXES_COLUMN, self.packed.take(places))


def read_boxes(location: str) -> BoxFile:
    """Read a file of boxes.

    Args:
        location: path or s3://...

    Raises:
        InputError: no such file, or its columns or values are wrong.
    """
    try:
        content = storage_path(location).read_bytes()
        table = pq.read_table(pa.BufferReader(content))
    except (StorageFailing, StorageRefused):
        raise
    except OSError as error:
        raise InputError(f"{location}: boxes cannot be read ({error.strerror or error})") from error
    except pa.ArrowException as error:
        raise InputError(f"{location}: not a Parquet file of boxes; `w3ray data boxes` makes one") from error
    ids, values_PF = _checked(table, location)
    encoded = ids.dictionary_encode()
    codes_P = encoded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes_P, kind="stable")
    counts = np.bincount(codes_P, minlength=len(encoded.dictionary))
    when_P = np.fmax(values_PF[order, 0], values_PF[order, 1])  # one of the two is nan
    starts = np.cumsum(counts) - counts
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64) * (4 * len(_PACKED))
    data = np.ascontiguousarray(values_PF[order]).astype("<f4")
    packed = pa.Array.from_buffers(pa.large_binary(), len(counts), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    return BoxFile(
        location=location,
        digest=hashlib.sha256(content).hexdigest(),
        clip_ids=encoded.dictionary.cast(pa.string()),
        packed=packed,
        own_times=(table.schema.metadata or {}).get(_OWN_TIMES) == b"true",
        timeless=bool((np.minimum.reduceat(when_P, starts) == np.maximum.reduceat(when_P, starts)).all()),
    )


def _checked(table: pa.Table, location: str) -> tuple[pa.Array, np.ndarray]:
    """The clips' names, and the columns `_PACKED` as float32 [P, 7]; the absent one of time and frame holds nan."""
    when = [name for name in _WHEN if name in table.column_names]
    absent = [name for name in ("clip_id", *_PLACE, "score") if name not in table.column_names]
    if absent or len(when) != 1:
        wrong = [*absent, *(() if when else ("time_s or frame",))]
        raise InputError(
            f"{location}: boxes need the columns clip_id, time_s or frame (one of them), x1, y1, x2, y2, score; "
            + (f"absent: {', '.join(wrong)}" if wrong else "it has both time_s and frame")
        )
    if table.num_rows == 0:
        raise InputError(f"{location}: holds no boxes")
    ids = table["clip_id"].combine_chunks()
    if not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)) or ids.null_count:
        raise InputError(f"{location}: clip_id must be text without absent values, not {ids.type}")
    values_PF = np.full((table.num_rows, len(_PACKED)), np.nan, dtype=np.float32)
    for name in (*when, *_PLACE, "score"):
        values_PF[:, _PACKED.index(name)] = _numbers(table, name, location)
    place_P4 = values_PF[:, 2:6]
    outside_P = ((place_P4 < -_ROUNDING) | (place_P4 > 1 + _ROUNDING)).any(axis=1)
    turned_P = (place_P4[:, 2:] < place_P4[:, :2]).any(axis=1)
    for bad_P, what in ((outside_P, "outside of 0 to 1"), (turned_P, "with x2 < x1 or y2 < y1")):
        if bad_P.any():
            row = int(bad_P.argmax())
            shown = ", ".join(f"{value:g}" for value in place_P4[row])
            raise InputError(
                f"{location}: {int(bad_P.sum())} boxes are {what}, such as ({shown}) in row {row}; "
                "coordinates are shares of the frame's width and height"
            )
    return ids, values_PF


def _numbers(table: pa.Table, name: str, location: str) -> np.ndarray:
    column = table[name]
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise InputError(f"{location}: {name} must hold numbers, not {kind}")
    values: np.ndarray = column.to_numpy()
    if column.null_count or not np.isfinite(values).all():
        raise InputError(f"{location}: {name} must hold finite numbers in all rows")
    return values


def write_boxes(path: str, rows: Sequence[dict[str, Any]] | pa.Table, *, own_times: bool = False) -> None:
    """Write a file of boxes with the columns of `BOXES_SCHEMA`.

    Args:
        path: file, or s3://...
        rows: the boxes.
        own_times: of the manifest (`Manifest.own_times`).
    """
    from w3ray.storage.writing import write_bytes

    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=BOXES_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_OWN_TIMES: b"true"} if own_times else None), sink)
    write_bytes(storage_path(path), sink.getvalue().to_pybytes())

"""How is a column of a hundred million rows processed with a few bytes of memory per row?"""

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A manifest may have a hundred million rows. Code that needs more than a few bytes per row, besides the table itself,
# processes slices of this many rows.
_ROWS_AT_ONCE = 100_000


def slices_of_rows(column: pa.ChunkedArray) -> Iterator[pa.Array]:
    """A column in order, `_ROWS_AT_ONCE` rows at a time; the slices do not depend on the column's chunks."""
    for start in range(0, len(column), _ROWS_AT_ONCE):
        chunks = column.slice(start, _ROWS_AT_ONCE).chunks
        yield chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)


def cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """`column.cast`, but in slices if it makes new strings: one array of `pa.string()` is limited to 2 GiB."""
    if column.type == kind or not pa.types.is_string(kind):
        return column.cast(kind)
    # Concatenating copies the slice: a slice still refers to its whole source, and the cast would measure all of that.
    return pa.chunked_array([pa.concat_arrays([piece, piece[:0]]).cast(kind) for piece in slices_of_rows(column)], kind)


def hash_of(texts: pa.Array) -> np.ndarray:
    """uint64 [N]: equal for equal texts, almost always different for others. A polynomial of the bytes modulo 2**64."""
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


# Texts that JSON writes between quotes without escapes.
_PLAIN = r"^[ !#-\[\]-~]*$"


def json_values(values: pa.Array) -> bytes:
    """What `json.dumps` writes between the brackets of a list of these values; if possible without a Python object for
    each value."""
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


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))

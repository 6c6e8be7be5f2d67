"""How do several label columns of a table, such as verb and noun, become the heads of a manifest and its one label?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w3ray.errors import InputError
from w3ray.heads import Heads


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumns:
    """`label` is an int32 column, null if no label of a row is known."""

    label: pa.ChunkedArray
    heads: Heads


def joined_labels(
    columns: Mapping[str, pa.ChunkedArray],
    where: str,
    *,
    classes: Mapping[str, Sequence[str]] | None = None,
    first_line: int = 2,
) -> LabelColumns:
    """The label of each row, from two or more text columns. Each column becomes a head, with its name and in its order.

    The classes of a column are those in `classes`, or else the different texts in the column, sorted. Labels that are
    all whole numbers are used as they are, and name their classes ("0", "1", ...). A row without any label is
    unlabelled.

    Args:
        columns: texts; "" or null if a label is not known.
        where: name of the table, for errors. Its first row is on line `first_line`.

    Raises:
        InputError: a row has only some of its labels, or a label that is not a class; the message names the line.
    """
    known = {name: _known(column) for name, column in columns.items()}
    _check_rows(known, where, first_line)
    parts, names, sizes = [], [], []
    for head, column in columns.items():
        of_head, places = _places(head, column, (classes or {}).get(head), where, first_line)
        parts.append(places)
        names += of_head
        sizes.append((head, len(of_head)))
    try:
        heads = Heads(tuple(names), tuple(sizes))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    absent = ~next(iter(known.values()))
    labels = pa.array(heads.joined(parts).astype(np.int32), pa.int32(), mask=absent)
    return LabelColumns(label=pa.chunked_array([labels]), heads=heads)


def _known(column: pa.ChunkedArray) -> np.ndarray:
    """bool [N]."""
    known: np.ndarray = pc.not_equal(pc.fill_null(column, ""), "").to_numpy()
    return known


def _check_rows(known: Mapping[str, np.ndarray], where: str, first_line: int) -> None:
    together = np.stack(list(known.values()))
    rows = np.flatnonzero(together.any(axis=0) & ~together.all(axis=0))
    if rows.size:
        missing = next(name for name, column in known.items() if not column[rows[0]])
        raise InputError(
            f"{where}:{first_line + int(rows[0])}: {missing!r} is empty, but the labels of a row are "
            f"{' and '.join(known)}: give all of them, or none if they are not known"
        )


def _places(
    head: str, column: pa.ChunkedArray, classes: Sequence[str] | None, where: str, first_line: int
) -> tuple[list[str], np.ndarray]:
    """The class names of a column, and int64 [N]: the index of each row's class among them, 0 if it has none."""
    found = sorted(text for text in pc.unique(column).to_pylist() if text)
    if not found:
        raise InputError(f"{where}: no row has a label in {head!r}")
    # Whole numbers are labels, as in a single column: indices of `classes`, unless they are class names themselves.
    numbers = all(text.isascii() and text.isdecimal() for text in found) and not set(found) <= set(classes or ())
    if classes is not None:
        names = list(classes)
    else:
        names = _numbered(head, found, len(column), where) if numbers else found
    texts = [str(place) for place in range(len(names))] if numbers else names
    given, column = column, _without_zeros(column) if numbers else column
    places = pc.index_in(column, pa.array(texts, pa.string()))
    unknown = pc.is_null(places).to_numpy() & _known(given)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        raise InputError(
            f"{where}:{first_line + row}: label {given[row].as_py()!r} in {head!r} is none of its {len(names)} classes"
        )
    return names, pc.fill_null(places, 0).to_numpy().astype(np.int64)


def _without_zeros(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers without leading zeros; null if there is none."""
    return pc.if_else(pc.equal(column, ""), None, column).cast(pa.int64()).cast(pa.string())


def _numbered(head: str, found: Sequence[str], num_rows: int, where: str) -> list[str]:
    num_classes = max(int(text) for text in found) + 1
    if num_classes > num_rows:
        raise InputError(
            f"{where}: label {num_classes - 1} in {head!r} with {num_rows} clips: are these labels? name the classes"
        )
    return [str(label) for label in range(num_classes)]

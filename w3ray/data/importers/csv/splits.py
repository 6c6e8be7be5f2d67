"""In which split is each clip: from a column, or assigned by group or at random?"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w3ray.data.importers._common import (
    DEALT,
    Dealing,
    no_group,
    splits_at_random,
    splits_of_groups,
)
from w3ray.data.importers.csv.batches import encoded
from w3ray.data.split_names import split_names


def one_name_each(clips: pa.Table, table: Path, note: Callable[[str], None]) -> pa.ChunkedArray:
    """The split column with one canonical name per split.

    Raises: InputError if two names differ only in case.
    """
    found, codes = encoded(clips["split"])
    names = split_names(found, str(table), synonyms=True)
    if len(set(names.values())) < len(found):
        note(f"{table}: splits: " + ", ".join(f"{name!r} is {names[name]}" for name in found))
    return pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(codes), pa.array([names[n] for n in found]))])


def dealt(
    clips: pa.Table, by: str, names: Sequence[str], codes: np.ndarray, dealing: Dealing, table: Path
) -> pa.ChunkedArray:
    """A new split column, assigned by "group", or at "random" within each class.

    Args:
        names, codes: the distinct labels, and each row's index in them.
    """
    if by == "group":
        return _dealt_by_group(clips, dealing, str(table))
    return _dealt_at_random(clips, names, codes, dealing)


def _dealt_by_group(clips: pa.Table, dealing: Dealing, where: str) -> pa.ChunkedArray:
    if clips["group"].null_count:
        first = pc.index(pc.is_null(clips["group"]), True).as_py()
        raise no_group(clips["path"][first].as_py(), where)
    names, codes = encoded(clips["group"])
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

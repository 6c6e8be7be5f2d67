"""What is the label of each clip, and what do the labels mean?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from w3ray.data.importers._common import (
    flip_labels,
)
from w3ray.data.importers._label_columns import joined_labels
from w3ray.data.importers.csv.batches import BETWEEN_LABELS
from w3ray.errors import InputError
from w3ray.heads import Heads


class Labelled(NamedTuple):
    """The label of each clip, and the meaning of the labels. `flip_map` is one of classes."""

    label: pa.ChunkedArray
    heads: Heads
    flip_map: dict[int, int]


def labels_of(
    clips: pa.Table,
    heads: Sequence[str],
    names: Sequence[str],
    codes: np.ndarray,
    classes: Sequence[str] | None,
    flip_map: Mapping[str, str] | Literal["identity"] | None,
    table: Path,
) -> Labelled:
    """The labels of the clips.

    Args:
        heads: the columns that hold the labels.
        names, codes: the distinct labels as texts (joined if there are several heads), and each row's index in them.
        classes, flip_map: as `import_csv` takes them.
    """
    if len(heads) > 1:
        return _several_labels(heads, names, codes, classes, flip_map, str(table))
    return _one_label(names, codes, classes, flip_map, clips["line"], table)


def _several_labels(
    heads: Sequence[str],
    combinations: Sequence[str],
    codes: np.ndarray,
    classes: Sequence[str] | None,
    flip_map: Mapping[str, str] | Literal["identity"] | None,
    where: str,
) -> Labelled:
    """The labels of each head, from the distinct texts that `ToBatch` joined and each row's index in them."""
    if classes is not None:
        raise InputError(f"{where}: class names are taken from the columns {', '.join(heads)}; leave classes out")
    if flip_map not in (None, "identity"):
        raise InputError(f"{where}: with several labels the flip map must be 'identity': a mirror image keeps them")
    parts = [text.split(BETWEEN_LABELS) for text in combinations]
    columns = {
        head: pa.chunked_array([pa.array([part[place] for part in parts], pa.string()).take(pa.array(codes))])
        for place, head in enumerate(heads)
    }
    found = joined_labels(columns, where)
    flip = {} if flip_map is None else {label: label for label in range(found.heads.num_scores)}
    return Labelled(found.label, found.heads, flip)


def _one_label(
    found: Sequence[str],
    codes: np.ndarray,
    classes: Sequence[str] | None,
    flip_map: Mapping[str, str] | Literal["identity"] | None,
    lines: pa.ChunkedArray,
    table: Path,
) -> Labelled:
    names, labels = _name_classes(found, codes, classes, lines, table)
    flip = flip_labels(flip_map, {name: label for label, name in enumerate(names)})
    return Labelled(pa.chunked_array([labels]), Heads(tuple(names)), flip)


def _name_classes(
    found: Sequence[str], codes: np.ndarray, classes: Sequence[str] | None, lines: pa.ChunkedArray, table: Path
) -> tuple[list[str], pa.Array]:
    """All class names in label order, and the label of each clip. Whole numbers are labels, other texts are names."""
    if classes is None and not all(label.isdecimal() for label in found):
        classes = sorted(found)
    if classes is not None and set(found) <= set(classes):
        label_of = {name: label for label, name in enumerate(classes)}
        return list(classes), pa.array(np.array([label_of[name] for name in found], np.int32)[codes])
    if classes is not None and not all(label.isdecimal() for label in found):
        code = next(code for code, name in enumerate(found) if name not in set(classes))
        line = lines[int(np.argmax(codes == code))]
        raise InputError(f"{table}:{line}: label {found[code]!r} is not one of the classes {', '.join(classes)}")
    num_classes = max(int(label) for label in found) + 1
    if classes is None and num_classes > len(codes):
        raise InputError(
            f"{table}: label {num_classes - 1} with {len(codes)} clips: are these labels? name the classes"
        )
    names = [str(label) for label in range(num_classes)] if classes is None else list(classes)
    if num_classes > len(names):
        raise InputError(f"{table}: label {num_classes - 1} is out of range for {len(names)} classes")
    return names, pa.array(np.array([int(label) for label in found], np.int32)[codes])

"""How does one cell name several classes of a clip, as in "run|jump"? The clips are then multi-label."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from w3ray._nearest import did_you_mean
from w3ray.data.importers._common import flip_labels
from w3ray.data.importers.csv.labels import Labelled
from w3ray.data.manifest.table import mirrored_set
from w3ray.errors import InputError
from w3ray.heads import Heads

USUAL_SEPARATOR = "|"

_NAMES_SHOWN = 10


def separates(found: Sequence[str], classes: Sequence[str] | None) -> bool:
    """Whether a `|` in labels stands between classes, and is not a part of their names.

    With `classes`: it does if a label is not one of them. Without: it does if all parts are whole numbers, or a label
    is "|" alone; or if labels have different numbers of parts, and a part of one of them is also in another one.

    Args:
        found: the different labels.
        classes: the class names, if they are known.
    """
    several = [text for text in found if USUAL_SEPARATOR in text]
    if not several:
        return False
    if classes is not None:
        return not set(several) <= set(classes)
    parts = {text: parts_of(text, USUAL_SEPARATOR) for text in found}
    if not all(parts.values()) or all(part.isdecimal() for named in parts.values() for part in named):
        return True
    in_labels = Counter(part for named in parts.values() for part in set(named))
    recurs = any(in_labels[part] > 1 for text in several for part in parts[text])
    return recurs and len({len(named) for named in parts.values()}) > 1


def parts_of(text: str, separator: str) -> list[str]:
    """The class names in a cell. A cell of separators alone, such as "|", names none."""
    return [part for part in (part.strip() for part in text.split(separator)) if part]


def labels_of_sets(
    found: Sequence[str],
    codes: np.ndarray,
    separator: str,
    classes: Sequence[str] | None,
    flip_map: Mapping[str, str] | Literal["identity"] | None,
    lines: pa.ChunkedArray,
    table: Path,
) -> Labelled:
    """The labels of multi-label clips: indices of sets of classes.

    With a flip map, the mirror images of the sets are there, too, because training may show them.

    Args:
        found, codes: the different cells, and each row's index in them.
        separator: stands between two classes of a cell.
        classes: the class names in label order. None: the names in the cells, sorted.
        flip_map: as `import_csv` takes it.
        lines: of the rows.

    Raises:
        InputError: a cell names an unknown class; says the line.
    """
    named = [parts_of(text, separator) for text in found]
    every = sorted({part for parts in named for part in parts})
    if not every:
        raise InputError(f"{table}: no label names a class")
    numbers = all(part.isdecimal() for part in every)
    names = _numbered(every, len(codes), table) if numbers and classes is None else list(classes or every)
    label_of = {name: label for label, name in enumerate(names)}
    if numbers and not set(every) <= set(names):  # as with one class in a cell: whole numbers are class numbers
        label_of = {str(label): label for label in range(len(names))}
        named = [[str(int(part)) for part in parts] for parts in named]
    for code, parts in enumerate(named):
        if unknown := [part for part in parts if part not in label_of]:
            line = lines[int(np.argmax(codes == code))]
            shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
            raise InputError(
                f"{table}:{line}: label {found[code]!r}: {unknown[0]!r} is not one of the {len(names)} classes; "
                f"{did_you_mean(unknown[0], names)}known: {shown}"
            )
    sets = [tuple(sorted({label_of[part] for part in parts})) for parts in named]
    flip = flip_labels(flip_map, {name: label for label, name in enumerate(names)})
    label_sets = sorted({*sets, *(mirrored_set(one, flip) for one in sets)})
    place = {one: label for label, one in enumerate(label_sets)}
    labels = np.array([place[one] for one in sets], np.int32)[codes]
    heads = Heads(tuple(names), label_sets=tuple(label_sets))
    return Labelled(pa.chunked_array([pa.array(labels)]), heads, flip)


def _numbered(found: Sequence[str], num_rows: int, table: Path) -> list[str]:
    num_classes = max(int(part) for part in found) + 1
    if num_classes > num_rows:
        raise InputError(f"{table}: label {num_classes - 1} with {num_rows} clips: are these labels? name the classes")
    return [str(label) for label in range(num_classes)]


def rarest_classes(labelled: Labelled) -> tuple[list[str], np.ndarray]:
    """By which class is each multi-label clip dealt into splits? By the one that the fewest clips have.

    So each class gets about its share of a split. Clips without a class are dealt together.

    Returns:
        Names, and each row's index in them.
    """
    assert labelled.heads.label_sets is not None
    sets = labelled.heads.label_sets
    labels = labelled.label.to_numpy()
    clips_K = labelled.heads.clips_of_classes(np.bincount(labels, minlength=len(sets)).tolist())
    nobody = len(clips_K)
    rarest_S = np.array([min(one, key=lambda label: (clips_K[label], label), default=nobody) for one in sets])
    return [*labelled.heads.classes, ""], rarest_S[labels].astype(np.int32)

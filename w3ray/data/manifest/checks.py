"""Is a table a valid manifest: does it have all columns with the right types, and are its rows consistent?"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w3ray.data.manifest._columns import cast, hash_of, is_number, is_text, slices_of_rows
from w3ray.data.manifest.schema import REQUIRED_COLUMNS, SCHEMA, STAMPS
from w3ray.data.manifest.table import Manifest
from w3ray.errors import InputError
from w3ray.heads import Heads


def checked(
    table: pa.Table,
    classes: tuple[str, ...],
    flip_map: dict[int, int],
    location: str,
    head_sizes: tuple[tuple[str, int], ...],
    label_sets: tuple[tuple[int, ...], ...] | None = None,
) -> Manifest:
    where = f"manifest {location}" if location else "manifest"
    table = _conform(table, where)
    if table.num_rows == 0:
        raise InputError(f"{where}: it has no clips")
    heads = _heads(classes, head_sizes, label_sets, where)
    _check_labels(table, heads, where)
    for label, mirror in flip_map.items():
        if not (0 <= label < len(classes) and 0 <= mirror < len(classes)):
            raise InputError(f"{where}: flip_map {label} -> {mirror} is outside the labels 0..{len(classes) - 1}")
        if flip_map.get(mirror, mirror) != label:
            raise InputError(f"{where}: flip_map {label} -> {mirror} but not back; mirroring twice must change nothing")
        if head_sizes and mirror != label:
            raise InputError(
                f"{where}: flip_map {label} -> {mirror}: with several heads a mirror image keeps its labels"
            )
    _check_unique(table["clip_id"], where)
    _check_spans(table, where)
    manifest = Manifest(
        table=table,
        classes=classes,
        flip_map=flip_map,
        location=location,
        head_sizes=head_sizes,
        label_sets=label_sets,
    )
    _check_mirrored_sets(manifest, where)
    return manifest


def _check_mirrored_sets(manifest: Manifest, where: str) -> None:
    try:
        _ = manifest.label_flips
    except KeyError as error:
        missing = ", ".join(manifest.classes[label] for label in error.args[0])
        raise InputError(
            f"{where}: flip_map: the set of classes {missing!r} is the mirror image of another set, but it is not in "
            "label_sets; add it there"
        ) from error


def _heads(
    classes: tuple[str, ...],
    head_sizes: tuple[tuple[str, int], ...],
    label_sets: tuple[tuple[int, ...], ...] | None,
    where: str,
) -> Heads:
    """The heads; the class names of each head must be different, non-empty strings."""
    if not classes:
        raise InputError(f"{where}: it has no class names")
    try:
        heads = Heads(classes, head_sizes, label_sets)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {error}") from error
    for head in heads.each():
        names = head.classes
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
            of = f" of {head.name!r}" if head.name else ""
            raise InputError(f"{where}: the class names{of} must be different, non-empty strings, not {list(names)}")
    return heads


def _check_labels(table: pa.Table, heads: Heads, where: str) -> None:
    labels = pc.fill_null(table["label"], 0).to_numpy()
    wrong = np.flatnonzero((labels < 0) | (labels >= heads.num_labels))
    if wrong.size:
        row = int(wrong[0])
        known = f"its {len(heads.classes)} classes" if not heads.several else f"the combinations of {dict(heads.sizes)}"
        known = "its sets of classes" if heads.multi_label else known
        raise InputError(
            f"{where}: {wrong.size} label(s) out of range, first {labels[row]} of clip "
            f"{table['clip_id'][row].as_py()!r}; {known} have the labels 0..{heads.num_labels - 1}"
        )


def _conform(table: pa.Table, where: str) -> pa.Table:
    """Convert to the columns and types of SCHEMA and STAMPS; fill missing optional columns, drop unknown ones."""
    missing = [name for name in REQUIRED_COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(f"{where}: column(s) {', '.join(missing)} missing; it has {', '.join(table.column_names)}")
    columns = []
    stamps = [field for field in STAMPS if field.name in table.column_names]
    for field in (*SCHEMA, *stamps):
        if field.name not in table.column_names:
            filler = pa.scalar(False if field.name == "reversed" else None, field.type)
            columns.append(pa.chunked_array([pa.repeat(filler, table.num_rows)]))
            continue
        column = table[field.name]
        same_kind = pa.types.is_null(column.type) or any(
            of_kind(column.type) and of_kind(field.type)
            for of_kind in (is_text, pa.types.is_integer, is_number, pa.types.is_boolean)
        )
        try:
            if not same_kind or (pa.types.is_integer(field.type) and not pa.types.is_integer(column.type)):
                raise pa.ArrowInvalid("another kind of value")
            column = cast(column, field.type)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{where}: column {field.name!r} is {table[field.name].type}, it must be {field.type} ({error})"
            ) from error
        if not field.nullable and column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise InputError(f"{where}: column {field.name!r} is empty in row {row} (of {column.null_count} such rows)")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema([*SCHEMA, *stamps]))


def _check_unique(clip_ids: pa.ChunkedArray, where: str) -> None:
    """Compare one 64-bit hash per row; compare the texts only for rows whose hash occurs more than once."""
    hashes = np.concatenate([hash_of(piece) for piece in slices_of_rows(clip_ids)])
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not repeated.size:
        return
    counts = pc.value_counts(clip_ids.filter(pa.array(np.isin(hashes, repeated))))
    counts = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(counts):
        raise InputError(f"{where}: clip_id {counts[0]['values'].as_py()!r} occurs {counts[0]['counts']} times")


def _check_spans(table: pa.Table, where: str) -> None:
    start_s = pc.fill_null(table["start_s"], 0.0)
    end_s = pc.fill_null(table["end_s"], float("inf"))
    # `not (a and b)` instead of the opposite comparisons, so that a NaN does not pass.
    sane = pc.and_(pc.greater_equal(start_s, 0.0), pc.greater(end_s, start_s))
    row = pc.index(sane, False).as_py()
    if row >= 0:
        clip = table.slice(row, 1).to_pylist()[0]
        raise InputError(
            f"{where}: clip {clip['clip_id']!r} runs from {clip['start_s']} to {clip['end_s']} s; "
            "0 <= start_s < end_s must hold"
        )

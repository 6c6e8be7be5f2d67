"""How do the rows of a CSV file become a manifest?"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from w3ray.data.importers._common import (
    Dealing,
    check_text,
    group_finder,
)
from w3ray.data.importers._looking import current, find_missing, not_listed, not_there, slices_of
from w3ray.data.importers.csv.batches import CLIPS, ToBatch, encoded
from w3ray.data.importers.csv.columns import Columns, check_header, label_columns, taken_for, what_it_has
from w3ray.data.importers.csv.label_sets import USUAL_SEPARATOR, labels_of_sets, rarest_classes, separates
from w3ray.data.importers.csv.labels import Labelled, labels_of
from w3ray.data.importers.csv.rows import opened_rows
from w3ray.data.importers.csv.splits import dealt, one_name_each
from w3ray.data.manifest import Manifest, build_manifest
from w3ray.errors import InputError


def import_csv(
    source: str | os.PathLike[str],
    *,
    root: str | None = None,
    columns: Columns | None = None,
    header: Sequence[str] | None = None,
    delimiter: str | None = None,
    split: Literal["column", "group", "random"] | None = None,
    group: str | None = None,
    dealing: Dealing | None = None,
    classes: Sequence[str] | None = None,
    flip_map: Mapping[str, str] | Literal["identity"] | None = None,
    missing_ok: bool = False,
    frame_prefix: str | None = None,
    label_separator: str | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Import every row of a CSV. The CSV has a header line, or `header` names its columns.

    Args:
        source: the CSV file.
        root: base of relative paths, a folder or an address such as `s3://bucket/clips`; None: the CSV's folder.
        columns: names of the columns.
        header: for a file without a header line: the names of all columns in order; "num_frames" and "_" are not read.
            If the first line consists of exactly these names, it is skipped as a header.
        delimiter: the character between two values; " " means any blanks. None: a comma; for a file without a header
            the comma, tab, semicolon or blanks that split its first line into as many values as there are names.
        split: "column" reads the split column; "group" and "random" assign splits as `dealing` says; None: the column
            if there is one, else "random".
        group: regular expression with one capture group, applied to the path; None: the group column if there is one.
        classes: the class names in label order. None: the names in the CSV, sorted. If all labels are whole numbers,
            they are used unchanged and their classes are named "0", "1", ... The same holds for each of several label
            columns.
        flip_map: class -> class of its mirror image, or "identity": a mirrored clip keeps its class.
        missing_ok: do not check whether the videos exist (videos at web addresses are never checked).
        label_separator: stands between the classes of a multi-label clip in its label, such as "|" in "run|jump"; "":
            a label is one class. None: "|", if the labels show that it does (`label_sets.separates`).
        frame_prefix: as in `import_folder`, for all paths without the name of a video file.
        note: receives a line that tells what each column was used for, and a line about a "|" in labels.

    Raises:
        InputError: a file, column, value or video is missing or unusable; names the line.
    """
    table = Path(os.path.abspath(source))
    columns = columns or Columns()
    if delimiter is not None and len(delimiter) != 1:
        raise InputError(f"delimiter {delimiter!r} must be one character")
    if header is not None:
        check_header(header, columns)
    find_group = None if group is None else group_finder(group, str(table))
    with opened_rows(table, delimiter, header, columns.path) as rows:
        if not rows.header:
            raise _no_rows(table)
        for needed in (columns.path, *label_columns(columns.label, rows.header)):
            if needed not in rows.header:
                raise InputError(f"{table}: no column {needed!r}; {what_it_has(rows, delimiter)}")
        if split is None:
            split = "column" if columns.split in rows.header else "random"
        if split == "column" and columns.split not in rows.header:
            raise InputError(f"{table}: no column {columns.split!r}; it has {', '.join(rows.header)}")
        folder = str(table.parent) if root is None else root if "://" in root else os.path.abspath(root)
        check_text(folder)
        to_batch = ToBatch(table, columns, rows.header, folder, split == "column", find_group, frame_prefix)
        clips = pa.Table.from_batches([to_batch(*chunk) for chunk in rows.chunks()], CLIPS)
    if not clips.num_rows:
        raise _no_rows(table)
    note(taken_for(rows, columns, table, {"split": split == "column", "group": group is None}))
    names, codes = encoded(clips["label"])
    heads = label_columns(columns.label, rows.header)
    if separator := _separator(heads, names, classes, label_separator, table, note):
        labelled = labels_of_sets(names, codes, separator, classes, flip_map, clips["line"], table)
        names, codes = rarest_classes(labelled)
    else:
        labelled = labels_of(clips, heads, names, codes, classes, flip_map, table)
    if split == "column":
        splits = one_name_each(clips, table, note)
    else:
        splits = dealt(clips, split, names, codes, dealing or Dealing(), table)
    manifest = _manifest(clips, labelled, splits)
    if not missing_ok and not current().skip:
        _check_there(clips, table)
    return manifest


def _manifest(clips: pa.Table, labelled: Labelled, splits: pa.ChunkedArray) -> Manifest:
    columns = {name: clips[name] for name in ("clip_id", "uri", "start_s", "end_s", "group")}
    return build_manifest(
        {**columns, "label": labelled.label, "split": splits},
        labelled.heads.classes,
        labelled.flip_map,
        head_sizes=labelled.heads.sizes,
        label_sets=labelled.heads.label_sets,
    )


def _separator(
    heads: Sequence[str],
    found: Sequence[str],
    classes: Sequence[str] | None,
    given: str | None,
    table: Path,
    note: Callable[[str], None],
) -> str:
    """What stands between the classes of a label; "": a label is one class."""
    if len(heads) > 1:
        if given:
            raise InputError(
                f"{table}: a label separator is for one label column, not for {' and '.join(heads)}; leave it out"
            )
        return ""
    if given is not None:
        return given
    if separates(found, classes):
        note(
            f"{table}: multi-label: {USUAL_SEPARATOR!r} stands between the classes of a clip (--label-separator '': it "
            "is a part of class names)"
        )
        return USUAL_SEPARATOR
    if any(USUAL_SEPARATOR in text for text in found):
        note(
            f"{table}: {USUAL_SEPARATOR!r} is a part of class names (--label-separator '{USUAL_SEPARATOR}': it stands "
            "between the classes of a clip)"
        )
    return ""


def _no_rows(table: Path) -> InputError:
    return InputError(f"{table}: it has no rows below its header")


def _check_there(clips: pa.Table, table: Path) -> None:
    uris = clips["uri"]
    if pc.any(pc.match_substring(uris, "*")).as_py():  # for frames with a prefix, check the folder
        uris = pc.replace_substring_regex(uris, r"/[^/?]*\*(\?|$)", r"\1")
    missing = find_missing(
        slices_of(uri for chunk in uris.chunks for uri in chunk.to_pylist()),
        lambda places: uris.take(pa.array(places)).to_pylist(),
        len(uris),
        local=not_there,
        remote=not_listed,
        key=str,
        question="a file or folder",
    )
    if len(missing):
        first = int(missing[0])
        raise InputError(
            f"{table}:{clips['line'][first]}: no file or folder {uris[first]} ({len(missing)} of {len(uris)} are "
            "missing); give the folder of the videos as root, or allow missing ones"
        )

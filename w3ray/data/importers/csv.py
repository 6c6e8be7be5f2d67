"""A CSV file into a manifest: one row a clip, with path and label, and perhaps split, group, start and end."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from w3ray.data.importers._common import (
    Clip,
    Dealing,
    deal_at_random,
    deal_by_group,
    split_name,
    to_manifest,
    with_groups,
)
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The names of the CSV's columns; all but path and label may be absent from the file. start and end in seconds."""

    path: str = "path"
    label: str = "label"
    split: str = "split"
    group: str = "group"
    start: str = "start"
    end: str = "end"


def import_csv(
    source: str | os.PathLike[str],
    *,
    root: str | None = None,
    columns: Columns | None = None,
    delimiter: str = ",",
    split: Literal["column", "group", "random"] | None = None,
    group: str | None = None,
    dealing: Dealing | None = None,
    classes: Sequence[str] | None = None,
    flip_map: Mapping[str, str] | Literal["identity"] | None = None,
    missing_ok: bool = False,
) -> Manifest:
    """Every row of a CSV with a header line.

    Args:
        source: the CSV file.
        root: what paths are relative to, a folder or an address such as `s3://bucket/clips`; None: the CSV's folder.
        columns: the columns' names.
        delimiter: the character between two values.
        split: "column" reads the split column, "group" and "random" deal as `dealing` says; None: the column where
            there is one, else "random".
        group: regular expression with one capture on the path; None: the group column where there is one.
        classes: the class names in label order. None: the names in the CSV, sorted; labels that are all whole numbers
            are taken as they are and name their classes ("0", "1", ...).
        flip_map: class -> class of its mirror image, or "identity": a mirrored clip keeps its class.
        missing_ok: do not look whether the videos exist (they are never looked for at a remote address).

    Raises:
        InputError: file, column, value or video missing or unusable; names the line.
    """
    table = Path(os.path.abspath(source))
    columns = columns or Columns()
    rows, header = _rows(table, delimiter)
    for needed in (columns.path, columns.label):
        if needed not in header:
            raise InputError(f"{table}: no column {needed!r}; it has {', '.join(header)}")
    if split is None:
        split = "column" if columns.split in header else "random"
    if split == "column" and columns.split not in header:
        raise InputError(f"{table}: no column {columns.split!r}; it has {', '.join(header)}")
    folder = str(table.parent) if root is None else root if "://" in root else os.path.abspath(root)
    clips = [_clip(row, columns, folder, f"{table}:{line}", split == "column") for line, row in rows]
    if not missing_ok and "://" not in folder:
        missing = [(line, clip) for (line, _), clip in zip(rows, clips, strict=True) if not os.path.exists(clip.uri)]
        if missing:
            line, clip = missing[0]
            raise InputError(
                f"{table}:{line}: no file or folder {clip.uri} ({len(missing)} of {len(clips)} are missing); "
                "give the folder of the videos as root, or allow missing ones"
            )
    if group is not None:
        clips = with_groups(clips, group, str(table))
    dealing = dealing or Dealing()
    if split == "group":
        clips = deal_by_group(clips, dealing, str(table))
    elif split == "random":
        clips = deal_at_random(clips, dealing)
    clips, classes = _name_classes(clips, classes, table)
    return to_manifest(clips, classes, flip_map)


def _rows(table: Path, delimiter: str) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    if len(delimiter) != 1:
        raise InputError(f"delimiter {delimiter!r} must be one character")
    try:
        with open(table, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(f"{table}:{reader.line_num}: not {len(header)} values, as the header has")
                rows.append((reader.line_num, {name: value.strip() for name, value in row.items()}))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: can not be read as CSV: {error}") from error
    if not rows:
        raise InputError(f"{table}: it has no rows below its header")
    return rows, header


def _clip(row: Mapping[str, str], columns: Columns, folder: str, where: str, needs_split: bool) -> Clip:
    path, label = row[columns.path].replace("\\", "/"), row[columns.label]
    if not path or not label:
        raise InputError(f"{where}: {(columns.label if path else columns.path)!r} is empty")
    split = split_name(row[columns.split]) if needs_split else None
    if needs_split and not split:
        raise InputError(f"{where}: {columns.split!r} is empty")
    if "://" in path or os.path.isabs(path):
        uri = path
    else:
        uri = f"{folder}/{path}" if "://" in folder else os.path.normpath(os.path.join(folder, path))
    return Clip(
        path=path,
        uri=uri,
        label=label,
        split=split,
        group=row.get(columns.group) or None,
        start_s=_seconds(row, columns.start, where),
        end_s=_seconds(row, columns.end, where),
    )


def _seconds(row: Mapping[str, str], column: str, where: str) -> float | None:
    text = row.get(column)
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{where}: {column!r} must be seconds, not {text!r}") from error


def _name_classes(clips: list[Clip], classes: Sequence[str] | None, table: Path) -> tuple[list[Clip], list[str]]:
    """Labels as class names, and all the names in label order. Whole numbers are labels, anything else is a name."""
    found = {clip.label for clip in clips}
    if classes is not None and found <= set(classes):
        return clips, list(classes)
    if not all(label.isdecimal() for label in found):
        if classes is None:
            return clips, sorted(found)
        unknown = sorted(found - set(classes))
        raise InputError(f"{table}: label {unknown[0]!r} is none of the classes {', '.join(classes)}")
    num_classes = max(int(label) for label in found) + 1
    if classes is None and num_classes > len(clips):
        raise InputError(
            f"{table}: label {num_classes - 1} with {len(clips)} clips: are these labels? name the classes"
        )
    names = [str(label) for label in range(num_classes)] if classes is None else list(classes)
    if num_classes > len(names):
        raise InputError(f"{table}: label {num_classes - 1} is out of range for {len(names)} classes")
    return [replace(clip, label=names[int(clip.label)]) for clip in clips], names

"""What is each column of a CSV file used for?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from w3ray._nearest import did_you_mean
from w3ray.data.clip_files import is_video
from w3ray.data.importers.csv.rows import SEPARATORS, Rows
from w3ray.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The names of the CSV's columns. Only path and label must be in the file. start and end are in seconds.

    If a clip has several labels, `label` holds their columns, joined with a plus: "verb+noun". Each one is a head.
    """

    path: str = "path"
    label: str = "label"
    split: str = "split"
    group: str = "group"
    start: str = "start"
    end: str = "end"

    def known(self) -> dict[str, str]:
        """The use of each column, by its name."""
        labels = dict.fromkeys(self.label.split("+"), "label")
        others = {self.split: "split", self.group: "group", self.start: "start", self.end: "end"}
        return {self.path: "path"} | labels | others


NOT_READ = ("num_frames", "_")
"""Names for unused columns in a file without a header; "_" may occur several times."""


def label_columns(label: str, header: Sequence[str]) -> list[str]:
    """The columns that hold the labels; a column whose own name has a plus is a single column."""
    return [label] if label in header else label.split("+")


def check_header(header: Sequence[str], columns: Columns) -> None:
    """Raises: InputError if a name occurs twice or is not a known column."""
    known = columns.known()
    for place, name in enumerate(header):
        if name in header[:place] and name != "_":
            raise InputError(f"columns: {name!r} occurs twice; name a column that is not read '_'")
        if name not in known and name not in NOT_READ:
            hint = did_you_mean(name, [*known, *NOT_READ])
            raise InputError(f"columns: {name!r} is unknown; {hint}known: {', '.join([*known, *NOT_READ])}")


def what_it_has(rows: Rows, delimiter: str | None) -> str:
    """What a file has instead of a required column, and what to do if its first line is not a header."""
    if rows.separator is not None:
        return f"it has {', '.join(rows.header)}"
    if not _looks_like_a_clip(rows.header, delimiter):
        return (
            f"it has {', '.join(rows.header)}; map the columns with --columns path=...,label=..., or, if that is not a "
            "header, name all columns in order: --columns path,label"
        )
    values = _values(rows.first_line, delimiter)
    names = {2: "path,label", 4: "path,label,start,end"}.get(len(values), "path,label,...")
    if len(values) == 3:
        names = "path,num_frames,label" if values[1].isdecimal() else "path,label,split"
    return (
        f"its first line is {rows.first_line!r}: if that is a clip and not a header, name all columns in order: "
        f"--columns {names} ('_' for a column that is not read)"
    )


def _looks_like_a_clip(header: Sequence[str], delimiter: str | None) -> bool:
    values = [value for text in header for value in (text.split() if delimiter is None else [text])]
    return any("/" in value or is_video(value) or value.replace(".", "", 1).isdecimal() for value in values)


def _values(line: str, delimiter: str | None) -> list[str]:
    separators = (",", "\t", ";") if delimiter is None else (delimiter,)
    found = max((line.split(one) for one in separators), key=len)
    return found if len(found) > 1 else line.split()


def taken_for(rows: Rows, columns: Columns, table: Path, reads: Mapping[str, bool]) -> str:
    """One line with the use of each column of a file. `reads` tells which optional columns are read."""
    known = columns.known()
    if columns.label in rows.header:  # a column whose own name has a plus
        known[columns.label] = "label"
    taken, aside = [], []
    for place, name in enumerate(rows.header):
        if name not in known or not reads.get(known[name], True):
            aside.append(repr(name) if rows.separator is None else f"column {place + 1}")
        elif rows.separator is None:
            taken.append(f"{known[name]} from {name!r}")
        else:
            labels = f" {name!r}" if known[name] == "label" and name != "label" else ""
            taken.append(f"{known[name]}{labels} from column {place + 1} ({rows.first_row[place]!r})")
    how = "" if rows.separator is None else f"no header, values separated by {SEPARATORS[rows.separator]}; "
    return f"{table}: {how}{', '.join(taken)}" + (f"; not read: {', '.join(aside)}" if aside else "")

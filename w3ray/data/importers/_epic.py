"""What the importers of EPIC-KITCHENS-55 and -100 share: CSV files with one row per segment of an untrimmed video.

A row gives the position of its segment twice: as times (`start_timestamp`, `stop_timestamp`) and as frame numbers
(`start_frame`, `stop_frame`). The frame numbers belong to the distributed frames. These were extracted at 59.94 frames
per second from most videos, at 50 from the later ones, and at 60 from videos with another frame rate (29.97, 47.95 or
90, such as P10_04, P17_01 and P18_09): there the numbers are not the video's own frames. So a clip of a video is cut by
its times, and a clip of a folder of frames by its frame numbers, both ends included.
"""

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from w3ray.data.importers._published import Note, check_classes, find_file, read_text
from w3ray.errors import InputError
from w3ray.published_sets import EPIC_KITCHENS_55, EPIC_KITCHENS_100, PublishedSet

_TIME = re.compile(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")

_VIDEO = re.compile(r"(P\d\d)_\d{2,3}")

# Timestamps have two decimals. In each data set one segment ends after its video, by 0.02 s.
ROUNDING_S = 0.1

_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """The differences between the two data sets."""

    command: str
    prefix: str
    """Prefix of the file names."""
    key: str
    """Column with a segment's name."""
    class_columns: tuple[str, str]
    """Columns with the number and the name of a class."""
    video_column: str
    """Column with a video's name, in the list of videos."""
    marks: frozenset[str]
    """Columns that the other data set's files do not have."""
    published: PublishedSet
    remote_place: str
    """Path of a video in the distribution; used for web addresses, which are not searched."""

    @property
    def name(self) -> str:
        return self.published.title

    @property
    def other(self) -> "Version":
        """The other data set, whose files a user may give by mistake."""
        return EPIC_100 if self is EPIC_55 else EPIC_55


EPIC_55 = Version(
    command="epic-kitchens-55", prefix="EPIC_", key="uid",
    class_columns=("{kind}_id", "class_key"), video_column="video", marks=frozenset({"class_key", "video"}),
    published=EPIC_KITCHENS_55, remote_place="{part}/{participant}/{video}.MP4",
)  # fmt: skip

EPIC_100 = Version(
    command="epic-kitchens-100", prefix="EPIC_100_", key="narration_id",
    class_columns=("id", "key"), video_column="video_id", marks=frozenset({"narration_id", "key"}),
    published=EPIC_KITCHENS_100, remote_place="{participant}/videos/{video}.MP4",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One checked row."""

    file: Path
    line: int
    name: str
    participant: str
    video: str
    start_s: float
    stop_s: float
    start_frame: int
    stop_frame: int
    labels: tuple[str, str] | None
    """Verb and noun; None: unknown."""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


def annotation_file(annotations: str | os.PathLike[str], name: str, version: Version) -> Path:
    """A file of the data set.

    Raises:
        InputError: the file does not exist; the message says if the folder belongs to the other data set.
    """
    try:
        return find_file(annotations, [f"{version.prefix}{name}.csv"], f"the CSV files of {version.name}")
    except InputError as error:
        other = version.other
        if (Path(os.path.abspath(annotations)) / f"{other.prefix}verb_classes.csv").is_file():
            raise InputError(
                f"{os.path.abspath(annotations)}: holds the files of {other.name}, not of {version.name}: import them "
                f"with `w3ray data import {other.command}`"
            ) from error
        raise


def verbs_and_nouns(annotations: str | os.PathLike[str], version: Version) -> tuple[list[str], list[str]]:
    """The names of the classes, in the order of their numbers.

    Raises:
        InputError: as `annotation_file`; or the classes are not complete, unique and in order.
    """
    verbs, nouns = (
        _class_names(annotation_file(annotations, f"{kind}_classes", version), kind, official, version)
        for kind, official in version.published.classes.items()
    )
    return verbs, nouns


def video_seconds(file: Path, version: Version) -> dict[str, float]:
    """The duration of each video, seconds."""
    seconds: dict[str, float] = {}
    for line, row in _rows(file, (version.video_column, "duration"), version):
        try:
            seconds[row[version.video_column]] = float(row["duration"])
        except ValueError as error:
            raise InputError(f"{file}:{line}: the duration {row['duration']!r} is not a number of seconds") from error
    return seconds


def segments(
    file: Path,
    version: Version,
    *,
    seconds: Mapping[str, float],
    classes: tuple[Sequence[str], Sequence[str]] | None,
    note: Note,
) -> list[Segment]:
    """The rows of a list, with labels if the `classes` (verbs, nouns) are given.

    A segment that ends after its video by at most the rounding of times is cut at the video's end; a note names it.

    Raises:
        InputError: the list belongs to another data set, a class or video is unknown, or a segment is empty or ends
            after its video; names the line.
    """
    columns = [version.key, "participant_id", "video_id", "start_timestamp", "stop_timestamp"]
    columns += ["start_frame", "stop_frame", *(("verb_class", "noun_class") if classes else ())]
    found, cut = [], []
    for line, row in _rows(file, columns, version):
        segment = _segment(file, line, row, version, classes)
        if segment.video not in seconds:
            raise InputError(f"{segment.where}: the list of videos has no {segment.video!r}")
        end_s = seconds[segment.video]
        if segment.start_s >= end_s or segment.stop_s > end_s + ROUNDING_S:
            raise InputError(
                f"{segment.where}: segment {segment.name} lies from {segment.start_s:.10g} to {segment.stop_s:.10g} s, "
                f"past the end of {segment.video}, which is {end_s:.10g} s long: is the list of another version?"
            )
        if segment.stop_s > end_s:
            cut.append(segment.name)
            segment = replace(segment, stop_s=end_s)
        found.append(segment)
    if cut:
        note(f"{file}: {shown_names(cut)} ends less than {ROUNDING_S:g} s past the end of its video and is cut there")
    return found


def _class_names(file: Path, kind: str, official: int, version: Version) -> list[str]:
    number, name = version.class_columns[0].format(kind=kind), version.class_columns[1]
    names: list[str] = []
    for line, row in _rows(file, (number, name), version):
        if row[number] != str(len(names)):
            raise InputError(f"{file}:{line}: class {row[number]!r} where {len(names)} is expected")
        names.append(row[name])
    check_classes(names, official, file, version.name)
    return names


def _rows(file: Path, columns: Sequence[str], version: Version) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values of each row of a CSV file; the file must have these columns."""
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        header = reader.fieldnames or []
        missing = [name for name in columns if name not in header]
        other = version.other
        swapped = [(version.key, other.key), (version.video_column, other.video_column)]
        if other.marks & set(header) or any(ours in missing and theirs in header for ours, theirs in swapped):
            raise InputError(
                f"{file}: a file of {other.name}, not of {version.name}: import that with "
                f"`w3ray data import {other.command}`"
            )
        if missing:
            raise InputError(f"{file}: no column {missing[0]!r}; it has {', '.join(header)}")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{file}:{reader.line_num}: not {len(header)} values, as the header has")
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{file}: cannot be read as CSV: {error}") from error


def _segment(
    file: Path,
    line: int,
    row: Mapping[str, str],
    version: Version,
    classes: tuple[Sequence[str], Sequence[str]] | None,
) -> Segment:
    where = f"{file}:{line}"
    video = _VIDEO.fullmatch(row["video_id"])
    if not row[version.key] or video is None or video[1] != row["participant_id"]:
        raise InputError(
            f"{where}: needs a {version.key}, a participant such as P01 and one of their videos, such as P01_01"
        )
    start_s, stop_s = (_seconds(row[name], where) for name in ("start_timestamp", "stop_timestamp"))
    frames = [row[name] for name in ("start_frame", "stop_frame")]
    if not all(frame.isdecimal() for frame in frames) or not 1 <= int(frames[0]) <= int(frames[1]) or stop_s <= start_s:
        raise InputError(
            f"{where}: segment {row[version.key]} from {row['start_timestamp']} to {row['stop_timestamp']}, frames "
            f"{frames[0]} to {frames[1]}, is empty, or its frames are not counted from 1"
        )
    labels = None
    if classes is not None:
        verb, noun = (
            _class_name(row[f"{kind}_class"], names, kind, where)
            for kind, names in zip(("verb", "noun"), classes, strict=True)
        )
        labels = (verb, noun)
    return Segment(
        file=file, line=line, name=row[version.key], participant=row["participant_id"], video=row["video_id"],
        start_s=start_s, stop_s=stop_s, start_frame=int(frames[0]), stop_frame=int(frames[1]), labels=labels,
    )  # fmt: skip


def _seconds(text: str, where: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise InputError(f"{where}: {text!r} is not a time such as 00:01:02.34")
    return round(int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]), 6)


def _class_name(text: str, names: Sequence[str], kind: str, where: str) -> str:
    if not text.isdecimal() or int(text) >= len(names):
        raise InputError(f"{where}: {kind} {text!r} is not in 0 to {len(names) - 1}: is the list of another version?")
    return names[int(text)]


def shown_names(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")

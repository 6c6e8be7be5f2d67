"""What the importers of EPIC-KITCHENS-55 and -100 share: CSV files with a row a segment of an untrimmed video.

A row says twice where its segment lies: in time (`start_timestamp`, `stop_timestamp`) and in frames (`start_frame`,
`stop_frame`), and each is right for another thing. The frame numbers are those of the distributed frames, which were
taken at 59.94 per second of most videos, at 50 of the later ones, and at 60 of those whose own rate is another (29.97,
47.95 or 90, such as P10_04, P17_01 and P18_09): in these the numbers are not the frames of the video. So a clip of a
video is cut by its times, and a clip of a folder of frames by its frame numbers, both ends included.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from w3ray.data.decoders._common import DecodeError
from w3ray.data.decoders.frames import FrameNames, whole_frame_names
from w3ray.data.importers._common import Clip
from w3ray.data.importers._published import Note, check_classes, find_file, read_text, video_uri
from w3ray.data.manifest import FOLDER_FPS
from w3ray.errors import InputError
from w3ray.published_sets import EPIC_KITCHENS_55, EPIC_KITCHENS_100, PublishedSet
from w3ray.storage import is_remote

_TIME = re.compile(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")
_VIDEO = re.compile(r"(P\d\d)_\d{2,3}")
# Time stamps have two digits; the one segment of each data set that ends behind its video does so by 0.02 s.
_ROUNDING_S = 0.1
_FRAMES_PER_S = 60
_NAMES_SHOWN = 5
_LOOKS_AT_ONCE = 16

# Below the folder of videos. In EPIC-KITCHENS-55 the videos lie in `train` and `test`; the later downloader sorts those
# of both data sets by participant.
_VIDEO_PLACES = (
    *("{part}/{participant}/{video}", "videos/{part}/{participant}/{video}"),
    *("{participant}/videos/{video}", "{participant}/{video}", "{video}"),
)
_VIDEO_ENDINGS = (".MP4", ".mp4")
_FRAME_PLACES = (
    *("{part}/{participant}/{video}", "rgb/{part}/{participant}/{video}"),
    *("frames_rgb_flow/rgb/{part}/{participant}/{video}", "{participant}/rgb_frames/{video}"),
    *("rgb_frames/{participant}/{video}", "{participant}/{video}", "{video}"),
)
_PARTS = ("train", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What tells the two data sets apart."""

    command: str
    prefix: str
    """Of the files' names."""
    key: str
    """The column with a segment's name."""
    class_columns: tuple[str, str]
    """Number and name of a class."""
    video_column: str
    """Of the list of videos."""
    marks: frozenset[str]
    """Columns that the other data set's files do not have."""
    published: PublishedSet
    remote_place: str
    """Where the distribution has a video, for addresses at which nothing is looked for."""

    @property
    def name(self) -> str:
        return self.published.title

    @property
    def other(self) -> "Version":
        """What a file may be of by mistake."""
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
    """One row, checked."""

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
    """Verb and noun; None: not known."""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A video, or the folder of its frames."""

    path: str
    uri: str
    frames: FrameNames | None = None
    """Of a folder that was looked at."""
    is_folder: bool = False
    is_there: bool = True


def annotation_file(annotations: str | os.PathLike[str], name: str, version: Version) -> Path:
    """A file of the data set.

    Raises:
        InputError: it is not there; says so where the folder is that of the other data set.
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
        InputError: as `annotation_file`; or there are not as many as the data set has, each once and in order.
    """
    verbs, nouns = (
        _class_names(annotation_file(annotations, f"{kind}_classes", version), kind, official, version)
        for kind, official in version.published.classes.items()
    )
    return verbs, nouns


def video_seconds(file: Path, version: Version) -> dict[str, float]:
    """How long each video is."""
    seconds: dict[str, float] = {}
    for line, row in _rows(file, (version.video_column, "duration"), version):
        try:
            seconds[row[version.video_column]] = float(row["duration"])
        except ValueError as error:
            raise InputError(f"{file}:{line}: the duration {row['duration']!r} is no number of seconds") from error
    return seconds


def segments(
    file: Path,
    version: Version,
    *,
    seconds: Mapping[str, float],
    classes: tuple[Sequence[str], Sequence[str]] | None,
    note: Note,
) -> list[Segment]:
    """The rows of a list, with labels where the `classes` (verbs, nouns) are given.

    A segment that ends behind its video by no more than times are rounded is cut there, with a note that names it.

    Raises:
        InputError: another data set's list, an unknown class or video, or a segment that is empty or lies behind the
            end of its video; names the line.
    """
    columns = [version.key, "participant_id", "video_id", "start_timestamp", "stop_timestamp"]
    columns += ["start_frame", "stop_frame", *(("verb_class", "noun_class") if classes else ())]
    found, cut = [], []
    for line, row in _rows(file, columns, version):
        segment = _segment(file, line, row, version, classes)
        if segment.video not in seconds:
            raise InputError(f"{segment.where}: the list of videos has no {segment.video!r}")
        end_s = seconds[segment.video]
        if segment.start_s >= end_s or segment.stop_s > end_s + _ROUNDING_S:
            raise InputError(
                f"{segment.where}: segment {segment.name} lies from {segment.start_s:.10g} to {segment.stop_s:.10g} s, "
                f"past the end of {segment.video}, which is {end_s:.10g} s long: is the list of another version?"
            )
        if segment.stop_s > end_s:
            cut.append(segment.name)
            segment = replace(segment, stop_s=end_s)
        found.append(segment)
    if cut:
        note(f"{file}: {_names(cut)} ends less than {_ROUNDING_S:g} s past the end of its video and is cut there")
    return found


def placed_videos(videos: str, parts: Mapping[str, str], version: Version, note: Note) -> tuple[str, dict[str, Placed]]:
    """What paths are relative to, and where each video lies below it.

    Args:
        videos: a folder, in which each place is tried where the data set was distributed; an address, at which nothing
            is looked for; or a pattern such as `s3://bucket/rgb/{participant}/{video}` (`{part}` is train or test): one
            without an extension names folders of frames.
        parts: of each video the part of the distribution that has it, "" where it may be either.

    Raises:
        InputError: no such folder, a pattern of another form, or there are both videos and folders of frames.
    """
    base = videos
    files: Sequence[str] = ()
    folders: Sequence[str] = ()
    if "{" in videos:
        base, _, rest = videos.partition("{")
        base, _, begin = base.rpartition("/")
        pattern = [f"{begin}{{{rest}"]
        files, folders = (pattern, []) if os.path.splitext(videos)[1] else ([], pattern)
    elif is_remote(videos):
        files = [version.remote_place]
    else:
        files = [f"{place}{ending}" for ending in _VIDEO_ENDINGS for place in _VIDEO_PLACES]
        folders = _FRAME_PLACES
    wanted = {video: (_paths(files, video, part), _paths(folders, video, part)) for video, part in parts.items()}
    if is_remote(base):
        placed = {
            video: Placed(path=(names or others)[0], uri=video_uri(base, (names or others)[0]), is_folder=not names)
            for video, (names, others) in wanted.items()
        }
        note(f"{base}: videos are taken to be {(files or folders)[0]}")
        return base, placed
    if not os.path.isdir(base):
        raise InputError(f"{os.path.abspath(base)}: no such folder; give the folder of the videos or frames")
    return base, _found(base, wanted, note)


def clips_of(found: Sequence[Segment], placed: Mapping[str, Placed], note: Note) -> list[tuple[int, Clip]]:
    """The clips of segments, without a split: their group is the participant."""
    clips, cut = [], []
    for segment in found:
        place = placed[segment.video]
        start_s, end_s = segment.start_s, segment.stop_s
        if place.is_folder:
            first = 1 if place.frames is None else place.frames.first
            start, stop = segment.start_frame - first, segment.stop_frame + 1 - first
            if place.frames is not None and 0 < stop - place.frames.num_frames <= _ROUNDING_S * _FRAMES_PER_S:
                stop = place.frames.num_frames
                cut.append(segment.name)
            start_s, end_s = start / FOLDER_FPS, stop / FOLDER_FPS
        clip = Clip(
            path=place.path, uri=place.uri, group=segment.participant, start_s=start_s, end_s=end_s, name=segment.name,
            labels=segment.labels or (),
        )  # fmt: skip
        clips.append((segment.line, clip))
    if cut:
        note(f"{found[0].file}: {_names(cut)}: ends a few frames past those of its video and is cut there")
    return clips


def is_whole(placed: Mapping[str, Placed]) -> Callable[[Clip], bool]:
    """Tells of a clip whether its video is there, and all of its frames where it is a folder."""
    by_path = {place.path: place for place in placed.values()}

    def answer(clip: Clip) -> bool:
        place = by_path[clip.path]
        if not place.is_there or not place.is_folder or place.frames is None or clip.end_s is None:
            return place.is_there
        return round(clip.end_s * FOLDER_FPS) <= place.frames.num_frames

    return answer


def _class_names(file: Path, kind: str, official: int, version: Version) -> list[str]:
    number, name = version.class_columns[0].format(kind=kind), version.class_columns[1]
    names: list[str] = []
    for line, row in _rows(file, (number, name), version):
        if row[number] != str(len(names)):
            raise InputError(f"{file}:{line}: class {row[number]!r} where {len(names)} follows")
        names.append(row[name])
    check_classes(names, official, file, version.name)
    return names


def _rows(file: Path, columns: Sequence[str], version: Version) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and values of each row of a CSV file that must have these columns."""
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
        raise InputError(f"{where}: not a {version.key}, a participant as P01 and a video of his as P01_01")
    start_s, stop_s = (_seconds(row[name], where) for name in ("start_timestamp", "stop_timestamp"))
    frames = [row[name] for name in ("start_frame", "stop_frame")]
    if not all(frame.isdecimal() for frame in frames) or not 1 <= int(frames[0]) <= int(frames[1]) or stop_s <= start_s:
        raise InputError(
            f"{where}: segment {row[version.key]} from {row['start_timestamp']} to {row['stop_timestamp']}, frames "
            f"{frames[0]} to {frames[1]}, is empty or counts no frames from 1"
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
        raise InputError(f"{where}: {text!r} is no time as 00:01:02.34")
    return round(int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]), 6)


def _class_name(text: str, names: Sequence[str], kind: str, where: str) -> str:
    if not text.isdecimal() or int(text) >= len(names):
        raise InputError(f"{where}: {kind} {text!r} is none of 0 to {len(names) - 1}: is the list of another version?")
    return names[int(text)]


def _paths(patterns: Sequence[str], video: str, part: str) -> list[str]:
    """Where a video may lie, the likeliest first."""
    found = []
    for pattern in patterns:
        try:
            found += [
                pattern.format(part=known, participant=video.partition("_")[0], video=video)
                for known in ((part,) if part else _PARTS)
            ]
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"{pattern}: a pattern has {{video}}, {{participant}} and {{part}} in it, nothing else in braces"
            ) from error
    return list(dict.fromkeys(found))


def _found(base: str, wanted: Mapping[str, tuple[list[str], list[str]]], note: Note) -> dict[str, Placed]:
    """Each video where it is; where it is not, without `is_there`."""

    def look(paths: tuple[list[str], list[str]]) -> tuple[str | None, str | None]:
        files, folders = paths
        return (
            next((path for path in files if _has_content(os.path.join(base, path))), None),
            next((path for path in folders if os.path.isdir(os.path.join(base, path))), None),
        )

    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        answers = dict(zip(wanted, pool.map(look, wanted.values()), strict=True))
    both = [next((video for video, answer in answers.items() if answer[kind]), None) for kind in (0, 1)]
    if both[0] and both[1]:
        raise InputError(
            f"{os.path.abspath(base)}: holds both videos ({answers[both[0]][0]}) and folders of frames "
            f"({answers[both[1]][1]}); give the folder that holds one of them, or a pattern with {{video}}"
        )
    is_folder = both[1] is not None
    placed = {}
    for video, answer in answers.items():
        likeliest = (wanted[video][is_folder] or wanted[video][not is_folder])[0]
        path = answer[is_folder]
        placed[video] = Placed(
            path=path or likeliest, uri=video_uri(base, path or likeliest), is_folder=is_folder, is_there=bool(path)
        )
    if missing := [video for video, place in placed.items() if not place.is_there]:
        note(f"{os.path.abspath(base)}: {len(missing)} of {len(placed)} videos are not there: {_names(missing)}")
    return _with_frames(placed, note) if is_folder else placed


def _with_frames(placed: Mapping[str, Placed], note: Note) -> dict[str, Placed]:
    """With the images of each folder, and a note where they cannot be used."""

    def look(place: Placed) -> FrameNames | DecodeError | None:
        try:
            return whole_frame_names(place.uri) if place.is_there else None
        except DecodeError as error:
            return error

    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        answers = dict(zip(placed, pool.map(look, placed.values()), strict=True))
    for video, answer in answers.items():
        if isinstance(answer, DecodeError):
            note(f"{placed[video].uri}: cannot be used: {answer.reason}")
    return {
        video: replace(place, frames=answer)
        if isinstance(answer := answers[video], FrameNames)
        else replace(place, is_there=False)
        for video, place in placed.items()
    }


def _has_content(path: str) -> bool:
    try:
        return os.path.isfile(path) and os.stat(path).st_size > 0
    except OSError:
        return False


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")

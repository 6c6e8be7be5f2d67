"""What the importers of published data sets share: they read lists strictly, and look for the videos.

`_looking.py` looks for the videos: by threads or on a cluster, on disks and in object storage, with a journal.

Lists are small compared with the videos, so they are read whole: an import of 220,847 rows from JSON (as many as
Something-Something v2 has with its test videos) peaked at 290 MiB, 72 of them before it began. It took 6 s, or 12 s
with a check of each file.
"""

import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bound
from pathlib import Path
from typing import Literal

import pyarrow.fs as pafs

from w3ray._nearest import did_you_mean
from w3ray.data.decoders._common import DecodeError
from w3ray.data.decoders.frames import whole_frame_names
from w3ray.data.importers._common import Clip, to_manifest
from w3ray.data.importers._looking import current, find_missing, not_listed, slices_of
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError
from w3ray.storage import is_remote

_NAMES_SHOWN = 5

Note = Callable[[str], None]
"""Takes one line for the user."""
IsThere = Callable[[Clip], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitList:
    """One annotation file: the clips of a split, each with the line (or, in JSON, the entry) that names it, from 1."""

    file: Path
    clips: Sequence[tuple[int, Clip]]
    official: int | None = None
    """How many clips the published list has; None: not known."""


def find_file(folder: str | os.PathLike[str], names: Sequence[str], what: str) -> Path:
    """The first file in a folder that has one of these names.

    Raises:
        InputError: there is none.
    """
    for name in names:
        if (path := Path(os.path.abspath(folder)) / name).is_file():
            return path
    raise InputError(f"{os.path.abspath(folder)}: no {' or '.join(names)}; give the folder that holds {what}")


def read_text(path: Path) -> str:
    """The text of a file. Raises: InputError if it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8 text") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line that is not empty. Raises: as `read_text`."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def known_label(label: str, classes: Collection[str], where: str) -> str:
    """The label. Raises: InputError if it is none of the classes."""
    if label not in classes:
        raise InputError(
            f"{where}: label {label!r} is none of the {len(classes)} classes; {did_you_mean(label, classes)}"
        )
    return label


def check_classes(classes: Sequence[str], official: int, file: Path, name: str) -> None:
    """Raises: InputError if there are not as many classes as the data set has, or if one is listed twice."""
    if len(classes) != official:
        raise InputError(f"{file}: {len(classes)} classes; {name} has {official}: is it the list of another version?")
    seen: set[str] = set()
    for label in classes:
        if label in seen:
            raise InputError(f"{file}: class {label!r} is listed twice")
        seen.add(label)


def check_fold(fold: int, folds: Collection[int], name: str) -> None:
    """Raises: InputError if there is no such official split."""
    if fold not in folds:
        raise InputError(f"fold {fold}: {name} has the official splits {', '.join(map(str, folds))}")


def check_count(where: Path | str, found: int, official: int, partial: bool, note: Note) -> None:
    """Raises: InputError if a list is not as long as the published one. With `partial` this is only a note."""
    if found == official:
        return
    text = f"{where}: {found} clips; the published list has {official}"
    if not partial:
        raise InputError(f"{text}: is it of another version, or cut off? --partial imports what is there")
    note(text)


def mirrored(
    classes: Sequence[str], words: Sequence[tuple[str, str]], *, no_direction: Sequence[str] = ()
) -> dict[str, str]:
    """The flip map that follows from the names. In the name of a mirror image, each word of a pair is exchanged.

    Args:
        classes: the names.
        words: pairs of opposite words, such as ("left", "right"); only whole words count, in lower or title case.
        no_direction: phrases in which such a word is not a direction.

    Raises:
        InputError: a class has a direction, but its mirror image is not among the classes.
    """
    opposite = {one: other for pair in words for one, other in (pair, pair[::-1])}
    opposite |= {one.title(): other.title() for one, other in opposite.items()}
    pattern = re.compile(rf"\b({'|'.join(sorted(opposite, key=len, reverse=True))})\b")
    pairs = {}
    for name in classes:
        mirror = pattern.sub(lambda match: opposite[match[0]], name)
        if mirror == name or any(phrase in name for phrase in no_direction):
            continue
        if mirror not in classes:
            raise InputError(f"class {name!r} has a direction, but there is no class {mirror!r} for its mirror image")
        pairs[name] = mirror
    return pairs


def video_uri(videos: str, path: str) -> str:
    """The uri of a path below the folder of videos."""
    if not is_remote(videos):
        return os.path.join(os.path.abspath(videos), path)
    folder, mark, query = videos.partition("?")
    return f"{folder.rstrip('/')}/{path}{mark}{query}"


def is_file(clip: Clip) -> bool:
    """Whether the clip's file is there and not empty."""
    try:
        found = os.stat(clip.uri)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def is_frames(clip: Clip) -> bool:
    """Whether the clip's folder is there and its images have no gap."""
    try:
        whole_frame_names(clip.uri)
    except DecodeError:
        return False
    return True


def _is_listed_file(info: pafs.FileInfo) -> bool:
    return bool(info.type == pafs.FileType.File and info.size > 0)


def _is_listed_folder(info: pafs.FileInfo) -> bool:
    # Object storage has no empty folders. To check the images would cost one more request for each folder.
    return bool(info.type == pafs.FileType.Directory)


_LISTED: dict[IsThere, Callable[[pafs.FileInfo], bool]] = {is_file: _is_listed_file, is_frames: _is_listed_folder}
"""The same checks, answered from the list of a remote folder."""


def published_manifest(
    lists: Sequence[SplitList],
    *,
    classes: Sequence[str],
    head_sizes: Sequence[tuple[str, int]] = (),
    flip_map: Mapping[str, str] | Literal["identity"] | None,
    videos: str,
    is_there: IsThere,
    partial: bool,
    note: Note,
    asks_remote: bool = False,
) -> Manifest:
    """The manifest of the clips in the lists: of all clips, or with `partial` of those that are there.

    Args:
        lists: the clips.
        classes: the class names, in label order.
        flip_map: as `to_manifest` takes it.
        videos: folder or address of the videos, for messages.
        is_there: whether the video of a clip is there; must be picklable. At an address, `is_file` and `is_frames` are
            answered from lists of the folders. Any other check is made only with `asks_remote`.
        partial: take what is there.
        note: called with one line about what is left out.
        asks_remote: `is_there` can check addresses, too.

    Raises:
        InputError: a list is not as long as the published one, a clip is named twice, or clips are missing (the message
            says how many, and the first names). With `partial` missing clips are left out, with a note.
    """
    for listed in lists:
        if listed.official is not None:
            check_count(listed.file, len(listed.clips), listed.official, partial, note)
    _check_once(lists)
    clips = [clip for listed in lists for _, clip in listed.clips]
    web = videos.startswith(("http://", "https://"))
    if current().skip or web or (is_remote(videos) and not asks_remote and is_there not in _LISTED):
        note(f"{videos}: it was not checked whether the videos are there; `w3ray data check` reads them")
    else:
        clips = _present(clips, videos, is_there, partial, note)
    return to_manifest(clips, classes, flip_map, head_sizes)


def _check_once(lists: Sequence[SplitList]) -> None:
    seen: dict[object, tuple[Path, int]] = {}
    for listed in lists:
        for line, clip in listed.clips:
            # By its name if it has one: two segments of EPIC-KITCHENS may have the same start and end.
            key = clip.name or (clip.path, clip.start_s, clip.end_s)
            before = seen.setdefault(key, (listed.file, line))
            if before != (listed.file, line):
                name = clip.name or clip.path
                raise InputError(
                    f"{listed.file}:{line}: {name!r} is listed twice, first in {before[0].name}:{before[1]}"
                )


def _present(clips: list[Clip], videos: str, is_there: IsThere, partial: bool, note: Note) -> list[Clip]:
    if not is_remote(videos) and not os.path.isdir(videos):
        raise InputError(f"{os.path.abspath(videos)}: no such folder; give the folder of the videos")
    each = bound(_missing, is_there)
    places = find_missing(
        slices_of(clip.uri for clip in clips),
        lambda places: [clips[place] for place in places],
        len(clips),
        local=each,
        remote=bound(_missing_in_list, is_there) if is_there in _LISTED else each,
        key=lambda clip: f"{clip.uri} {clip.start_s} {clip.end_s}",
        question=f"{is_there.__module__}.{is_there.__qualname__}",
    )
    missing = [clips[place] for place in places]
    if not missing:
        return clips
    names = ", ".join(clip.name or clip.path for clip in missing[:_NAMES_SHOWN]) + (
        ", ..." if len(missing) > _NAMES_SHOWN else ""
    )
    where = videos if is_remote(videos) else os.path.abspath(videos)
    text = f"{where}: {len(missing)} of {len(clips)} clips are missing or not whole: {names}"
    why = _why_not_whole(missing[0]) if is_there is is_frames and not is_remote(videos) else ""
    if not partial:
        raise InputError(f"{text}; get them, or let --partial take what is there{why}")
    if len(missing) == len(clips):
        raise InputError(f"{text}; nothing is there")
    note(f"{text}; they are left out{why}")
    absent = set(places.tolist())
    return [clip for place, clip in enumerate(clips) if place not in absent]


def _why_not_whole(clip: Clip) -> str:
    try:
        whole_frame_names(clip.uri)
    except DecodeError as error:
        return f" ({clip.path}: {error.reason})"
    return ""  # the clip appeared in the meantime


def _missing(is_there: IsThere, clips: Sequence[Clip]) -> list[int]:
    return [place for place, clip in enumerate(clips) if not is_there(clip)]


def _missing_in_list(is_there: IsThere, clips: Sequence[Clip]) -> list[int]:
    return not_listed([clip.uri for clip in clips], _LISTED[is_there])

"""Kinetics (400, 600, 700) into a manifest: the CSV files of the distribution, and clips as its usual tools cut them.

A row is `label,youtube_id,time_start,time_end,split`; its clip is `<youtube_id>_<time_start>_<time_end>.mp4` with both
times as six digits, anywhere below the folder of videos. YouTube videos disappear, so nobody has all of them,
and the lists differ between distributions. So the lengths of the lists are not checked.

Source of the format: Kay et al., "The Kinetics Human Action Video Dataset", arXiv:1705.06950, and its CSV files.
"""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.fs as pafs

from w3ray.data.clip_files import folders_once, is_video
from w3ray.data.importers._common import Clip
from w3ray.data.importers._published import Note, SplitList, is_file, published_manifest, read_text, video_uri
from w3ray.data.manifest import Manifest
from w3ray.data.split_names import split_name
from w3ray.errors import InputError
from w3ray.storage import file_system, is_remote

_NEEDED = ("youtube_id", "time_start", "time_end", "split")


def import_kinetics(
    annotations: str | os.PathLike[str], *, videos: str, partial: bool = False, note: Note = print
) -> Manifest:
    """Kinetics: CSV lists, and clips named by YouTube id and times.

    Args:
        annotations: folder with the CSV files, such as `train.csv`, `val.csv` and `test.csv`. All files in it are read.
        videos: folder or address of the clips; folders in it, by class or by split, are looked through.
        partial: take what is there of the videos.
        note: called with one line about what is left out: rows without a label.

    The classes are the labels of the lists, sorted. No class depends on left and right: all keep their label when
    mirrored. The group of a clip is its YouTube video.

    Raises:
        InputError: a file is missing or of another format, a clip is listed twice or missing.
    """
    folder = Path(os.path.abspath(annotations))
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise InputError(f"{folder}: no CSV file; give the folder that holds the CSV files of Kinetics")
    found = _videos(videos)
    lists = []
    for file in files:
        rows = list(_rows(file))
        labelled = [(line, _located(clip, found, videos)) for line, clip in rows if clip.label]
        if len(labelled) < len(rows):
            note(f"{file}: {len(rows) - len(labelled)} clips without labels are left out")
        lists.append(SplitList(file=file, clips=labelled))
    classes = sorted({clip.label for listed in lists for _, clip in listed.clips})
    return published_manifest(
        lists, classes=classes, flip_map="identity", videos=videos, is_there=is_file, partial=partial, note=note
    )


def _rows(file: Path) -> Iterator[tuple[int, Clip]]:
    """The clips of one file. Their place is not known yet. A clip without a label has an empty one."""
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        header = reader.fieldnames or []
        missing = [name for name in _NEEDED if name not in header]
        if missing:
            raise InputError(f"{file}: no column {missing[0]!r}; Kinetics has label, {', '.join(_NEEDED)}")
        for row in reader:
            where = f"{file}:{reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: not {len(header)} values, as the header has")
            video, start, end = row["youtube_id"], row["time_start"], row["time_end"]
            if not video or "/" in video or not start.isdecimal() or not end.isdecimal() or not row["split"]:
                raise InputError(f"{where}: not a YouTube id, two whole seconds and a split")
            name = f"{video}_{int(start):06d}_{int(end):06d}"
            clip = Clip(path=name, uri="", label=row.get("label", ""), split=split_name(row["split"]), group=video)
            yield reader.line_num, clip
    except csv.Error as error:
        raise InputError(f"{file}: cannot be read as CSV: {error}") from error


def _videos(top: str) -> dict[str, str]:
    """Name without extension -> path below the folder or address, for each video in it."""
    found: dict[str, str] = {}
    for path in _remote_files(top) if is_remote(top) else _files(os.path.abspath(top)):
        name = path.rpartition("/")[2]
        if not is_video(name) or name.startswith("."):
            continue
        stem = os.path.splitext(name)[0]
        if found.setdefault(stem, path) != path:
            raise InputError(f"{top}: two videos of one name: {min(path, found[stem])}, {max(path, found[stem])}")
    return found


def _files(top: str) -> Iterator[str]:
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder; give the folder of the videos")
    for listing in folders_once([top]):
        for name in listing.files:
            yield os.path.relpath(f"{listing.folder}/{name}", top)


def _remote_files(top: str) -> Iterator[str]:
    """List the whole folder, 1,000 names per request."""
    filesystem, folder = file_system(top.rstrip("/"))
    if top.startswith(("http://", "https://")):
        raise InputError(f"{top}: the clips of Kinetics lie in no fixed folders, and a web address cannot be listed")
    for info in filesystem.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True)):
        if info.type == pafs.FileType.File:
            yield info.path.removeprefix(f"{folder}/")


def _located(clip: Clip, found: dict[str, str], videos: str) -> Clip:
    path = found.get(clip.path, f"{clip.path}.mp4")
    return replace(clip, path=path, uri=video_uri(videos, path))

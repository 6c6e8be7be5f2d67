"""Lists as Twenty Billion Neurons published them for frame folders: `34870;Drumming Fingers`, and a list of labels.

Used by Jester and by Something-Something v1. The labels of the test videos were never published, so their list has rows
such as `34870`. If this list is there, its clips become the split `test`, without labels.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from w3ray.data.importers._common import Clip
from w3ray.data.importers._published import (
    Note,
    SplitList,
    check_classes,
    find_file,
    is_frames,
    known_label,
    mirrored,
    published_manifest,
    read_lines,
    video_uri,
)
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError

_FILES = {"train": "train", "val": "validation", "test": "test"}


def import_frame_lists(
    annotations: str | os.PathLike[str],
    *,
    name: str,
    prefix: str,
    labels_files: Sequence[str],
    num_classes: int,
    num_clips: Mapping[str, int],
    directions: Sequence[tuple[str, str]],
    no_direction: Sequence[str] = (),
    videos: str,
    partial: bool,
    note: Note,
) -> Manifest:
    """`<prefix>-train.csv`, `-validation.csv` and perhaps `-test.csv`, and one of `labels_files`, into a manifest.

    The other arguments, and the errors, are those of `mirrored` and of the importers.
    """
    what = f"the CSV files of {name}"
    labels_file = find_file(annotations, labels_files, what)
    classes = [line for _, line in read_lines(labels_file)]
    check_classes(classes, num_classes, labels_file, name)
    lists = []
    for split in ("train", "val"):
        try:
            file = find_file(annotations, [f"{prefix}-{_FILES[split]}.csv"], what)
        except InputError as error:
            if not partial:
                raise
            note(str(error))
            continue
        clips = [
            (line, Clip(path=video, uri=video_uri(videos, video), label=label, split=split))
            for line, video, label in _rows(file, classes)
        ]
        lists.append(SplitList(file=file, clips=clips, official=num_clips[split]))
    test = Path(os.path.abspath(annotations)) / f"{prefix}-{_FILES['test']}.csv"
    if test.is_file():
        clips = [
            (line, Clip(path=video, uri=video_uri(videos, video), split="test")) for line, video in _unlabelled(test)
        ]
        lists.append(SplitList(file=test, clips=clips, official=num_clips["test"]))
    return published_manifest(
        lists,
        classes=classes,
        flip_map=mirrored(classes, directions, no_direction=no_direction),
        videos=videos,
        is_there=is_frames,
        partial=partial,
        note=note,
    )


def _rows(file: Path, classes: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    known = {label: place for place, label in enumerate(classes)}
    for line, text in read_lines(file):
        video, separator, label = text.partition(";")
        if not separator or not video.isdecimal():
            raise InputError(f"{file}:{line}: {text!r} is not of the form `34870;label`: is it of another version?")
        yield line, video, known_label(label, known, f"{file}:{line}")


def _unlabelled(file: Path) -> Iterator[tuple[int, str]]:
    for line, text in read_lines(file):
        if not text.isdecimal():
            raise InputError(f"{file}:{line}: {text!r} is not of the form `34870`: the test videos have no labels")
        yield line, text

"""UCF101 into a manifest: `<videos>/<class>/v_<class>_g01_c01.avi` and the official split files.

Source of the format and the counts: Soomro et al., "UCF101", arXiv:1212.0402, and its `ucfTrainTestlist` (13,320 clips
of 101 classes, three splits).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from w3ray.data.importers._common import Clip
from w3ray.data.importers._published import (
    Note,
    SplitList,
    check_classes,
    check_fold,
    find_file,
    is_file,
    known_label,
    published_manifest,
    read_lines,
    video_uri,
)
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError

NUM_CLASSES = 101
NUM_CLIPS = {
    1: {"train": 9537, "test": 3783},
    2: {"train": 9586, "test": 3734},
    3: {"train": 9624, "test": 3696},
}
_GROUP = re.compile(r"_(g\d\d)_c\d\d\.avi")


def import_ucf101(
    annotations: str | os.PathLike[str], *, videos: str, fold: int = 1, partial: bool = False, note: Note = print
) -> Manifest:
    """UCF101: one of its three official splits into train and test, and AVI files.

    Args:
        annotations: folder with `classInd.txt`, `trainlist01.txt`, `testlist01.txt` and so on.
        videos: folder or address of `<class>/<clip>.avi`.
        fold: which official split, 1 to 3.
        partial: take what is there of the videos.
        note: called with one line about what is left out.

    The name of a clip holds its group (g01 to g25): clips of the same class and group show the same scene. No class
    depends on left and right: all keep their label when mirrored.

    Raises:
        InputError: a file is missing or of another format, a label is unknown, a clip is listed twice or missing.
    """
    what = "the split files of UCF101"
    check_fold(fold, NUM_CLIPS, "UCF101")
    classes = _classes(find_file(annotations, ["classInd.txt"], what))
    lists = []
    for split, official in NUM_CLIPS[fold].items():
        file = find_file(annotations, [f"{split}list{fold:02d}.txt"], what)
        clips = [
            (line, Clip(path=path, uri=video_uri(videos, path), label=label, split=split, group=group))
            for line, path, label, group in _rows(file, classes)
        ]
        lists.append(SplitList(file=file, clips=clips, official=official))
    return published_manifest(
        lists, classes=list(classes), flip_map="identity", videos=videos, is_there=is_file, partial=partial, note=note
    )


def _classes(file: Path) -> dict[str, str]:
    """Class -> its number in the lists, from "1", in label order."""
    classes: dict[str, str] = {}
    for line, text in read_lines(file):
        number, _, name = text.partition(" ")
        if number != str(len(classes) + 1) or not name:
            raise InputError(f"{file}:{line}: {text!r} is not of the form `{len(classes) + 1} class`")
        classes[name] = number
    check_classes(list(classes), NUM_CLASSES, file, "UCF101")
    return classes


def _rows(file: Path, classes: dict[str, str]) -> Iterator[tuple[int, str, str, str]]:
    for line, text in read_lines(file):
        path, _, number = text.partition(" ")
        label, _, name = path.partition("/")
        match = _GROUP.search(name)
        if match is None:
            raise InputError(f"{file}:{line}: {text!r} is not of the form `class/v_class_g01_c01.avi`")
        known_label(label, classes, f"{file}:{line}")
        if number and number != classes[label]:
            raise InputError(f"{file}:{line}: class {label!r} has the number {classes[label]}, not {number}")
        yield line, path, label, match[1]

"""JHMDB into a manifest: `<videos>/<class>/<clip>.avi` and the official split files, one for each class.

Source of the format and the counts: Jhuang et al., "Towards Understanding Action Recognition", ICCV 2013, and its
`splits` folder: 928 clips of 21 classes of HMDB51; in each of three splits every clip is there to train (marked 1) or
to test (marked 2).
"""

import os
from collections.abc import Iterator
from pathlib import Path

from w3ray.data.importers._common import Clip
from w3ray.data.importers._published import (
    Note,
    SplitList,
    check_classes,
    check_count,
    check_fold,
    is_file,
    is_frames,
    published_manifest,
    read_lines,
    video_uri,
)
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError
from w3ray.storage import is_remote

NUM_CLASSES = 21
NUM_CLIPS = 928
FOLDS = (1, 2, 3)
_MARKS = {"1": "train", "2": "test"}


def import_jhmdb(
    annotations: str | os.PathLike[str], *, videos: str, fold: int = 1, partial: bool = False, note: Note = print
) -> Manifest:
    """JHMDB: one of its three official splits into train and test, and AVI files or frame folders.

    Args:
        annotations: folder with `brush_hair_test_split1.txt` and so on (`splits`). Labels count in the order of the
            class names.
        videos: folder or address of `<class>/<clip>.avi` (`ReCompress_Videos`), or folder of `<class>/<clip>/00001.png`
            (`Rename_Images`).
        fold: which official split, 1 to 3.
        partial: take what is there of the videos.
        note: called with one line about what is left out.

    No class depends on left and right: all keep their label when mirrored.

    Raises:
        InputError: a file is missing or of another format, a clip is listed twice or missing.
    """
    check_fold(fold, FOLDS, "JHMDB")
    folder, ending = Path(os.path.abspath(annotations)), f"_test_split{fold}.txt"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the split files of JHMDB")
    # By class and not by file name: "shoot" would come before "shoot_ball".
    files = dict(sorted((path.name.removesuffix(ending), path) for path in folder.glob(f"*{ending}")))
    check_classes(list(files), NUM_CLASSES, folder / f"*{ending}", "JHMDB")
    frames = _are_frames(videos, list(files))
    lists = []
    for label, file in files.items():
        clips = []
        for line, name, split in _rows(file):
            path = f"{label}/{name if frames else f'{name}.avi'}"
            clips.append((line, Clip(path=path, uri=video_uri(videos, path), label=label, split=split)))
        lists.append(SplitList(file=file, clips=clips))
    check_count(f"{folder} (split {fold})", sum(len(one.clips) for one in lists), NUM_CLIPS, partial, note)
    return published_manifest(
        lists,
        classes=list(files),
        flip_map="identity",
        videos=videos,
        is_there=is_frames if frames else is_file,
        partial=partial,
        note=note,
    )


def _are_frames(videos: str, classes: list[str]) -> bool:
    """Whether the class folders hold folders of frames and no videos. Remote folders are not looked at."""
    if is_remote(videos):
        return False
    for label in classes:
        folder = Path(os.path.abspath(videos)) / label
        if any(folder.glob("*.avi")):
            return False
        if any(path.is_dir() for path in folder.glob("*")):
            return True
    return False


def _rows(file: Path) -> Iterator[tuple[int, str, str]]:
    for line, text in read_lines(file):
        name, _, mark = text.rpartition(" ")
        if mark not in _MARKS or not name.endswith(".avi") or "/" in name:
            raise InputError(f"{file}:{line}: {text!r} is not of the form `clip.avi 1` (1 or 2)")
        yield line, name.removesuffix(".avi"), _MARKS[mark]

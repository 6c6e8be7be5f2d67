"""HMDB51 into a manifest: `<videos>/<class>/<clip>.avi` and the official split files, one for each class.

Source of the format and the counts: Kuehne et al., "HMDB: A Large Video Database for Human Motion Recognition", ICCV
2011, and the readme of its `test_train_splits`: in each of three splits every one of 51 classes has 70 clips to train
(marked 1) and 30 to test (marked 2); the others (marked 0) belong to neither.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from w3ray.data.importers._common import Clip
from w3ray.data.importers._published import (
    Note,
    SplitList,
    check_classes,
    check_fold,
    is_file,
    published_manifest,
    read_lines,
    video_uri,
)
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError

NUM_CLASSES = 51
FOLDS = (1, 2, 3)
NUM_CLIPS = {"train": 70, "test": 30}
"""Clips of each class, in each split."""
_MARKS = {"0": None, "1": "train", "2": "test"}


def import_hmdb51(
    annotations: str | os.PathLike[str], *, videos: str, fold: int = 1, partial: bool = False, note: Note = print
) -> Manifest:
    """HMDB51: one of its three official splits into train and test, and AVI files.

    Args:
        annotations: folder with `brush_hair_test_split1.txt` and so on. Labels count in the order of the names.
        videos: folder or address of `<class>/<clip>.avi`.
        fold: which official split, 1 to 3.
        partial: take what is there of the videos.
        note: called with one line about what is left out: clips that are in neither part of the split.

    No class depends on left and right: all keep their label when mirrored.

    Raises:
        InputError: a file is missing or of another format, a clip is listed twice or missing.
    """
    check_fold(fold, FOLDS, "HMDB51")
    folder, ending = Path(os.path.abspath(annotations)), f"_test_split{fold}.txt"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the split files of HMDB51")
    # By class and not by file name: "climb" comes before "climb_stairs".
    files = dict(sorted((path.name.removesuffix(ending), path) for path in folder.glob(f"*{ending}")))
    check_classes(list(files), NUM_CLASSES, folder / f"*{ending}", "HMDB51")
    lists, unused = [], 0
    for label, file in files.items():
        rows = list(_rows(file, label))
        unused += sum(1 for _, _, split in rows if split is None)
        for part, official in NUM_CLIPS.items():
            clips = [
                (line, Clip(path=path, uri=video_uri(videos, path), label=label, split=split))
                for line, path, split in rows
                if split == part
            ]
            lists.append(SplitList(file=file, clips=clips, official=official))
    note(f"{folder}: {unused} clips that split {fold} uses neither to train nor to test are left out")
    return published_manifest(
        lists, classes=list(files), flip_map="identity", videos=videos, is_there=is_file, partial=partial, note=note
    )


def _rows(file: Path, label: str) -> Iterator[tuple[int, str, str | None]]:
    for line, text in read_lines(file):
        name, _, mark = text.rpartition(" ")
        if mark not in _MARKS or not name.endswith(".avi") or "/" in name:
            raise InputError(f"{file}:{line}: {text!r} is not of the form `clip.avi 1` (0, 1 or 2)")
        yield line, f"{label}/{name}", _MARKS[mark]

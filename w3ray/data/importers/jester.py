"""Jester v1 into a manifest: frame folders `<videos>/<id>/00001.jpg` and the CSV files of the distribution.

Source of the format and the counts: Materzynska et al., "The Jester Dataset", ICCV Workshops 2019 (148,092 videos of 27
classes: 118,562 for training, 14,787 for validation and 14,743 for the test).
"""

import os

from w3ray.data.importers._published import Note
from w3ray.data.importers._twentybn import import_frame_lists
from w3ray.data.manifest import Manifest
from w3ray.published_sets import JESTER

NUM_CLASSES, NUM_CLIPS = JESTER.num_classes, JESTER.clips
DIRECTIONS = (("left", "right"), ("clockwise", "counterclockwise"))
"""A mirror exchanges left and right, and the visible sense of rotation. "Forward", "Backward", "In", "Out", "Up" and
"Down" stay the same. Either hand may make a gesture."""


def import_jester(
    annotations: str | os.PathLike[str], *, videos: str, partial: bool = False, note: Note = print
) -> Manifest:
    """Jester: CSV lists and frame folders.

    Args:
        annotations: folder with `jester-v1-train.csv`, `-validation.csv`, `-labels.csv` and perhaps `-test.csv`.
        videos: folder or address of the folders of frames, named by id.
        partial: take what is there, of the lists and of the videos.
        note: called with one line about what is left out.

    The test videos, which have no labels, become the split `test` if their list is there. Without the list they are not
    needed. (Older versions left them out. A manifest that is imported again has them, and another fingerprint.)

    Raises:
        InputError: a file is missing or of another format, a label is unknown, a video is listed twice or missing.
    """
    return import_frame_lists(
        annotations,
        name="Jester",
        prefix="jester-v1",
        labels_files=["jester-v1-labels.csv"],
        num_classes=NUM_CLASSES,
        num_clips=NUM_CLIPS,
        directions=DIRECTIONS,
        videos=videos,
        partial=partial,
        note=note,
    )

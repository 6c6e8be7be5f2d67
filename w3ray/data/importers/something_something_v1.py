"""Something-Something v1 into a manifest: frame folders `<videos>/<id>/00001.jpg` and the distribution's CSV files.

Source of the format and the counts: Goyal et al., "The 'Something Something' Video Database", arXiv:1706.04261, and
the data set's page (108,499 videos of 174 classes: 86,017 for training, 11,522 for validation and 10,960 for the test).
"""

import os

from w3ray.data.importers._published import Note
from w3ray.data.importers._twentybn import import_frame_lists
from w3ray.data.importers.something_something_v2 import DIRECTIONS, NO_DIRECTION
from w3ray.data.manifest import Manifest
from w3ray.published_sets import SOMETHING_SOMETHING_V1

NUM_CLASSES, NUM_CLIPS = SOMETHING_SOMETHING_V1.num_classes, SOMETHING_SOMETHING_V1.clips


def import_something_something_v1(
    annotations: str | os.PathLike[str], *, videos: str, partial: bool = False, note: Note = print
) -> Manifest:
    """Something-Something v1: CSV lists and frame folders.

    Args:
        annotations: folder with `something-something-v1-train.csv`, `-validation.csv`, `-labels.csv` (or
            `label_map.txt`, the same lines) and perhaps `-test.csv`. Labels count in the order of the list.
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
        name="Something-Something v1",
        prefix="something-something-v1",
        labels_files=["something-something-v1-labels.csv", "label_map.txt"],
        num_classes=NUM_CLASSES,
        num_clips=NUM_CLIPS,
        directions=DIRECTIONS,
        no_direction=NO_DIRECTION,
        videos=videos,
        partial=partial,
        note=note,
    )

"""EPIC-KITCHENS-100 into a manifest: segments of untrimmed videos or frame folders, with a verb and a noun.

Source of the format and the counts: Damen et al., "Rescaling Egocentric Vision", IJCV 2022, and its annotation files:
67,217 segments for training, 9,668 for validation and 13,092 for the test, whose labels are not published; 97 verb
classes and 300 noun classes.
"""

import os
from dataclasses import replace

from w3ray.data.importers._epic import (
    EPIC_100,
    Segment,
    annotation_file,
    segments,
    verbs_and_nouns,
    video_seconds,
)
from w3ray.data.importers._epic_videos import clips_of, is_whole, placed_videos
from w3ray.data.importers._published import Note, SplitList, published_manifest
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError
from w3ray.published_sets import EPIC_KITCHENS_100

NUM_CLIPS = EPIC_KITCHENS_100.clips
_FILES = {"train": "train", "val": "validation", "test": "test_timestamps"}


def import_epic_kitchens_100(
    annotations: str | os.PathLike[str], *, videos: str, partial: bool = False, note: Note = print
) -> Manifest:
    """EPIC-KITCHENS-100: CSV lists and untrimmed videos or frame folders; two heads, verb and noun.

    Args:
        annotations: folder with `EPIC_100_train.csv`, `EPIC_100_validation.csv`, `EPIC_100_verb_classes.csv`,
            `EPIC_100_noun_classes.csv`, `EPIC_100_video_info.csv` and perhaps `EPIC_100_test_timestamps.csv`.
        videos: folder of `P01/videos/P01_01.MP4` or of `P01/rgb_frames/P01_01/frame_0000000001.jpg`, or laid out as
            EPIC-KITCHENS-55 is; or a pattern such as `s3://bucket/{participant}/{video}.MP4`.
        partial: take what is there, of the lists and of the videos.
        note: called with one line about what is left out.

    The split test has no labels, and exists if its list is there. The clip_id of a clip is its narration_id, its group
    is the participant. No verb or noun depends on left and right: all keep their label when mirrored.

    Raises:
        InputError: a file is missing, of another format or of EPIC-KITCHENS-55, a class is unknown, a segment is listed
            twice, lies past the end of its video, or its video is missing.
    """
    verbs, nouns = verbs_and_nouns(annotations, EPIC_100)
    seconds = video_seconds(annotation_file(annotations, "video_info", EPIC_100), EPIC_100)
    found: dict[str, list[Segment]] = {}
    for split, name in _FILES.items():
        try:
            file = annotation_file(annotations, name, EPIC_100)
        except InputError as error:
            if split != "test" and not partial:
                raise
            note(f"{error}: no split {split}")
            continue
        labelled = None if split == "test" else (verbs, nouns)
        found[split] = segments(file, EPIC_100, seconds=seconds, classes=labelled, note=note)
    if not found.keys() & {"train", "val"}:
        raise InputError(f"{os.path.abspath(annotations)}: neither the training nor the validation list is there")
    base, placed = placed_videos(videos, {one.video: "" for some in found.values() for one in some}, EPIC_100, note)
    lists = []
    for split, some in found.items():
        clips = [(line, replace(clip, split=split)) for line, clip in clips_of(some, placed, note)]
        lists.append(SplitList(file=some[0].file, clips=clips, official=NUM_CLIPS[split]))
    return published_manifest(
        lists,
        classes=[*verbs, *nouns],
        head_sizes=(("verb", len(verbs)), ("noun", len(nouns))),
        flip_map="identity",
        videos=base,
        is_there=is_whole(placed),
        partial=partial,
        note=note,
    )

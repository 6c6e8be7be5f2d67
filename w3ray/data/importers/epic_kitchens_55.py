"""EPIC-KITCHENS-55 into a manifest: segments of untrimmed videos or frame folders, with a verb and a noun.

Source of the format and the counts: Damen et al., "Scaling Egocentric Vision", ECCV 2018, and its annotation files:
28,472 segments of 28 participants with labels; without labels 8,047 of the same participants (seen kitchens, S1) and
2,929 of four others (unseen, S2). EPIC_train_invalid_labels.csv has 116 more, whose verb has no class; together 39,564
(the paper counts 39,594). The files have 125 verb classes and 352 noun classes (the paper: 331).

The data set has no validation part. `VAL_GROUPS` are the participants that Wu et al., "Long-Term Feature Banks", CVPR
2019, hold out: P26 to P31, 5,281 segments of unseen kitchens (their program's `NUM_TEST_SEG`).
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from w3ray.data.importers._common import Clip
from w3ray.data.importers._epic import (
    EPIC_55,
    Segment,
    annotation_file,
    segments,
    verbs_and_nouns,
    video_seconds,
)
from w3ray.data.importers._epic_videos import clips_of, is_whole, placed_videos
from w3ray.data.importers._published import Note, SplitList, published_manifest, read_lines
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError
from w3ray.published_sets import EPIC_KITCHENS_55

NUM_CLIPS = EPIC_KITCHENS_55.clips
VAL_GROUPS = ("P26", "P27", "P28", "P29", "P30", "P31")
_FILES = {"train": "train_action_labels", "test-s1": "test_s1_timestamps", "test-s2": "test_s2_timestamps"}


def import_epic_kitchens_55(
    annotations: str | os.PathLike[str],
    *,
    videos: str,
    val_groups: Sequence[str] | None = None,
    partial: bool = False,
    note: Note = print,
) -> Manifest:
    """EPIC-KITCHENS-55: CSV lists and untrimmed videos or frame folders; two heads, verb and noun.

    Args:
        annotations: folder with `EPIC_train_action_labels.csv`, `EPIC_verb_classes.csv`, `EPIC_noun_classes.csv`,
            `EPIC_video_info.csv` and perhaps `EPIC_test_s1_timestamps.csv` and `EPIC_test_s2_timestamps.csv`.
        videos: folder of `train/P01/P01_01.MP4` or of `train/P01/P01_01/frame_0000000001.jpg`, or a folder above; or a
            pattern such as `s3://bucket/{part}/{participant}/{video}.MP4`.
        val_groups: participants whose labelled segments become the split `val`; None: `VAL_GROUPS`; (): no val.
        partial: take what is there, of the lists and of the videos.
        note: called with one line about what is left out.

    The splits are train, val, test-s1 and test-s2. The last two have no labels, and exist if their lists are there.
    The clip_id of a clip is its uid, its group is the participant. No verb or noun depends on left and right: all keep
    their label when mirrored.

    Raises:
        InputError: a file is missing, of another format or of EPIC-KITCHENS-100, a class or a participant is unknown, a
            segment is listed twice, lies past the end of its video, or its video is missing.
    """
    verbs, nouns = verbs_and_nouns(annotations, EPIC_55)
    seconds = video_seconds(annotation_file(annotations, "video_info", EPIC_55), EPIC_55)
    found: dict[str, list[Segment]] = {}
    for split, name in _FILES.items():
        try:
            file = annotation_file(annotations, name, EPIC_55)
        except InputError as error:
            if split == "train":
                raise
            note(f"{error}: no split {split}")
            continue
        labelled = (verbs, nouns) if split == "train" else None
        found[split] = segments(file, EPIC_55, seconds=seconds, classes=labelled, note=note)
    _note_invalid(Path(os.path.abspath(annotations)), note)
    held_out = VAL_GROUPS if val_groups is None else tuple(val_groups)
    _check_participants(held_out, found["train"])
    parts = {segment.video: split.partition("-")[0] for split, some in found.items() for segment in some}
    base, placed = placed_videos(videos, parts, EPIC_55, note)
    lists = []
    for split, some in found.items():
        clips = [
            (line, replace(clip, split=_split(split, clip, held_out))) for line, clip in clips_of(some, placed, note)
        ]
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


def _split(listed: str, clip: Clip, held_out: Sequence[str]) -> str:
    return "val" if listed == "train" and clip.group in held_out else listed


def _note_invalid(folder: Path, note: Note) -> None:
    file = folder / "EPIC_train_invalid_labels.csv"
    if file.is_file():
        note(f"{file}: {sum(1 for _ in read_lines(file)) - 1} segments whose verb has no class are left out")


def _check_participants(held_out: Sequence[str], found: Sequence[Segment]) -> None:
    known = sorted({segment.participant for segment in found})
    for name in held_out:
        # A list that is cut off may lack some of the default participants; its length is checked later.
        if name not in known and name not in VAL_GROUPS:
            raise InputError(f"{found[0].file}: no participant {name!r} to hold out; it has {', '.join(known)}")
    if set(held_out) >= set(known):
        raise InputError(f"{found[0].file}: every participant is held out, nothing is left to train on")

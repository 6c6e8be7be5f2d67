"""EgoGesture into a manifest: frame folders `<videos>/Subject01/Scene1/Color/rgb1/000001.jpg`, each with some gestures.

Two forms of the same annotation are read: the original files, `Subject01/Scene1/Group1.csv` with rows
`label,first,last` and no header, one for each frame folder; and the lists derived from them (trainlistall.txt,
vallistall.txt, testlistall.txt) with rows `Subject03/Scene1/Color/rgb1 7 67 112`. Labels count from 1. Frames are the
numbers of the images; the last frame belongs to the gesture. In the lists, label 84 means no gesture.

Source of the counts: Zhang et al., "EgoGesture", IEEE Transactions on Multimedia 20(5), 2018, and its page: 24,161
gestures of 83 classes by 50 people; 14,416, 4,768 and 4,977 of them by the people of train, val and test.
"""

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from w3ray.data.decoders._common import DecodeError
from w3ray.data.decoders.frames import FrameNames, whole_frame_names
from w3ray.data.importers._common import Clip
from w3ray.data.importers._looking import current
from w3ray.data.importers._published import (
    Note,
    SplitList,
    check_count,
    find_file,
    published_manifest,
    read_lines,
    video_uri,
)
from w3ray.data.manifest import FOLDER_FPS, Manifest
from w3ray.errors import InputError
from w3ray.published_sets import EGOGESTURE

# fmt: off
CLASSES = (
    "Scroll_hand_towards_right", "Scroll_hand_towards_left", "Scroll_hand_downward", "Scroll_hand_upward",
    "Scroll_hand_forward", "Scroll_hand_backward", "Cross_index_fingers", "Zoom_in_with_fists", "Zoom_out_with_fists",
    "Rotate_fists_clockwise", "Rotate_fists_counterclockwise", "Zoom_in_with_fingers", "Zoom_out_with_fingers",
    "Rotate_fingers_clockwise", "Rotate_fingers_counterclockwise", "Click_with_index_finger", "Sweep_diagonal",
    "Sweep_circle", "Sweep_cross", "Sweep_checkmark", "Static_fist", "Measure(distance)", "Photo_frame", "Number_0",
    "Number_1", "Number_2", "Number_3", "Number_4", "Number_5", "Number_6", "Number_7", "Number_8", "Number_9", "OK",
    "Another_number_3", "Pause", "Shape_C", "Make_a_phone_call", "Wave_hand", "Wave_finger", "Knock", "Beckon",
    "Palm_to_fist", "Fist_to_Palm", "Trigger_with_thumb", "Trigger_with_index_finger", "Hold_fist_in_the_other_hand",
    "Grasp", "Walk", "Gather_fingers", "Snap_fingers", "Applaud", "Dual_hands_heart", "Put_two_fingers_together",
    "Take_two_fingers_apart", "Turn_over", "Move_fist_upward", "Move_fist_downward", "Move_fist_toward_left",
    "Move_fist_toward_right", "Bring_hand_close", "Push_away", "Thumb_upward", "Thumb_downward", "Thumb_toward_right",
    "Thumb_toward_left", "Thumbs_backward", "Thumbs_forward", "Move_hand_upward", "Move_hand_downward",
    "Move_hand_towards_left", "Move_hand_towards_right", "Draw_circle_with_hand_in_horizontal_surface",
    "Bent_number_2", "Bent_another_number_3", "Dual_fingers_heart", "Scroll_fingers_toward_left",
    "Scroll_fingers_toward_right", "Move_fingers_upward", "Move_fingers_downward", "Move_fingers_left",
    "Move_fingers_right", "Move_fingers_forward",
)
# fmt: on
NO_GESTURE = 84
NUM_CLIPS = EGOGESTURE.clips
VAL_SUBJECTS = frozenset({1, 7, 12, 13, 24, 29, 33, 34, 35, 37})
TEST_SUBJECTS = frozenset({2, 9, 11, 14, 18, 19, 28, 31, 41, 47})
NUM_SUBJECTS = 50

_LISTS = {"train": "trainlistall.txt", "val": "vallistall.txt", "test": "testlistall.txt"}
_GROUP_FILE = re.compile(r"subject(\d\d)/scene(\d)/group(\d+)\.csv", re.IGNORECASE)
_FOLDER = re.compile(r"Subject(\d\d)/Scene\d/Color/rgb\d+")
_NUMBER = re.compile(r"(\d+)(\.0*)?")
_FOLDERS_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gesture:
    file: Path
    line: int
    folder: str
    label: int
    first: int
    last: int
    split: str


def import_egogesture(
    annotations: str | os.PathLike[str], *, videos: str, partial: bool = False, note: Note = print
) -> Manifest:
    """EgoGesture: original CSV files or derived lists, and frame folders.

    Args:
        annotations: folder with `Subject01/Scene1/Group1.csv` and so on (`labels-final-revised1`), or with the lists.
        videos: folder or address of `Subject01/Scene1/Color/rgb1/000001.jpg`. Each folder is listed to find its first
            image. If an import does not look for videos, images count from 1.
        partial: take what is there, of the annotations and of the frames.
        note: called with one line about what is left out: spans without a gesture.

    The group of a clip is its subject. The manifest has no flip map, so training may not mirror clips: the mirror image
    of a check mark, of the letter C or of a diagonal sweep is not a class.

    Raises:
        InputError: a file is missing or of another format, a label is unknown, a gesture is listed twice, its frames
            are missing or lie past the end of their folder.
    """
    folder = Path(os.path.abspath(annotations))
    gestures = list(_original(folder, note) or _derived(folder, partial, note))
    for split, official in NUM_CLIPS.items():
        found = sum(1 for gesture in gestures if gesture.split == split)
        check_count(f"{folder} ({split})", found, official, partial, note)
    not_asked = current().skip or videos.startswith(("http://", "https://"))
    names = {} if not_asked else _frame_names(sorted({gesture.folder for gesture in gestures}), videos, note)
    by_file: dict[Path, list[tuple[int, Clip]]] = {}
    for gesture in gestures:
        clip = _clip(gesture, videos, names.get(gesture.folder))
        by_file.setdefault(gesture.file, []).append((gesture.line, clip))

    def is_whole(clip: Clip) -> bool:
        known = names.get(clip.path)
        if known is None or clip.start_s is None or clip.end_s is None:
            return False
        return clip.start_s >= 0 and round(clip.end_s * FOLDER_FPS) <= known.num_frames

    return published_manifest(
        [SplitList(file=file, clips=clips) for file, clips in by_file.items()],
        classes=CLASSES,
        flip_map=None,
        videos=videos,
        is_there=is_whole,
        partial=partial,
        note=note,
        asks_remote=True,
    )


def _original(folder: Path, note: Note) -> list[_Gesture]:
    """The gestures in the original files; empty if there are none."""
    found = []
    for path in sorted(folder.rglob("*.csv")):
        match = _GROUP_FILE.fullmatch(path.relative_to(folder).as_posix())
        if match:
            found.append((int(match[1]), int(match[2]), int(match[3]), path))
    gestures, empty = [], 0
    for subject, scene, group, path in sorted(found):
        for line, text in read_lines(path):
            label, *span = (value.strip() for value in text.split(","))
            if span == ["", ""]:
                empty += 1
                continue
            frames = f"Subject{subject:02d}/Scene{scene}/Color/rgb{group}"
            gesture = _gesture(path, line, [frames, label, *span], _split(path, line, subject), text)
            if gesture.label == NO_GESTURE:
                raise InputError(f"{path}:{line}: label {NO_GESTURE} is none of 1 to {len(CLASSES)}")
            gestures.append(gesture)
    if empty:
        note(f"{folder}: {empty} rows without frames are left out")
    return gestures


def _derived(folder: Path, partial: bool, note: Note) -> Iterator[_Gesture]:
    _check_classes(folder / "classIndAll.txt")
    nothing = 0
    for split, name in _LISTS.items():
        try:
            file = find_file(folder, [name], "the lists, or the original Subject01/Scene1/Group1.csv, of EgoGesture")
        except InputError as error:
            if not partial or split == "train":
                raise
            note(str(error))
            continue
        for line, text in read_lines(file):
            gesture = _gesture(file, line, text.split(), split, text)
            match = _FOLDER.fullmatch(gesture.folder)
            if match is None or _split(file, line, int(match[1])) != split:
                raise InputError(f"{file}:{line}: {gesture.folder!r} is no folder of a subject of the split {split}")
            if gesture.label == NO_GESTURE:
                nothing += 1
            else:
                yield gesture
    note(f"{folder}: {nothing} spans without a gesture (label {NO_GESTURE}) are left out")


def _check_classes(file: Path) -> None:
    """If the class file of the lists is there, it must say the same as `CLASSES`."""
    if not file.is_file():
        return
    for label, (line, text) in enumerate(read_lines(file), start=1):
        known = CLASSES[label - 1] if label <= len(CLASSES) else "None"
        if text != f"{label} {known}":
            raise InputError(f"{file}:{line}: {text!r}; EgoGesture has `{label} {known}`")


def _gesture(file: Path, line: int, values: list[str], split: str, text: str) -> _Gesture:
    numbers = [_NUMBER.fullmatch(value) for value in values[1:]]
    if len(numbers) != 3 or None in numbers:
        raise InputError(f"{file}:{line}: {text!r} is not a label, a first and a last frame")
    label, first, last = (int(number[1]) for number in numbers if number)
    if not 1 <= label <= NO_GESTURE:
        raise InputError(f"{file}:{line}: label {label} is none of 1 to {len(CLASSES)} ({NO_GESTURE}: no gesture)")
    if last < first:
        raise InputError(f"{file}:{line}: its last frame {last} lies before its first one {first}")
    return _Gesture(file=file, line=line, folder=values[0], label=label, first=first, last=last, split=split)


def _split(file: Path, line: int, subject: int) -> str:
    if not 1 <= subject <= NUM_SUBJECTS:
        raise InputError(f"{file}:{line}: there is no subject {subject}; EgoGesture has 1 to {NUM_SUBJECTS}")
    return "val" if subject in VAL_SUBJECTS else "test" if subject in TEST_SUBJECTS else "train"


def _frame_names(folders: list[str], videos: str, note: Note) -> Mapping[str, FrameNames]:
    """The image names of each folder that can be used. A note tells about the others."""

    def look(folder: str) -> FrameNames | DecodeError:
        try:
            return whole_frame_names(video_uri(videos, folder))
        except DecodeError as error:
            return error

    with ThreadPoolExecutor(_FOLDERS_AT_ONCE) as pool:
        answers = dict(zip(folders, pool.map(look, folders), strict=True))
    bad = {folder: answer.reason for folder, answer in answers.items() if isinstance(answer, DecodeError)}
    if bad:
        first, reason = next(iter(bad.items()))
        note(f"{videos}: {len(bad)} of {len(folders)} frame folders cannot be used; first {first}: {reason}")
    return {folder: answer for folder, answer in answers.items() if isinstance(answer, FrameNames)}


def _clip(gesture: _Gesture, videos: str, names: FrameNames | None) -> Clip:
    begin = 1 if names is None else names.first
    return Clip(
        path=gesture.folder,
        uri=video_uri(videos, gesture.folder),
        label=CLASSES[gesture.label - 1],
        split=gesture.split,
        group=gesture.folder.partition("/")[0],
        start_s=(gesture.first - begin) / FOLDER_FPS,
        end_s=(gesture.last + 1 - begin) / FOLDER_FPS,
        name=f"{gesture.folder}@{gesture.first}-{gesture.last}",
    )

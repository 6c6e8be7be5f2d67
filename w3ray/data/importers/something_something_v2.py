"""Something-Something v2 into a manifest: `<videos>/<id>.webm` and the JSON files of the distribution.

Source of the format and the counts: Goyal et al., "The 'Something Something' Video Database", arXiv:1706.04261, and
the data set's page (168,913 training, 24,777 validation and 27,157 test videos of 174 classes).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from w3ray.data.importers._common import Clip
from w3ray.data.importers._published import (
    Note,
    SplitList,
    check_classes,
    find_file,
    is_file,
    known_label,
    mirrored,
    published_manifest,
    read_text,
    video_uri,
)
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError
from w3ray.published_sets import SOMETHING_SOMETHING_V2

NUM_CLASSES, NUM_CLIPS = SOMETHING_SOMETHING_V2.num_classes, SOMETHING_SOMETHING_V2.clips
_FILES = {"train": "train", "val": "validation", "test": "test"}
DIRECTIONS = (("left", "right"),)
"""In a mirror, moving, pushing and filming go towards the other side. No other class depends on left and right."""
NO_DIRECTION = ("pulling it right out",)
"""Here "right" means "at once"."""


def import_something_something_v2(
    annotations: str | os.PathLike[str], *, videos: str, partial: bool = False, note: Note = print
) -> Manifest:
    """Something-Something v2: JSON lists and WebM videos.

    Args:
        annotations: folder with `something-something-v2-train.json`, `-validation.json`, `-labels.json` and perhaps
            `-test.json` (or the later `train.json`, `validation.json`, `labels.json`, `test.json`).
        videos: folder or address of `<id>.webm`.
        partial: take what is there, of the lists and of the videos.
        note: called with one line about what is left out.

    The test videos, which have no labels, become the split `test` if their list is there. Without the list they are not
    needed. (Older versions left them out. A manifest that is imported again has them, and another fingerprint.)

    Raises:
        InputError: a file is missing or of another format, a label is unknown, a video is listed twice or missing.
    """
    labels_file = _file(annotations, "labels")
    classes = _classes(labels_file)
    lists = []
    for split in ("train", "val"):
        try:
            file = _file(annotations, _FILES[split])
        except InputError as error:
            if not partial:
                raise
            note(str(error))
            continue
        clips = [(place, _clip(file, place, entry, split, classes, videos)) for place, entry in _entries(file)]
        lists.append(SplitList(file=file, clips=clips, official=NUM_CLIPS[split]))
    if (test := _test_file(annotations)) is not None:
        lists.append(_unlabelled(test, videos))
    return published_manifest(
        lists,
        classes=list(classes),
        flip_map=mirrored(list(classes), DIRECTIONS, no_direction=NO_DIRECTION),
        videos=videos,
        is_there=is_file,
        partial=partial,
        note=note,
    )


def _file(annotations: str | os.PathLike[str], kind: str) -> Path:
    names = (f"something-something-v2-{kind}.json", f"{kind}.json")
    return find_file(annotations, names, "the JSON files of Something-Something v2")


def _test_file(annotations: str | os.PathLike[str]) -> Path | None:
    """The list of the test videos; None if it is not there, because it is optional."""
    try:
        return _file(annotations, _FILES["test"])
    except InputError:
        return None


def _json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not a JSON file ({error})") from error


def _classes(file: Path) -> dict[str, int]:
    """Name -> label, in label order; the file has labels as strings, `{"Closing something": "5"}`."""
    found = _json(file)
    if not isinstance(found, dict) or not all(str(label).isdecimal() for label in found.values()):
        raise InputError(f'{file}: not the labels of Something-Something v2 (an object {{"name": "label", ...}})')
    classes = {name: int(label) for name, label in sorted(found.items(), key=lambda item: int(item[1]))}
    check_classes(list(classes), NUM_CLASSES, file, "Something-Something v2")
    if list(classes.values()) != list(range(NUM_CLASSES)):
        raise InputError(f"{file}: the labels are not 0 to {NUM_CLASSES - 1}, each once")
    return classes


def _entries(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    found = _json(file)
    if not isinstance(found, list):
        raise InputError(f'{file}: not a list of Something-Something v2 (entries {{"id": ..., "template": ...}})')
    for place, entry in enumerate(found, start=1):
        if not isinstance(entry, dict) or not str(entry.get("id", "")).isdecimal():
            raise InputError(f"{file}:{place}: an entry without an id of digits: is it of another version?")
        yield place, entry


def _unlabelled(file: Path, videos: str) -> SplitList:
    clips = []
    for place, entry in _entries(file):
        path = f"{entry['id']}.webm"
        clips.append((place, Clip(path=path, uri=video_uri(videos, path), split="test")))
    return SplitList(file=file, clips=clips, official=NUM_CLIPS["test"])


def _clip(file: Path, place: int, entry: dict[str, Any], split: str, classes: dict[str, int], videos: str) -> Clip:
    template = entry.get("template")
    if not isinstance(template, str):
        raise InputError(f"{file}:{place}: an entry without a template: is it of another version?")
    # A template has "[something]" where its class has "something".
    label = known_label(template.replace("[", "").replace("]", ""), classes, f"{file}:{place}")
    path = f"{entry['id']}.webm"
    return Clip(path=path, uri=video_uri(videos, path), label=label, split=split)

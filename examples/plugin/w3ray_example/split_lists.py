"""Videos with one list per split: `train.txt`, `val.txt` and an optional `test.txt`.

A line is the path of a video in the folder of videos, a blank, and the name of its class.
"""

import os
from collections.abc import Callable
from pathlib import Path

from w3ray import InputError
from w3ray.data.importers import Clip, to_manifest
from w3ray.data.manifest import Manifest


def import_split_lists(
    annotations: str | os.PathLike[str], *, videos: str, partial: bool = False, note: Callable[[str], None] = print
) -> Manifest:
    """Import videos with the lists train.txt, val.txt and an optional test.txt.

    Args:
        annotations: folder of the lists.
        videos: folder of the videos.
        partial: leave out videos that are not there.
        note: gets one line about what is left out.

    Raises:
        InputError: a list is missing or has a line of another form, or a video is missing.
    """
    clips: list[Clip] = []
    missing: list[str] = []
    for split in ("train", "val", "test"):
        file = Path(annotations) / f"{split}.txt"
        if split == "test" and not file.is_file():
            continue
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}); give the folder of the lists") from error
        for number, line in enumerate(lines, start=1):
            path, blank, label = line.partition(" ")
            if not (path and blank and label):
                raise InputError(f"{file}:{number}: {line!r} is not of the form `video class`")
            uri = os.path.join(os.path.abspath(videos), path)
            if os.path.exists(uri):
                clips.append(Clip(path=path, uri=uri, label=label, split=split))
            else:
                missing.append(path)
    if missing:
        text = f"{len(missing)} videos are missing: {', '.join(missing[:5])}"
        if not partial:
            raise InputError(f"{text}; --partial imports what is there")
        note(text)
    return to_manifest(clips, sorted({clip.label for clip in clips}), flip_map=None)

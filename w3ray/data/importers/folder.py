"""Class folders into a manifest: `root/<class>/<clip>`, or `root/<split>/<class>/<clip>`.

A clip is a video file, or a folder of JPEG frames.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from w3ray.data.decoders.frames import IMAGE_EXTENSIONS
from w3ray.data.importers._common import (
    VIDEO_EXTENSIONS,
    Clip,
    Dealing,
    deal_at_random,
    deal_by_group,
    line_without_text,
    split_name,
    to_manifest,
    with_groups,
)
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError

_USUAL_SPLITS = {"train", "val", "test"}


def import_folder(
    root: str | os.PathLike[str],
    *,
    split: Literal["folder", "list", "group", "random"] = "random",
    lists: Mapping[str, str | os.PathLike[str]] | None = None,
    group: str | None = None,
    dealing: Dealing | None = None,
    classes: Sequence[str] | None = None,
    flip_map: Mapping[str, str] | Literal["identity"] | None = None,
) -> Manifest:
    """Every clip beneath the class folders of `root`; the folder's name is the class, also for deeper sub-folders.

    Args:
        root: the folder of class folders (of split folders for `split="folder"`).
        split: "folder" takes it from the first folder level, "list" from `lists`, "group" holds out whole groups,
            "random" a share of each class (both as `dealing` says).
        lists: split name -> text file with one clip a line: its path beneath `root` (the extension may be left out),
            then perhaps a label, which is not read. Clips in no list are left out.
        group: regular expression with one capture, searched in each clip's path beneath `root`.
        dealing: which groups, or what share, to hold out; the default holds out a fifth for val.
        classes: the class names in label order; None: sorted.
        flip_map: class -> class of its mirror image, or "identity": a mirrored clip keeps its class.

    Raises:
        InputError: no such folder, a class folder without a video, a list that names an unknown clip, and the like.
    """
    top = Path(os.path.abspath(root))
    if not top.is_dir():
        raise InputError(f"{top}: no such folder; give the folder that holds the class folders")
    if split == "folder":
        clips = [
            replace(clip, split=split_name(folder.name))
            for folder in _folders(top, "split folders")
            for clip in _class_folders(folder, top)
        ]
    else:
        clips = _class_folders(top, top)
    if group is not None:
        clips = with_groups(clips, group, str(top))
    dealing = dealing or Dealing()
    if split == "list":
        clips = _by_lists(clips, lists or {}, top)
    elif split == "group":
        clips = deal_by_group(clips, dealing, str(top))
    elif split == "random":
        clips = deal_at_random(clips, dealing)
    found = sorted({clip.label for clip in clips})
    if classes is None:
        classes = found
    elif unknown := sorted(set(found) - set(classes)):
        raise InputError(f"{top}: folder {unknown[0]!r} is none of the classes {', '.join(classes)}")
    return to_manifest(clips, classes, flip_map)


def _folders(parent: Path, what: str) -> list[Path]:
    folders = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise InputError(f"{parent}: it holds no {what}")
    return folders


def _class_folders(parent: Path, top: Path) -> list[Clip]:
    folders = _folders(parent, "class folders")
    if parent == top and {split_name(folder.name) for folder in folders} <= _USUAL_SPLITS:
        raise InputError(
            f"{top}: its folders are splits ({', '.join(f.name for f in folders)}); use the split 'folder'"
        )
    clips = []
    for folder in folders:
        videos = _videos(folder)
        if not videos:
            raise InputError(
                f"{folder}: no video in this class folder (known: {' '.join(sorted(VIDEO_EXTENSIONS))}), "
                "and no folder of JPEG frames"
            )
        clips += [Clip(path=video.relative_to(top).as_posix(), uri=str(video), label=folder.name) for video in videos]
    return clips


def _videos(folder: Path) -> list[Path]:
    """Videos, and folders that hold images and no video."""
    found = []
    for parent, names, files in os.walk(folder, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith("."))
        extensions = {name: os.path.splitext(name)[1].lower() for name in files if not name.startswith(".")}
        videos = [Path(parent, name) for name, extension in extensions.items() if extension in VIDEO_EXTENSIONS]
        if not videos and Path(parent) != folder and not IMAGE_EXTENSIONS.isdisjoint(extensions.values()):
            videos, names[:] = [Path(parent)], []
        found += videos
    return sorted(found)


def _by_lists(clips: Sequence[Clip], lists: Mapping[str, str | os.PathLike[str]], top: Path) -> list[Clip]:
    if not lists:
        raise InputError(f"{top}: the split 'list' needs list files, such as train=trainlist.txt,val=vallist.txt")
    by_name: dict[str, Clip] = {}
    for clip in clips:
        for name in dict.fromkeys((clip.path, os.path.splitext(clip.path)[0])):
            # Two files that differ in the extension alone: only their full names are unambiguous.
            by_name[name] = replace(clip, label="") if name in by_name else clip
    split_of: dict[str, str] = {}
    first: dict[str, str] = {}
    for split, listing in lists.items():
        for number, line in _lines(listing, split):
            named = by_name.get(line) or by_name.get(line.replace(",", " ").rsplit(maxsplit=1)[0])
            if named is None or not named.label:
                fault = "names no clip" if named is None else "fits two clips"
                raise InputError(f"{listing}:{number}: {line!r} {fault} beneath {top}")
            if split_of.setdefault(named.path, split_name(split)) != split_name(split):
                raise InputError(f"{listing}:{number}: {named.path!r} is already in split {split_of[named.path]!r}")
            if first.setdefault(named.path, here := f"{listing}:{number}") != here:
                raise InputError(f"{here}: {named.path!r} is listed twice, first in {first[named.path]}")
    if not split_of:
        raise InputError(f"{top}: the list files name no clip")
    return [replace(clip, split=split_of[clip.path]) for clip in clips if clip.path in split_of]


def _lines(listing: str | os.PathLike[str], split: str) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line that is not empty."""
    try:
        text = Path(listing).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"list file {listing} of split {split!r} can not be read: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{listing}:{line_without_text(listing)}: the list of split {split!r} can not be read: no UTF-8 text"
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()

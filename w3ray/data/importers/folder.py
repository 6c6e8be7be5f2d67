"""Class folders into a manifest: `root/<class>/<clip>`, or `root/<split>/<class>/<clip>`.

A clip is a video file, or a folder of JPEG frames (`w3ray.data.clip_files`).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from w3ray.data.clip_files import VIDEO_EXTENSIONS, broken_links, clips_below, is_broken, leads_back
from w3ray.data.decoders.frames import frames_uri
from w3ray.data.importers._common import (
    Clip,
    Dealing,
    deal_at_random,
    deal_by_group,
    line_without_text,
    to_manifest,
    with_groups,
)
from w3ray.data.manifest import Manifest
from w3ray.data.split_names import is_split_name, split_name, split_names
from w3ray.errors import InputError


def import_folder(
    root: str | os.PathLike[str],
    *,
    split: Literal["folder", "list", "group", "random"] | None = None,
    lists: Mapping[str, str | os.PathLike[str]] | None = None,
    group: str | None = None,
    dealing: Dealing | None = None,
    classes: Sequence[str] | None = None,
    flip_map: Mapping[str, str] | Literal["identity"] | None = None,
    frame_prefix: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Every clip below the class folders of `root`. The name of the class folder is the class, also in deeper folders.

    One folder called "test" among others is a class. If all folders have names of splits, and hold folders and no
    videos, they are the splits. If all of them have such names otherwise, or if there are folders of two splits among
    others, they are refused as class folders unless `classes` names them.

    Args:
        root: the folder of class folders (of split folders for `split="folder"`).
        split: "folder" takes it from the first folder level, "list" from `lists`, "group" holds out whole groups,
            "random" a share of each class (both as `dealing` says). None: "folder" if the folders are splits, else
            "random".
        lists: split name -> text file with one clip a line: its path beneath `root` (the extension may be left out),
            then perhaps a number of frames and a label, which are ignored. Clips in no list are left out.
        group: regular expression with one capture, searched in each clip's path beneath `root`.
        dealing: which groups, or what share, to hold out; the default holds out a fifth for val.
        classes: the class names in label order; None: sorted.
        flip_map: class -> class of its mirror image, or "identity": a mirrored clip keeps its class.
        frame_prefix: prefix of the images that are the frames, such as "img_", if a clip's folder also holds other
            images; None: it holds no others, or only images with names of optical flow.
        note: called with a line about what was decided.

    Raises:
        InputError: no such folder, a class folder without a video, a broken link, a list that names an unknown clip,
            and the like.
    """
    top = Path(os.path.abspath(root))
    if not top.is_dir():
        raise InputError(f"{top}: no such folder; give the folder that holds the class folders")
    if split is None:
        names = _split_folders(top, classes or ())
        split = "folder" if names else "random"
        if names:
            note(f"splits: the folders {', '.join(names)}; if they are classes, name all of them with --classes")
    if split == "folder":
        parents = _folders(top, "split folders")
        split_of = split_names((folder.name for folder in parents), str(top))
        clips = _clips(
            [folder for parent in parents for folder in _folders(parent, "class folders")], top, frame_prefix
        )
        clips = [replace(clip, split=split_of[clip.path.partition("/")[0]]) for clip in clips]
    else:
        folders = _folders(top, "class folders")
        _check_no_splits(folders, classes or (), top)
        clips = _clips(folders, top, frame_prefix)
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
    paths = sorted(path for path in parent.iterdir() if not path.name.startswith("."))
    if broken := [str(path) for path in paths if is_broken(str(path)) and not path.suffix]:
        raise broken_links(broken, str(parent))
    folders = [path for path in paths if path.is_dir() and not (path.is_symlink() and leads_back(str(path)))]
    if not folders:
        raise InputError(f"{parent}: it holds no {what}")
    return folders


def _split_folders(top: Path, classes: Sequence[str]) -> list[str]:
    """The names of the folders, if all of them are splits: two different ones at least, with folders and no videos."""
    folders = _folders(top, "class folders")
    names = [folder.name for folder in folders]
    if not all(map(is_split_name, names)) or set(names) & set(classes) or len(set(map(split_name, names))) < 2:
        return []
    inside = [[path for path in folder.iterdir() if not path.name.startswith(".")] for folder in folders]
    if not all(any(path.is_dir() for path in paths) for paths in inside):
        return []
    return [] if any(path.suffix.lower() in VIDEO_EXTENSIONS for paths in inside for path in paths) else names


def _check_no_splits(folders: Sequence[Path], classes: Sequence[str], top: Path) -> None:
    named = [folder.name for folder in folders if is_split_name(folder.name) and folder.name not in classes]
    if named and (len(named) == len(folders) or len({split_name(name) for name in named}) > 1):
        raise InputError(
            f"{top}: its folders are splits ({', '.join(named)}); use the split 'folder' (--split folder), or "
            "name all classes in the order of their labels if these are classes (--classes)"
        )


def _clips(folders: Sequence[Path], top: Path, frame_prefix: str | None) -> list[Clip]:
    """The clips of all class folders. The names of the folders are the classes."""
    found = clips_below([str(folder) for folder in folders], tops_are_clips=False)
    if broken := [path for files in found.values() for path in files.broken]:
        raise broken_links(broken, str(top))
    clips = []
    for folder in folders:
        files = found[str(folder)]
        if files.read_before:
            raise InputError(
                f"{folder}: a link to {os.path.realpath(folder)}, whose clips are in another class or split already; "
                "remove one of them"
            )
        if not files.clips:
            raise InputError(
                f"{folder}: no video in this class folder (known: {' '.join(sorted(VIDEO_EXTENSIONS))}), "
                "and no folder of JPEG frames"
            )
        uris = {path: path for path in files.videos}
        uris |= {path: frames_uri(path, frame_prefix) for path in files.frame_folders}
        clips += [
            Clip(path=path.relative_to(top).as_posix(), uri=uris[str(path)], label=folder.name)
            for path in sorted(map(Path, uris))
        ]
    return clips


def _by_lists(clips: Sequence[Clip], lists: Mapping[str, str | os.PathLike[str]], top: Path) -> list[Clip]:
    if not lists:
        raise InputError(f"{top}: the split 'list' needs list files, such as train=trainlist.txt,val=vallist.txt")
    by_name: dict[str, Clip] = {}
    for clip in clips:
        for name in dict.fromkeys((clip.path, os.path.splitext(clip.path)[0])):
            # Two files that differ in the extension alone: only their full names are unambiguous.
            by_name[name] = replace(clip, label="") if name in by_name else clip
    names = split_names(lists, "list files")
    split_of: dict[str, str] = {}
    first: dict[str, str] = {}
    for split, listing in lists.items():
        for number, line in _lines(listing, split):
            # The whole line, the line without a label, or also without a number of frames.
            texts = (line, *(line.replace(",", " ").rsplit(maxsplit=values)[0] for values in (1, 2)))
            named = next((by_name[text] for text in texts if text in by_name), None)
            if named is None or not named.label:
                fault = "names no clip" if named is None else "fits two clips"
                raise InputError(f"{listing}:{number}: {line!r} {fault} beneath {top}")
            if split_of.setdefault(named.path, names[split]) != names[split]:
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
        raise InputError(f"list file {listing} of split {split!r} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{listing}:{line_without_text(listing)}: the list of split {split!r} cannot be read: not UTF-8 text"
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()

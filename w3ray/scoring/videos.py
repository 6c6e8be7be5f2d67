"""Which videos does an argument of a command name? It may be a file, a folder, a pattern, or on object storage."""

import glob
import os
import re

from w3ray._address import local_path
from w3ray.data.clip_files import clips_below, folders_once, is_image, is_video, remote_clips_below
from w3ray.data.decoders.frames import is_frame_folder
from w3ray.errors import InputError
from w3ray.storage import RemotePath, is_remote, storage_path


def videos_of(name: str) -> list[str]:
    """The videos that an argument names. Broken links are included, so that they are reported.

    Raises:
        InputError: nothing matches.
    """
    name = local_path(name)
    if is_remote(name):
        remote = storage_path(name)
        assert isinstance(remote, RemotePath)
        found = remote_clips_below(remote) if remote.is_dir() else [name]
    elif os.path.lexists(name):
        found = _in_folder(os.path.abspath(name)) if os.path.isdir(name) else [os.path.abspath(name)]
    else:
        found = _matching(name)
    if not found:
        raise InputError(f"{name}: no such file, and no video matches it")
    return found


def _in_folder(folder: str) -> list[str]:
    found = clips_below([folder], tops_are_clips=True)[folder]
    return [*found.clips, *found.broken]


def _matching(pattern: str) -> list[str]:
    matching = sorted(map(os.path.abspath, _glob(pattern)))
    found = [path for path in matching if (_in_folder(path) == [path] if os.path.isdir(path) else is_video(path))]
    if not found and is_frame_folder(pattern) and any(map(is_image, matching)):
        return [os.path.abspath(pattern)]  # one clip: a folder and the prefix of its frames, such as `clips/17/img_*`
    return found


def _glob(pattern: str) -> list[str]:
    """Like `glob.glob(pattern, recursive=True)`, but visits each folder once: glob follows circular links forever."""
    deep = re.search(r"(^|(?<=/))\*\*(/|$)", pattern)
    if deep is None:
        return glob.glob(pattern)
    head, tail = pattern[: deep.start()], pattern[deep.end() :]
    bases = [os.path.abspath(base) for base in glob.glob(head or ".") if os.path.isdir(base)]
    folders = [listing.folder for base in bases for listing in folders_once([base])]
    return [path for folder in folders for path in _glob(os.path.join(glob.escape(folder), tail or "*"))]

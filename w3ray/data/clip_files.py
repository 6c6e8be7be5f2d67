"""Which files and folders below a folder are clips? Importers, `predict` and `explain` share this one answer.

A clip is a video file, or a folder of images that holds no video, neither beside the images nor in a folder below: a
poster beside videos is not a frame of a clip. Names that begin with a dot are skipped. Links to folders are followed.
Each folder is read once, however many paths lead to it, and under its real path if that is below the folder, too.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow.fs as pafs

from w3ray.data.decoders.frames import IMAGE_EXTENSIONS
from w3ray.errors import InputError
from w3ray.storage import RemotePath

# Every container that FFmpeg reads and people keep clips in; compared in lower case.
VIDEO_EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("3gp", "asf", "avi", "flv", "gif", "m2ts", "m4v", "mjpeg", "mkv", "mov", "mp4", "mpeg"),
        *("mpg", "mts", "mxf", "ogv", "ts", "vob", "webm", "wmv"),
    )
)


@dataclass(frozen=True, slots=True)
class ClipFiles:
    """The clips of one folder, by kind, each kind sorted by name."""

    videos: list[str]
    frame_folders: list[str]
    broken: list[str]
    """Broken links that may have led to clips."""
    read_before: bool
    """The folder itself was already read under another path."""

    @property
    def clips(self) -> list[str]:
        return sorted([*self.videos, *self.frame_folders])


@dataclass(frozen=True, slots=True)
class Listing:
    """The files in one folder below (or at) `top`."""

    top: str
    folder: str
    files: list[str]
    broken: list[str]


@dataclass(frozen=True, slots=True)
class _Folder:
    """The part of a listing that matters. Images are only counted, because there may be millions."""

    path: str
    videos: list[str]
    broken: list[str]
    num_images: int

    @classmethod
    def of(cls, listing: Listing) -> "_Folder":
        # The name of a broken link tells what it led to; without an extension it may be a folder. Links to other files,
        # such as lists and texts, do not matter.
        return cls(
            path=listing.folder,
            videos=[name for name in listing.files if is_video(name)],
            broken=[name for name in listing.broken if is_video(name) or not _extension(name)],
            num_images=sum(map(is_image, (*listing.files, *listing.broken))),
        )


def is_video(name: str) -> bool:
    """Whether a file is a video, by its name alone."""
    return _extension(name) in VIDEO_EXTENSIONS


def is_image(name: str) -> bool:
    """Whether a file is an image, by its name alone."""
    return _extension(name) in IMAGE_EXTENSIONS


def holds_video(folder: str) -> bool:
    """Whether there is a video directly in a local folder."""
    return any(is_video(name) and not name.startswith(".") for name in os.listdir(folder))


def clips_below(tops: Sequence[str], *, tops_are_clips: bool) -> dict[str, ClipFiles]:
    """The clips of local folders, by folder.

    Args:
        tops: the folders, as absolute paths.
        tops_are_clips: whether one of these folders may itself be a clip, a folder of frames.

    Raises:
        InputError: a folder cannot be read.
    """
    folders: dict[str, list[_Folder]] = {top: [] for top in tops}
    for listing in folders_once(tops):
        folders[listing.top].append(_Folder.of(listing))
    return {top: _clips(top, found, tops_are_clips) for top, found in folders.items()}


def remote_clips_below(folder: RemotePath) -> list[str]:
    """The clips at a remote address, which has no links."""
    found: dict[str, list[str]] = {}
    for info in folder.filesystem.get_file_info(pafs.FileSelector(folder.path, recursive=True, allow_not_found=True)):
        path = info.path.removeprefix(f"{folder.path}/")
        if info.type == pafs.FileType.File and not any(part.startswith(".") for part in path.split("/")):
            parent, _, name = f"/{path}".rpartition("/")
            found.setdefault(parent, []).append(name)
    folders = [_Folder.of(Listing("", parent, names, [])) for parent, names in sorted(found.items())]
    return [str(folder / path[1:] if path else folder) for path in _clips("", folders, True).clips]


def folders_once(tops: Sequence[str]) -> Iterator[Listing]:
    """Every folder at or below the local `tops`, each one once. Links are followed.

    Raises:
        InputError: a folder cannot be read.
    """
    seen: set[str] = set()
    links: deque[tuple[str, str]] = deque()
    real, linked = _real_first(tops)
    for top in (*real, *linked):
        yield from _below(top, top, seen, links)
    while links:  # last, so that a folder below `tops` is found under its real path
        top, link = links.popleft()
        yield from _below(top, link, seen, links)


def leads_back(link: str) -> bool:
    """Whether a link leads to a folder that contains it, at whatever depth."""
    target = os.path.realpath(link)
    return f"{os.path.realpath(os.path.dirname(os.path.abspath(link)))}/".startswith(f"{target.rstrip('/')}/")


def is_broken(path: str) -> bool:
    """Whether a path is a link that leads nowhere."""
    return os.path.islink(path) and not os.path.exists(path)


def broken_links(broken: Sequence[str], where: str) -> InputError:
    one = f"{broken[0]} leads to {os.readlink(broken[0])}"
    many = f"{len(broken)} broken links, the first " if len(broken) > 1 else "a broken link: "
    return InputError(f"{where}: {many}{one}, which is not there; remove the link, or restore its target")


def _real_first(tops: Sequence[str]) -> tuple[list[str], list[str]]:
    if not tops:
        return [], []
    common = os.path.commonpath([os.path.abspath(top) for top in tops])
    base = os.path.realpath(common)
    linked = {
        top for top in tops if os.path.realpath(top) != os.path.normpath(base + os.path.abspath(top)[len(common) :])
    }
    return [top for top in tops if top not in linked], [top for top in tops if top in linked]


def _below(top: str, start: str, seen: set[str], links: deque[tuple[str, str]]) -> Iterator[Listing]:
    waiting = [(start, os.path.realpath(start))]
    while waiting:
        folder, real = waiting.pop()
        if real in seen:  # compared by path: some file systems have no numbers for folders
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
        listing = Listing(top, folder, [], [])
        below: list[tuple[str, str]] = []
        for entry in ordered:
            if entry.name.startswith("."):
                continue
            link = entry.is_symlink()
            if link and not os.path.exists(entry.path):
                listing.broken.append(entry.name)
            elif not entry.is_dir():
                if entry.is_file():
                    listing.files.append(entry.name)
            elif not link:
                below.append((entry.path, os.path.join(real, entry.name)))
            elif not leads_back(entry.path):
                links.append((top, entry.path))
        waiting += reversed(below)
        yield listing


def _clips(top: str, folders: Sequence[_Folder], top_is_clip: bool) -> ClipFiles:
    images = {folder.path: folder.num_images for folder in folders}
    with_videos = {
        above
        for folder in folders
        if folder.videos or any(map(is_video, folder.broken))
        for above in _and_above(folder.path, top)
    }
    frames = {
        path for path, count in images.items() if count and path not in with_videos and (path != top or top_is_clip)
    }
    # A single image above other clips is not a clip: it is their poster.
    above_frames = {above for path in frames if images[path] > 1 for above in _and_above(path, top)[1:]}
    frames -= {path for path in frames if images[path] == 1 and path in above_frames}
    frames = {path for path in frames if frames.isdisjoint(_and_above(path, top)[1:])}
    return ClipFiles(
        videos=sorted(f"{folder.path}/{name}" for folder in folders for name in folder.videos),
        frame_folders=sorted(frames),
        broken=sorted(f"{folder.path}/{name}" for folder in folders for name in folder.broken),
        read_before=not folders,
    )


def _and_above(folder: str, top: str) -> list[str]:
    """The folder and those above it, up to `top`."""
    found = [folder]
    while folder not in (top, ""):
        folder = folder.rpartition("/")[0]
        found.append(folder)
    return found


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()

"""Which files and folders below a folder are clips? Importers, `predict` and `explain` share this one answer.

A clip is a video file, or a folder of images that holds no video: neither beside its images nor in a folder below, for
a poster does not make its videos the frames of a clip. What begins with a dot is passed over. Links to folders are
followed, and each folder is read once, however many ways lead to it: where it really lies, if that is below the folder
too.
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
    """The clips of one folder, each kind by name."""

    videos: list[str]
    frame_folders: list[str]
    broken: list[str]
    """Links that lead nowhere and may have led to clips."""
    read_before: bool
    """The folder itself was read on another way."""

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


def is_video(name: str) -> bool:
    """By its name alone."""
    return _extension(name) in VIDEO_EXTENSIONS


def is_image(name: str) -> bool:
    """By its name alone."""
    return _extension(name) in IMAGE_EXTENSIONS


def holds_video(folder: str) -> bool:
    """Whether there is a video directly in a local folder."""
    return any(is_video(name) and not name.startswith(".") for name in os.listdir(folder))


def clips_below(tops: Sequence[str], *, tops_are_clips: bool) -> dict[str, ClipFiles]:
    """The clips of local folders, by folder.

    Args:
        tops: the folders, as absolute paths.
        tops_are_clips: whether one of them may itself be a clip that lies there as its frames.

    Raises:
        InputError: a folder cannot be read.
    """
    listings: dict[str, list[Listing]] = {top: [] for top in tops}
    for listing in folders_once(tops):
        listings[listing.top].append(listing)
    return {top: _clips(top, found, tops_are_clips) for top, found in listings.items()}


def remote_clips_below(folder: RemotePath) -> list[str]:
    """The same at an address, where no links are."""
    found: dict[str, list[str]] = {}
    for info in folder.filesystem.get_file_info(pafs.FileSelector(folder.path, recursive=True, allow_not_found=True)):
        path = info.path.removeprefix(f"{folder.path}/")
        if info.type == pafs.FileType.File and not any(part.startswith(".") for part in path.split("/")):
            parent, _, name = f"/{path}".rpartition("/")
            found.setdefault(parent, []).append(name)
    listings = [Listing("", parent, names, []) for parent, names in sorted(found.items())]
    return [str(folder / path.removeprefix("/")) for path in _clips("", listings, True).clips]


def folders_once(tops: Sequence[str]) -> Iterator[Listing]:
    """Every folder at or below the local `tops`, links followed, each one once.

    Raises:
        InputError: one cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    links: deque[tuple[str, str]] = deque()
    real, linked = _real_first(tops)
    for top in (*real, *linked):
        yield from _below(top, top, seen, links)
    while links:  # behind all others: what lies there is found where it lies
        top, link = links.popleft()
        yield from _below(top, link, seen, links)


def leads_back(link: str) -> bool:
    """Whether a link leads to a folder that it lies in, be it far above."""
    target = os.path.realpath(link)
    return f"{os.path.realpath(os.path.dirname(os.path.abspath(link)))}/".startswith(f"{target.rstrip('/')}/")


def is_broken(path: str) -> bool:
    """Whether a path is a link that leads nowhere."""
    return os.path.islink(path) and not os.path.exists(path)


def broken_links(broken: Sequence[str], where: str) -> InputError:
    one = f"{broken[0]} leads to {os.readlink(broken[0])}"
    many = f"{len(broken)} broken links, the first " if len(broken) > 1 else "a broken link: "
    return InputError(f"{where}: {many}{one}, which is not there; remove the link, or bring back what it leads to")


def _real_first(tops: Sequence[str]) -> tuple[list[str], list[str]]:
    if not tops:
        return [], []
    common = os.path.commonpath([os.path.abspath(top) for top in tops])
    base = os.path.realpath(common)
    linked = {
        top for top in tops if os.path.realpath(top) != os.path.normpath(base + os.path.abspath(top)[len(common) :])
    }
    return [top for top in tops if top not in linked], [top for top in tops if top in linked]


def _below(top: str, start: str, seen: set[tuple[int, int]], links: deque[tuple[str, str]]) -> Iterator[Listing]:
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        try:
            about = os.stat(folder)
            if (key := (about.st_dev, about.st_ino)) in seen:
                continue
            seen.add(key)
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
        listing = Listing(top, folder, [], [])
        below: list[str] = []
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
                below.append(entry.path)
            elif not leads_back(entry.path):
                links.append((top, entry.path))
        waiting += reversed(below)
        yield listing


def _clips(top: str, listings: Sequence[Listing], top_is_clip: bool) -> ClipFiles:
    videos: list[str] = []
    broken: list[str] = []
    images: dict[str, int] = {}
    with_videos: set[str] = set()
    for listing in listings:
        folder = listing.folder
        if any(map(is_video, (*listing.files, *listing.broken))):
            with_videos.update(_and_above(folder, top))
        videos += [f"{folder}/{name}" for name in listing.files if is_video(name)]
        # The name says what it was, but for that of a folder: a list or a text is not missed here.
        broken += [f"{folder}/{name}" for name in listing.broken if is_video(name) or not _extension(name)]
        images[folder] = sum(map(is_image, (*listing.files, *listing.broken)))
    frames = {
        folder for folder, count in images.items()
        if count and folder not in with_videos and (folder != top or top_is_clip)
    }  # fmt: skip
    # A single image is no clip: where clips lie below, it is their poster.
    above_frames = {above for folder in frames if images[folder] > 1 for above in _and_above(folder, top)[1:]}
    frames -= {folder for folder in frames if images[folder] == 1 and folder in above_frames}
    frames = {folder for folder in frames if frames.isdisjoint(_and_above(folder, top)[1:])}
    return ClipFiles(sorted(videos), sorted(frames), sorted(broken), read_before=not listings)


def _and_above(folder: str, top: str) -> list[str]:
    """The folder and those above it, up to `top`."""
    found = [folder]
    while folder not in (top, ""):
        folder = folder.rpartition("/")[0]
        found.append(folder)
    return found


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()

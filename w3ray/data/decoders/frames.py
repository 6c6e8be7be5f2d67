"""Decoding a folder of JPEG (or PNG) images: frame i is the i-th image by number, and only requested frames are read.

    00001.jpg 00002.jpg ...      img_00001.jpg ...      frame_0000000001.jpg ...

A name is a prefix, a number and an extension. All frames of a folder have one prefix and one extension, and numbers
without gaps that may begin anywhere. PNG images count only if there is no JPEG image, and optical flow
(`flow_x_00001.jpg`, `y_00001.jpg`) only if there is nothing else. If a folder also holds frames of another kind, such
as depth, its uri ends with the prefix of the wanted kind: `clips/17/img_*`. Images have no time stamps: each one lasts
1 / FOLDER_FPS seconds (`w3ray.data.manifest`).

Pillow decodes. torchvision gives the same pixels in 0.10 instead of 0.17 ms (176x100) and 0.31 instead of 0.36 ms
(320x240), but costs each decoder process 160 MiB and seconds of import, and prints libjpeg's complaints. FFmpeg's JPEG
decoder is slower, and its pixels differ from libjpeg's by up to 12 levels. No decoder finds damage that leaves the data
of an image readable: only images that were cut off or have another format are refused. PNG images must have 8 bits per
value.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs

from w3ray.data.decode_watch import unhurried
from w3ray.data.decoders._common import ClosingVideo, DecodeError, VideoInfo, check_indices, one_line, span_of
from w3ray.data.manifest import FOLDER_FPS
from w3ray.data.roots import outside
from w3ray.data.video_cache import VideoCache, read_video
from w3ray.storage import RemotePath, StoragePath, storage_path

_JPEG = frozenset({".jpg", ".jpeg"})
IMAGE_EXTENSIONS = _JPEG | {".png"}
"""Compared in lower case. Other files in a folder are not frames."""
_NAME = re.compile(r"(.*?)([0-9]+)(\.jpe?g|\.png)", re.IGNORECASE | re.DOTALL)
_FLOW = re.compile(r"flow[_-]?|(flow[_-]?)?[xyuv][_-]?", re.IGNORECASE)
"""Prefixes of optical flow, as the usual tools write it. Such an image is not a frame to look at."""
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
# Pillow's names of modes. Modes with 16 or 32 bits per value would silently be cut to 255.
_EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_ORIENTATION = 0x0112  # the EXIF tag; 1: upright


@dataclass(frozen=True, slots=True)
class FrameNames:
    """The names of a folder's images: `prefix`, a number of at least `digits` digits, `extension`."""

    prefix: str
    digits: int
    extension: str
    first: int
    num_frames: int

    def name(self, index: int) -> str:
        """The file of frame `index`, counted from 0."""
        return _file_name(self.prefix, self.digits, self.extension, self.first + index)


def frames_uri(folder: str, prefix: str | None) -> str:
    """The uri of the frames in a folder, local or not, whose names begin with `prefix`; None: there are no others."""
    if prefix is None:
        return folder
    path, mark, query = folder.partition("?") if "://" in folder else (folder, "", "")
    return f"{path.rstrip('/')}/{prefix}*{mark}{query}"


def is_frame_folder(uri: str) -> bool:
    """Whether a uri is a folder, and so not a video file. A remote folder must have a name without an extension."""
    where, _ = _folder_and_prefix(storage_path(uri))
    if isinstance(where, Path):
        return where.is_dir()
    if os.path.splitext(where.name)[1] or where.uri.startswith(("http://", "https://")):
        return False
    return _is_remote_folder(where)


def local_path(uri: str) -> str:
    """What a local uri names on the disk: a file, or the folder of its frames."""
    return os.path.dirname(uri) if uri.endswith("*") and not os.path.exists(uri) else uri


def _folder_and_prefix(where: StoragePath) -> tuple[StoragePath, str | None]:
    """The folder, and the prefix of its frames if the uri has one, as in `clips/17/img_*`."""
    if not where.name.endswith("*") or (isinstance(where, Path) and where.exists()):
        return where, None
    return where.parent, where.name[:-1]


# Both answers are kept for the life of the process, as is the version of a remote video: listing a folder with an hour
# of frames takes many requests.
@lru_cache(maxsize=1 << 16)
def _is_remote_folder(where: RemotePath) -> bool:
    with unhurried():
        return where.is_dir()


@lru_cache(maxsize=1 << 16)
def _remote_frame_names(uri: str, where: RemotePath, prefix: str | None) -> FrameNames:
    with unhurried():
        found = where.filesystem.get_file_info(pafs.FileSelector(where.path, allow_not_found=True))
    return _frame_names(uri, [info.base_name for info in found], prefix)


def frame_names(uri: str) -> FrameNames:
    """How the images of a folder are named, and how many there are.

    Raises:
        DecodeError: the folder cannot be listed or holds no JPEG or PNG image, its images have two kinds of names, or
            one is missing.
        StorageFailing, StorageRefused.
    """
    where, prefix = _folder_and_prefix(storage_path(uri))
    if isinstance(where, RemotePath):
        return _remote_frame_names(uri, where, prefix)
    try:
        # A new image changes the folder's time. Only then is the folder listed again.
        return _local_frame_names(uri, str(where), prefix, os.stat(where).st_mtime_ns)
    except OSError as error:
        raise DecodeError(uri, f"cannot be read: {error.strerror}") from error


def whole_frame_names(uri: str) -> FrameNames:
    """As `frame_names`, for a published clip, whose numbers must begin at 0 or 1.

    Raises:
        DecodeError, StorageFailing, StorageRefused: as `frame_names`; or the first images are missing.
    """
    names = frame_names(uri)
    if names.first > 1:
        missing = _file_name(names.prefix, names.digits, names.extension, 1)
        raise DecodeError(uri, f"missing images: {_shown(missing)} is the first of {names.first - 1}")
    return names


@lru_cache(maxsize=4096)
def _local_frame_names(uri: str, folder: str, prefix: str | None, mtime_ns: int) -> FrameNames:
    return _frame_names(uri, os.listdir(folder), prefix)


def _frame_names(uri: str, names: Sequence[str], prefix: str | None) -> FrameNames:
    matches: list[re.Match[str]] = []
    for name in sorted(_images(names, prefix)):
        match = _NAME.fullmatch(name)
        if match is None:
            raise DecodeError(uri, f"an image without a number: {_shown(name)}")
        matches.append(match)
    if not matches:
        called = "" if prefix is None else f" called {_shown(prefix)} and a number"
        raise DecodeError(uri, f"a folder without JPEG or PNG images{called}")
    kinds = {(match[1], match[3]): match[0] for match in reversed(matches)}
    if len(kinds) > 1:
        some = sorted(kinds.values())[:2]
        hint = (
            ""
            if len({prefix for prefix, _ in kinds}) == 1
            else "; name one kind as FOLDER/PREFIX*, or import with --frame-prefix"
        )
        raise DecodeError(uri, f"images of two kinds: {', '.join(map(_shown, some))}{hint}")
    ((prefix, extension),) = kinds
    found: dict[int, str] = {}
    for match in matches:
        if (before := found.setdefault(int(match[2]), match[0])) != match[0]:
            raise DecodeError(uri, f"two images with one number: {_shown(before)}, {_shown(match[0])}")
    digits = min(len(match[2]) for match in matches)
    first = min(found)
    for number in range(first, max(found) + 1):
        name = _file_name(prefix, digits, extension, number)
        if found.get(number) == name:
            continue
        if number in found:
            raise DecodeError(uri, f"an image with another number of digits: {_shown(found[number])}")
        missing = max(found) - first + 1 - len(found)
        raise DecodeError(uri, f"missing images: {_shown(name)} is the first of {missing}")
    return FrameNames(prefix, digits, extension, first, len(found))


def _images(names: Sequence[str], prefix: str | None) -> list[str]:
    """The files of a folder that may be its frames."""
    images = [name for name in names if _extension(name) in IMAGE_EXTENSIONS and not name.startswith(".")]
    if prefix is not None:
        images = [name for name in images if _prefix(name) == prefix]
    else:
        images = [name for name in images if not _FLOW.fullmatch(_prefix(name) or "")] or images
    return [name for name in images if _extension(name) in _JPEG] or images


def _prefix(name: str) -> str | None:
    match = _NAME.fullmatch(name)
    return None if match is None else match[1]


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _file_name(prefix: str, digits: int, extension: str, number: int) -> str:
    return f"{prefix}{number:0{digits}d}{extension}"


class FrameFolder(ClosingVideo):
    """A folder of JPEG or PNG images as a video of `FOLDER_FPS` frames per second (EXIF orientation applied).

    Args:
        uri: the folder.
        roots: where images may lie, links followed; None: anywhere.
        cache: keeps images from object storage; None: no cache.

    Raises:
        DecodeError: as `frame_names`.
    """

    def __init__(self, uri: str, roots: Sequence[str] | None = None, cache: VideoCache | None = None) -> None:
        self.uri = uri
        self._roots, self._cache = roots, cache
        self._folder = _folder_and_prefix(storage_path(uri))[0]
        self._names = frame_names(uri)
        self._height: int | None = None
        self._width: int | None = None

    @property
    def info(self) -> VideoInfo:
        return VideoInfo(
            num_frames=self._names.num_frames,
            fps=float(FOLDER_FPS),
            duration_s=self._names.num_frames / FOLDER_FPS,
            height=self._height,
            width=self._width,
        )

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = check_indices(indices, self._names.num_frames)
        ascending, position = np.unique(wanted, return_inverse=True)
        images = [self._image(self._names.name(int(index))) for index in ascending]
        sizes = {image.shape[:2] for image in images}
        if len(sizes) != 1:
            raise DecodeError(self.uri, f"the frame size changes within the folder: {sorted(sizes)}")
        self._height, self._width = images[0].shape[:2]
        return np.stack([images[at] for at in position])

    def frame_span(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        if start_s is None and end_s is None:
            return 0, self._names.num_frames
        return span_of(np.arange(self._names.num_frames) / FOLDER_FPS, self.uri, start_s, end_s)

    def close(self) -> None:
        pass

    def _image(self, name: str) -> np.ndarray:
        """uint8 [H, W, 3]."""
        from PIL import Image, ImageOps, UnidentifiedImageError

        content, kind = self._read(name), _FORMATS[os.path.splitext(name)[1].lower()]
        try:
            image: Image.Image = Image.open(BytesIO(content), formats=(kind,))
            if image.mode not in _EIGHT_BIT:
                raise DecodeError(self.uri, f"an image without 8 bits per value: {_shown(name)} ({image.mode})")
            if image.getexif().get(_ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        except DecodeError:
            raise
        except UnidentifiedImageError as error:
            raise DecodeError(self.uri, f"a damaged image: {_shown(name)} is no {kind} image") from error
        # Pillow raises OSError, SyntaxError, ValueError, struct.error, ...: no common base.
        except Exception as error:
            raise DecodeError(self.uri, f"a damaged image: {_shown(name)} ({one_line(error)})") from error

    def _read(self, name: str) -> bytes:
        if isinstance(self._folder, RemotePath):
            try:
                content = read_video(self._folder / name, self._cache)
            except FileNotFoundError as error:
                raise DecodeError(self.uri, f"an image is gone: {_shown(name)}") from error
        else:
            path = self._folder / name
            if outside(str(path), self._roots):
                raise DecodeError(self.uri, f"it holds a link that leads outside the roots: {_shown(name)}")
            try:
                content = path.read_bytes()
            except OSError as error:
                raise DecodeError(self.uri, f"an image cannot be read: {_shown(name)} ({error.strerror})") from error
        if not content:
            raise DecodeError(self.uri, f"a damaged image: {_shown(name)} is empty (0 bytes)")
        return content


def _shown(name: str) -> str:
    """A file's name as text that can be printed and stored, whatever its bytes are."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)

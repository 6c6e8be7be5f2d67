"""How do trials of a sweep that need the same clip decode it once?

The frames of a clip and their box follow from the video, the seed, the epoch and the position. So trials with the same
seed need the same pixels. The first trial that needs a clip decodes it. Trials that need it at the same time wait, and
later trials find it. A kept clip is never removed, as in Mohan et al., "Analyzing and Mitigating Data Stalls in DNN
Training", VLDB 2021, sections 4.2 and 4.3: every trial reads the first epochs, but a scheduler stops many trials before
the last ones, so the first clips are worth most.

    <temporary files>/w3ray-clips-<user>/<sweep>/lock         each process that uses the folder holds it, shared
                                                 <hash>.clip  checksum, label, pixels, side inputs

A folder whose lock no process holds belongs to a killed sweep. The processes of the next sweep remove it.
"""

import fcntl
import hashlib
import math
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from w3ray.data.clip import ClipSpec
from w3ray.data.decoders.frames import local_path
from w3ray.data.side_inputs import Extras, blank_extras
from w3ray.storage import remove_tree, replacing

_CHECKSUM_BYTES, _LABEL_BYTES = 4, 8
_HEAD_BYTES = _CHECKSUM_BYTES + _LABEL_BYTES
_SUFFIX = ".clip"
_RECOUNT_EVERY = 64
"""A process counts all clips again after it has kept so many. Until then the limit may be exceeded."""
_KEYS = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedClips:
    """Where the trials of one sweep share their clips. A plain value: all processes of a node that hold it share them.

    Args:
        folder: folder of the sweep. It and its parent are made on first use. The parent must belong to this user.
        limit_bytes: limit on each node; half of the free disk space if that is less.
    """

    folder: Path
    limit_bytes: int

    def opened(self, spec: ClipSpec, sources: str = "") -> "ClipFolder | None":
        """The folder for clips of this kind; None if this node has no folder to write to.

        Args:
            spec: what a clip is.
            sources: of the parts of plugins that decide its pixels.
        """
        try:
            return _opened(self.folder, self.limit_bytes, spec, sources)
        except OSError:
            return None

    def remove(self) -> None:
        """Remove the clips on this node."""
        remove_tree(self.folder)


class ClipFolder:
    """The clips of one `ClipSpec` in one folder."""

    def __init__(self, folder: Path, limit_bytes: int, spec: ClipSpec, sources: str = "") -> None:
        self._folder = folder
        self._shape = (spec.num_frames, spec.size, spec.size, spec.channels)
        self._blanks = blank_extras(spec, ())
        self._pixel_bytes = math.prod(self._shape)
        self._size = _HEAD_BYTES + self._pixel_bytes + sum(blank.nbytes for blank in self._blanks.values())
        self._spec = repr(spec) + sources
        self._lock = _hold(folder)
        disk = os.statvfs(folder)
        on_disk = -(-self._size // disk.f_frsize) * disk.f_frsize
        self._count = self._counted()
        self._most = min(limit_bytes // on_disk, self._count + disk.f_bavail * disk.f_frsize // (2 * on_disk))
        self._kept = 0

    def key(
        self,
        row: Mapping[str, Any],
        draw: int | tuple[int, int] | None,
        flip_map: Mapping[int, int],
        roots: Sequence[str] | None,
    ) -> str:
        """A name for what `load_clip` makes of a row.

        `draw` is the seed of its random choices, or this and the seed of its frames; None: evaluation.

        If a video is replaced under the same path, its clips get other names. This is not noticed on object storage,
        where videos must not change during a sweep. In a folder of frames only added and removed images are noticed.
        """
        version = None
        with suppress(OSError, ValueError):
            info = os.stat(local_path(row["uri"]))
            version = (info.st_size, info.st_mtime_ns, info.st_ino)
        what = (
            *(row[name] for name in ("uri", "start_s", "end_s", "reversed", "label")),
            *(version, draw, sorted(flip_map.items()), roots, self._spec),
            *(row[name] for name in self._blanks),  # the column of a side input has its name
        )
        return hashlib.sha256(repr(what).encode()).hexdigest()

    def get(self, key: str) -> tuple[np.ndarray, int, Extras] | None:
        """(uint8 [T, S, S, 3], label, side inputs).

        None if nobody kept it, or if the file is damaged (by a power failure).
        """
        try:
            content = (self._folder / (key + _SUFFIX)).read_bytes()
        except OSError:
            return None
        checksum, rest = content[:_CHECKSUM_BYTES], memoryview(content)[_CHECKSUM_BYTES:]
        if len(content) != self._size or checksum != _checksum(zlib.crc32(rest)):
            return None
        label = int.from_bytes(rest[:_LABEL_BYTES], "little", signed=True)
        pixels = np.frombuffer(content, np.uint8, self._pixel_bytes, _HEAD_BYTES).reshape(self._shape)
        extras, start = {}, _HEAD_BYTES + self._pixel_bytes
        for name, blank in self._blanks.items():
            # From bytes of its own, because it may begin anywhere in the file.
            extras[name] = np.frombuffer(content[start : start + blank.nbytes], blank.dtype).reshape(blank.shape)
            start += blank.nbytes
        return pixels, label, extras

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Only one process at a time is in this context for a key. The kernel frees the locks of a dead process."""
        if self._full:
            yield  # the clip would not be kept, so nobody would find it
            return
        place = int(key[:16], 16) % _KEYS
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, place)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, place)

    def keep(self, key: str, clip: np.ndarray, label: int, extras: Extras | None = None) -> None:
        """Keep a clip with its side inputs if there is room."""
        if self._full:
            return
        file = self._folder / (key + _SUFFIX)
        told = int(label).to_bytes(_LABEL_BYTES, "little", signed=True)
        parts: list[bytes | memoryview] = [told]
        parts += [np.ascontiguousarray(one).data for one in (clip, *self._in_order(extras or {}))]
        checksum = 0
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        try:
            with replacing(file) as partial, partial.open("wb") as out:
                out.writelines([_checksum(checksum), *parts])
        except OSError:  # a full disk only makes the sweep slower
            return
        self._count += 1
        self._kept += 1
        if self._kept % _RECOUNT_EVERY == 0:
            self._count = self._counted()

    def _in_order(self, extras: Extras) -> list[np.ndarray]:
        return [np.asarray(extras[name], blank.dtype) for name, blank in self._blanks.items()]

    @property
    def _full(self) -> bool:
        return self._count >= self._most

    def _counted(self) -> int:
        """Number of clips of all kinds, as if all were of this kind: within a sweep the kinds rarely differ."""
        return sum(1 for entry in os.scandir(self._folder) if entry.name.endswith(_SUFFIX))


@cache
def _opened(folder: Path, limit_bytes: int, spec: ClipSpec, sources: str) -> ClipFolder:
    """Cached, so once per process: closing one descriptor of a file loses all locks of the process on that file."""
    root = folder.parent
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if root.stat().st_uid != os.getuid():
        raise PermissionError(f"{root} is another user's")
    for other in root.iterdir():
        if other.name != folder.name:
            _remove_unused(other)
    return ClipFolder(folder, limit_bytes, spec, sources)


def _checksum(number: int) -> bytes:
    return number.to_bytes(_CHECKSUM_BYTES, "little")


def default_root() -> Path:
    """Below the folder of temporary files, for this user alone."""
    return Path(tempfile.gettempdir()) / f"w3ray-clips-{os.getuid()}"


def _hold(folder: Path) -> int:
    """A descriptor of the folder's lock file, which is then locked in shared mode."""
    path = folder / "lock"
    while True:
        folder.mkdir(exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # the file was removed in the meantime


def _remove_unused(folder: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(folder / "lock", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(folder)
        finally:
            os.close(descriptor)

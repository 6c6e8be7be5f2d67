"""How are videos of object storage kept on a node's disk, so that the next epoch need not fetch them again?

An option (`data.cache_gib`): without it no video's bytes touch the local disk. A file holds the SHA-256 of a video's
bytes, then the bytes. All decoders of a node share the folder. The least recently read video is removed first.

    <folder>/lock           locked while something is written or removed; its text is the total number of bytes
    <folder>/<hash>.video   named by the address and the version of the object

Readers take no lock: a file appears under its name only when it is complete, and a damaged file is not used.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from w3ray.data.decode_watch import unhurried
from w3ray.storage import PART_SUFFIX, RemotePath, write_bytes

_DIGEST_BYTES = 32
_SUFFIX = ".video"
_EVICT_TO = 0.9  # share of the limit: one look through the folder makes room for many videos


def default_folder() -> Path:
    """Below the folder of temporary files, for this user alone."""
    return Path(tempfile.gettempdir()) / f"w3ray-videos-{os.getuid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoCache:
    """A bounded folder of videos. A plain value: every process that holds it shares the folder.

    Args:
        folder: made on first use.
        limit_bytes: its files together never hold more.
    """

    folder: Path
    limit_bytes: int

    def read(self, video: RemotePath) -> bytes:
        """The bytes of a video: from the folder, else from the storage (then kept).

        Raises:
            FileNotFoundError: the storage has no such object.
            StorageFailing, StorageRefused.
        """
        file = self.folder / (hashlib.sha256(_version(video).encode()).hexdigest() + _SUFFIX)
        if (content := _checked(file)) is not None:
            return content
        content = video.read_bytes()
        with suppress(OSError):  # a full disk only makes reading slower
            self._keep(file, content)
        return content

    def _keep(self, file: Path, content: bytes) -> None:
        size = _DIGEST_BYTES + len(content)
        if size > self.limit_bytes:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self.folder / "lock") as lock:
            if file.exists():
                return  # another decoder was faster
            total = _read_total(lock)
            if total is None or total + size > self.limit_bytes:
                total = self._make_room(size)
            # Counted before the file is there: a process that is killed in between leaves a total that is too high. The
            # next look through the folder corrects it.
            _write_total(lock, total + size)
            write_bytes(file, hashlib.sha256(content).digest() + content)

    def _make_room(self, size: int) -> int:
        """Remove the least recently read videos, and what a killed process left. Returns the bytes that remain."""
        found = []
        for path in self.folder.iterdir():
            if path.suffix == PART_SUFFIX:
                path.unlink()  # its writer is dead, because this process has the lock
            elif path.suffix == _SUFFIX:
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(length for _, length, _ in found)
        if total + size > self.limit_bytes:
            for _, length, path in sorted(found):
                if total + size <= max(size, _EVICT_TO * self.limit_bytes):
                    break
                path.unlink()
                total -= length
        return total


@lru_cache(maxsize=1 << 16)
def _version(video: RemotePath) -> str:
    """Address, size and time of writing: another object under the same name is another video. Asked once a process."""
    info = video.info()
    if not info.is_file:
        raise FileNotFoundError(str(video))
    return f"{video} {info.size} {info.mtime_ns}"


def _checked(file: Path) -> bytes | None:
    """The bytes that were kept; None if there are none or they are damaged. A damaged file is removed."""
    try:
        kept = file.read_bytes()
        if hashlib.sha256(kept[_DIGEST_BYTES:]).digest() == kept[:_DIGEST_BYTES]:
            os.utime(file)
            return kept[_DIGEST_BYTES:]
        file.unlink()
    except OSError:
        pass
    return None


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    with path.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _read_total(lock: IO[str]) -> int | None:
    lock.seek(0)
    text = lock.read()
    return int(text) if text.isdecimal() else None


def _write_total(lock: IO[str], total: int) -> None:
    lock.truncate(0)
    lock.write(str(total))
    lock.flush()


def read_video(video: RemotePath, cache: VideoCache | None = None) -> bytes:
    """A remote video's bytes, in memory; through `cache` if there is one. Raises: as `VideoCache.read`."""
    with unhurried():
        return video.read_bytes() if cache is None else cache.read(video)

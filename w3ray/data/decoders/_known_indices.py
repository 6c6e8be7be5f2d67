"""Which videos has this process opened before? Their frame indices are kept, because making one may take a decode."""

import zlib
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

from w3ray.data.decoders._index import FrameIndex

_INDEXED_FRAMES = 4 << 20
"""How many frames, of about 50 bytes each, a process keeps in its indices of opened videos."""

_indices: OrderedDict[tuple[Any, ...], FrameIndex] = OrderedDict()
_lock = Lock()


def known_index(uri: str, source: str | BytesIO) -> FrameIndex | None:
    """The index of a video with this content, if it was opened before."""
    return _indices.get(_key(uri, source))


def remember_index(uri: str, source: str | BytesIO, index: FrameIndex) -> None:
    key = _key(uri, source)
    with _lock:
        _indices[key] = index
        _indices.move_to_end(key)
        total = sum(known.num_frames for known in _indices.values())
        while total > _INDEXED_FRAMES and len(_indices) > 1:
            total -= _indices.popitem(last=False)[1].num_frames


def _key(uri: str, source: str | BytesIO) -> tuple[Any, ...]:
    """A key for this content, valid as long as the process lives."""
    if isinstance(source, BytesIO):
        content = source.getbuffer()
        return (uri, len(content), zlib.crc32(content))
    status = Path(source).stat()
    return (source, status.st_size, status.st_mtime_ns, status.st_ino)

"""How are remote operations retried until a deadline? With pauses that grow and have a random part.

This is the only layer of retries. The AWS client's own retries do not cover a download whose response is an error.
"""

import io
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from w3ray.errors import InputError
from w3ray.storage._systems import inner
from w3ray.storage.errors import StorageFailing, StorageRefused, reason_of

DEADLINE_VARIABLE = "W3RAY_STORAGE_DEADLINE_S"
_DEADLINE_S = 60.0
_PAUSE_FIRST_S, _PAUSE_LAST_S = 0.2, 5.0

_Answer = TypeVar("_Answer")

# These errors are about the request, not about the store's health: a retry would get the same answer.
_REFUSALS = (
    "ACCESS_DENIED",
    "NO_SUCH_BUCKET",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_SIGNATURE",
    "INVALID_CLIENT_TOKEN_ID",
    "EXPIRED_TOKEN",
    "UNRECOGNIZED_CLIENT",
    "HTTP status 301",
    "HTTP status 400",
    "HTTP status 401",
    "HTTP status 403",
)
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def deadline_s() -> float:
    """How long operations on a failing store are retried, in seconds: `W3RAY_STORAGE_DEADLINE_S`, or 60."""
    text = os.environ.get(DEADLINE_VARIABLE)
    try:
        return _DEADLINE_S if text is None else float(text)
    except ValueError as error:
        raise InputError(f"{DEADLINE_VARIABLE}={text}: not a number of seconds") from error


class PatientFileSystem(pafs.FileSystemHandler):
    """Retries every operation until it succeeds, is refused, or the deadline is over. Only its address is pickled."""

    def __init__(self, root: str, query: str) -> None:
        self._root, self._query = root, query

    def __reduce__(self) -> Any:
        return PatientFileSystem, (self._root, self._query)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PatientFileSystem) and (self._root, self._query) == (other._root, other._query)

    def __hash__(self) -> int:
        return hash((self._root, self._query))

    @property
    def _filesystem(self) -> pafs.FileSystem:
        return inner(self._root, self._query)[0]

    def _uri(self, path: str) -> str:
        base = inner(self._root, self._query)[1].rstrip("/")
        return self._root + path.removeprefix(base)

    def _try(self, what: str, path: str, operation: Callable[[], _Answer]) -> _Answer:
        """Raises: StorageRefused or StorageFailing; the errors in `ABSENT` are passed on unchanged."""
        started, pause_s = time.monotonic(), _PAUSE_FIRST_S
        for attempt in range(1, 1_000_000):
            try:
                return operation()
            except ABSENT:
                raise
            except (OSError, TimeoutError) as error:
                reason = reason_of(error)
                if isinstance(error, PermissionError) or any(refusal in reason for refusal in _REFUSALS):
                    raise StorageRefused(
                        f"{self._uri(path)}: {what} is refused ({reason}); check the bucket, its permissions and the "
                        "credentials"
                    ) from error
                spent_s, wait_s = time.monotonic() - started, pause_s * random.uniform(0.5, 1.0)
                if spent_s + wait_s > deadline_s():
                    raise StorageFailing(
                        f"{self._uri(path)}: {what} failed {attempt} times in {spent_s:.0f} s ({reason}); "
                        "run again when the storage answers"
                    ) from error
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, _PAUSE_LAST_S)
        raise AssertionError("unreachable: the deadline ends the loop")

    # Whole files.

    def read(self, path: str) -> bytes:
        def read() -> bytes:
            with self._filesystem.open_input_file(path) as file:
                size, content = file.size(), file.read()
            if len(content) != size:
                raise OSError(f"received {len(content)} of {size} bytes")
            return bytes(content)

        return self._try("reading", path, read)

    def write(self, path: str, content: bytes) -> None:
        def write() -> None:
            with self._filesystem.open_output_stream(path) as file:
                file.write(content)

        self._try("writing", path, write)

    def upload(self, source: Path, path: str) -> None:
        def upload() -> None:
            with source.open("rb") as local, self._filesystem.open_output_stream(path) as file:
                while chunk := local.read(8 << 20):
                    file.write(chunk)

        self._try("writing", path, upload)

    def reader(self, path: str) -> "_Reader":
        file = self._try("reading", path, lambda: self._filesystem.open_input_file(path))
        return _Reader(file, file.size(), lambda operation: self._try("reading", path, operation))

    # The methods that pyarrow calls, and Ray Train through pyarrow.

    def get_type_name(self) -> str:
        return f"patient+{self._filesystem.type_name}"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        what = paths[0] if paths else ""
        return self._try("looking for it", what, lambda: self._filesystem.get_file_info(paths))

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return self._try("listing", selector.base_dir, lambda: self._filesystem.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        self._try("writing", path, lambda: self._filesystem.create_dir(path, recursive=recursive))

    def delete_dir(self, path: str) -> None:
        self._try("removing", path, lambda: self._filesystem.delete_dir(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._try("removing", path, lambda: self._filesystem.delete_dir_contents(path, missing_dir_ok=missing_dir_ok))

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("a whole file system is never emptied")

    def delete_file(self, path: str) -> None:
        self._try("removing", path, lambda: self._filesystem.delete_file(path))

    def move(self, src: str, dest: str) -> None:
        self._try("moving", src, lambda: self._filesystem.move(src, dest))

    def copy_file(self, src: str, dest: str) -> None:
        self._try("copying", src, lambda: self._filesystem.copy_file(src, dest))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(self.reader(path), mode="r")

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(self.reader(path), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Writer(self, path), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError("object storage cannot append to a file")


class _Reader(io.RawIOBase):
    """A remote file. Each read is retried by itself until all its bytes are there."""

    def __init__(self, file: pa.NativeFile, size: int, patiently: Callable[[Callable[[], bytes]], bytes]) -> None:
        self._file, self._size, self._patiently, self._position = file, size, patiently, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        position = self._position

        def read() -> bytes:
            content: bytes = self._file.read_at(wanted, position)
            if len(content) != wanted:
                raise OSError(f"received {len(content)} of {wanted} bytes")
            return content

        content = self._patiently(read) if wanted else b""
        self._position += len(content)
        return content

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class _Writer(io.BytesIO):
    """A buffer. Its content becomes the file when it is closed."""

    def __init__(self, handler: PatientFileSystem, path: str) -> None:
        super().__init__()
        self._handler, self._path = handler, path

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._handler.write(self._path, content)

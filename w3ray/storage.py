"""Where do files lie that are not on this machine's disk, and what happens when that place fails?

`place` turns what a user wrote into a `Path`, or, for `s3://...` and every other scheme that pyarrow or fsspec knows,
into a `RemotePath` with the same few methods. Both travel to any process; each process finds endpoint and credentials
of its own in its environment, so that no secret travels.

Everything that is asked of a remote place is tried again, with growing and jittered pauses, until `deadline_s` is
over. That is the one layer of retries: the AWS client's own leave out a download whose answer is an error.
"""

import hashlib
import io
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from w3ray._address import local_path
from w3ray.errors import InputError, RunError

DEADLINE_VARIABLE = "W3RAY_STORAGE_DEADLINE_S"
_DEADLINE_S = 60.0
_PAUSE_FIRST_S, _PAUSE_LAST_S = 0.2, 5.0
_UPLOADS_AT_ONCE = 4
_CONNECT_TIMEOUT_S, _REQUEST_TIMEOUT_S = 5.0, 10.0  # the latter: without a single byte

_Answer = TypeVar("_Answer")

_S3_OPTIONS = ("region", "scheme", "endpoint_override")

# What the store says about the request, not about itself: asking again would get the same answer.
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
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class StorageFailing(RunError):
    """A store did not do what was asked of it until the deadline: nothing is wrong with what was asked."""


class StorageRefused(InputError):
    """A store will not do what is asked: no such bucket, no permission, wrong credentials."""


def deadline_s() -> float:
    """Seconds for which a failing store is tried again: the environment's `W3RAY_STORAGE_DEADLINE_S`, or 60."""
    text = os.environ.get(DEADLINE_VARIABLE)
    try:
        return _DEADLINE_S if text is None else float(text)
    except ValueError as error:
        raise InputError(f"{DEADLINE_VARIABLE}={text}: not a number of seconds") from error


def is_remote(location: str) -> bool:
    return "://" in location and not location.startswith("file://")


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or folder of a remote file system: the part of `pathlib.Path` that object storage can keep.

    Args:
        uri: `s3://bucket/folder/file`, without a slash at the end.
        query: options of the file system as in `s3://bucket/folder?region=eu-west-1`, or "". Over HTTP it is a part
            of the file's address, as in that of a signed one.
    """

    uri: str
    query: str = ""

    def __str__(self) -> str:
        return f"{self.uri}?{self.query}" if self.query else self.uri

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.uri}/{name}", self.query)

    @property
    def name(self) -> str:
        return self.uri.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.uri.rpartition("/")[0], self.query)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """A pyarrow file system that tries again as this module does."""
        return pafs.PyFileSystem(self._handler)

    @property
    def path(self) -> str:
        """The path within `filesystem`."""
        return _inner_path(self.uri, self.query)

    @property
    def _handler(self) -> "_PatientFileSystem":
        return _PatientFileSystem(_root(self.uri), _options(self.uri, self.query))

    def info(self) -> pafs.FileInfo:
        info: pafs.FileInfo = self._handler.get_file_info([self.path])[0]
        return info

    def exists(self) -> bool:
        return bool(self.info().type != pafs.FileType.NotFound)

    def is_file(self) -> bool:
        return bool(self.info().type == pafs.FileType.File)

    def is_dir(self) -> bool:
        return bool(self.info().type == pafs.FileType.Directory)

    def iterdir(self) -> Iterator["RemotePath"]:
        """Files and folders directly below, by name; none where there is no such folder."""
        found = self._handler.get_file_info_selector(pafs.FileSelector(self.path, allow_not_found=True))
        return iter([self / name for name in sorted(info.base_name for info in found)])

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:
        """Read as a stream; every part of it is tried again by itself."""
        return io.BufferedReader(self._handler.reader(self.path), 1 << 20)

    def read_bytes(self) -> bytes:
        return self._handler.read(self.path)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Write the whole file: a reader sees the old one or the new one."""
        self._handler.write(self.path, content)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.write_bytes(text.encode(encoding))

    def upload(self, source: Path) -> None:
        """The file becomes a copy of a local one."""
        self._handler.upload(source, self.path)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._handler.delete_file(self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise


StoragePath = Path | RemotePath
"""A file or folder, on this machine's disk or not."""


def storage_path(location: str | os.PathLike[str] | RemotePath) -> StoragePath:
    """What a user wrote as a place: an absolute local path, or a remote one. What is a place already is that place.

    Raises:
        InputError: a URI of an unknown scheme or with credentials in it.
    """
    if isinstance(location, Path | RemotePath):
        return location
    text = os.fspath(location)
    if not is_remote(text):
        return Path(local_path(text)).absolute()
    uri, _, query = text.partition("?")
    if "@" in urlsplit(uri).netloc:
        raise InputError(f"{uri}: no credentials in an address; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    found = RemotePath(uri.rstrip("/"), query)
    _inner(_root(found.uri), _options(found.uri, query))
    return found


def file_system(location: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system of a location and the path within it.

    Raises:
        InputError: as `place`.
    """
    found = storage_path(location)
    return (pafs.LocalFileSystem(), str(found)) if isinstance(found, Path) else (found.filesystem, found.path)


def file_digest(path: StoragePath) -> dict[str, Any]:
    """Size and SHA-256 of a file, read as a stream: `{"bytes", "sha256"}`.

    Raises:
        FileNotFoundError: no such file.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def file_size(path: StoragePath) -> int:
    """Size of a file that is there, bytes."""
    return path.stat().st_size if isinstance(path, Path) else int(path.info().size)


@contextmanager
def fetched(folder: StoragePath) -> Iterator[Path]:
    """The folder as a local one: itself, or a temporary copy of its files (not of folders in it).

    Raises:
        StorageFailing: the store, or the disk of temporary files, fails.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with _local_copy_errors(folder), tempfile.TemporaryDirectory(prefix="w3ray-") as temporary:
        copy = Path(temporary) / folder.name
        copy.mkdir()
        for file in folder.iterdir():
            if file.is_file():
                with file.open() as source, (copy / file.name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        yield copy


@contextmanager
def written_whole(folder: StoragePath, last: str) -> Iterator[Path]:
    """A local path for a folder to be written at; what is there at the end is then the folder. `last`: see `upload`."""
    if isinstance(folder, Path):
        yield folder
        return
    with _local_copy_errors(folder), tempfile.TemporaryDirectory(prefix="w3ray-") as temporary:
        copy = Path(temporary) / folder.name
        yield copy
        upload(copy, folder, last=last)


def upload(source: Path, folder: RemotePath, *, last: str, check: Callable[[], None] = lambda: None) -> None:
    """Copy a local folder, folders in it too, to a remote one; the file `last` is there only when all others are.

    Args:
        check: called before each file is written, by several threads; what it raises ends the upload.
    """

    def copy(name: str) -> None:
        check()
        (folder / name).upload(source / name)

    check()
    (folder / last).unlink(missing_ok=True)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        for _ in pool.map(copy, [name for name in files if name != last]):
            pass
    copy(last)


@contextmanager
def _local_copy_errors(folder: RemotePath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, _ABSENT) or error.errno is None:
            raise
        raise StorageFailing(
            f"{folder}: its local copy in {tempfile.gettempdir()} cannot be kept ({error.strerror}); "
            "make room there or set TMPDIR"
        ) from error


# One remote file system, patiently.


def _root(uri: str) -> str:
    """`s3://bucket` of `s3://bucket/folder/file`."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _options(uri: str, query: str) -> str:
    """The part of an address's query that is for the file system: all of it, or none."""
    return "" if uri.startswith(("http://", "https://")) else query


def _inner_path(uri: str, query: str) -> str:
    root, options = _root(uri), _options(uri, query)
    base, rest = _inner(root, options)[1].rstrip("/"), uri[len(root) :].strip("/")
    path = f"{base}/{rest}" if rest else base
    return f"{path}?{query}" if query and not options else path


@lru_cache(maxsize=64)
def _inner(root: str, query: str) -> tuple[pafs.FileSystem, str]:
    """The impatient file system of `s3://bucket`, made once in a process, and the path of its root."""
    if root.startswith("s3://"):
        return _s3(root, query), root.removeprefix("s3://")
    location = f"{root}?{query}" if query else root
    try:
        filesystem, path = pafs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        import fsspec

        try:
            found, path = fsspec.core.url_to_fs(location)
        except (ValueError, ImportError) as error:
            raise InputError(f"{location}: no file system for this address ({_first_line(error)})") from error
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(found))
    return filesystem, path


def _s3(root: str, query: str) -> pafs.FileSystem:
    """An S3 file system; what the address does not say comes from the environment that every AWS client reads."""
    options = dict(parse_qsl(query))
    if unknown := sorted(set(options) - set(_S3_OPTIONS)):
        raise InputError(f"{root}: unknown option {unknown[0]!r} in the address; known: {', '.join(_S3_OPTIONS)}")
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    scheme, separator, host = endpoint.partition("://")
    if endpoint and not separator:
        raise InputError(f"AWS_ENDPOINT_URL={endpoint}: must begin with http:// or https://")
    region = options.get("region") or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    host = options.get("endpoint_override", host).rstrip("/")
    if region is None and not host:
        try:
            region = pafs.resolve_s3_region(root.removeprefix("s3://"))
        except OSError as error:
            raise StorageRefused(f"{root}: its region is not known ({_reason(error)}); set AWS_REGION") from error
    return pafs.S3FileSystem(
        region=region,
        endpoint_override=host or None,
        scheme=options.get("scheme", scheme) or "https",
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_REQUEST_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),
        allow_delayed_open=True,  # a small file is one request
    )


class _PatientFileSystem(pafs.FileSystemHandler):
    """Every operation until it succeeds, is refused, or the deadline is over. Pickled as its address alone."""

    def __init__(self, root: str, query: str) -> None:
        self._root, self._query = root, query

    def __reduce__(self) -> Any:
        return _PatientFileSystem, (self._root, self._query)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _PatientFileSystem) and (self._root, self._query) == (other._root, other._query)

    def __hash__(self) -> int:
        return hash((self._root, self._query))

    @property
    def _filesystem(self) -> pafs.FileSystem:
        return _inner(self._root, self._query)[0]

    def _uri(self, path: str) -> str:
        base = _inner(self._root, self._query)[1].rstrip("/")
        return self._root + path.removeprefix(base)

    def _try(self, what: str, path: str, operation: Callable[[], _Answer]) -> _Answer:
        """Raises: StorageRefused, StorageFailing; FileNotFoundError and its like as they are."""
        started, pause_s = time.monotonic(), _PAUSE_FIRST_S
        for attempt in range(1, 1_000_000):
            try:
                return operation()
            except _ABSENT:
                raise
            except (OSError, TimeoutError) as error:
                reason = _reason(error)
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
        raise AssertionError("unreachable: the deadline ends it")

    # Whole files.

    def read(self, path: str) -> bytes:
        def read() -> bytes:
            with self._filesystem.open_input_file(path) as file:
                size, content = file.size(), file.read()
            if len(content) != size:
                raise OSError(f"{len(content)} of {size} bytes came")
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

    # What pyarrow, and through it Ray Train, asks of a file system.

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
        raise NotImplementedError("object storage cannot append")


class _Reader(io.RawIOBase):
    """A remote file of which each part is read again until it is there."""

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
                raise OSError(f"{len(content)} of {wanted} bytes came")
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
    """What is written becomes the file when it is closed without an error."""

    def __init__(self, handler: _PatientFileSystem, path: str) -> None:
        super().__init__()
        self._handler, self._path = handler, path

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._handler.write(self._path, content)


def _reason(error: BaseException) -> str:
    """An error in one line, without the name that is said anyway.

    And without "AWS Error": Ray Train would begin anew with what was tried long enough.
    """
    text = re.sub(r"^When .* in bucket '[^']*': ", "", _first_line(error, 600))
    return text.replace("AWS Error ", "")[:200]


def _first_line(error: BaseException, limit: int = 200) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]

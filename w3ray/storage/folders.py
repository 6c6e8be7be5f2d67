"""How is a folder copied from a store to this machine's disk, and back?"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from w3ray.storage._patient import ABSENT
from w3ray.storage.errors import StorageFailing
from w3ray.storage.paths import RemotePath, StoragePath

_UPLOADS_AT_ONCE = 4


@contextmanager
def fetched(folder: StoragePath) -> Iterator[Path]:
    """A local folder with the same files: the folder itself, or a temporary copy without subfolders.

    Raises:
        StorageFailing: the store fails, or the disk for temporary files does.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with local_copy_errors(folder), tempfile.TemporaryDirectory(prefix="w3ray-") as temporary:
        copy = Path(temporary) / folder.name
        copy.mkdir()
        for file in folder.iterdir():
            if file.is_file():
                with file.open() as source, (copy / file.name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        yield copy


@contextmanager
def written_whole(folder: StoragePath, last: str, *, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A local path to write a folder at. On leaving the context, a remote `folder` gets what was written there.

    Args:
        last, check: see `upload`.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with local_copy_errors(folder), tempfile.TemporaryDirectory(prefix="w3ray-") as temporary:
        copy = Path(temporary) / folder.name
        yield copy
        upload(copy, folder, last=last, check=check)


def upload(source: Path, folder: RemotePath, *, last: str, check: Callable[[], None] = lambda: None) -> None:
    """Copy a local folder with its subfolders to a remote one. The file `last` appears only after all others.

    Args:
        check: called before each file is written, from several threads; an error that it raises ends the upload.
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
def local_copy_errors(folder: RemotePath) -> Iterator[None]:
    """Raises: StorageFailing if the disk for temporary files fails."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ABSENT) or error.errno is None:
            raise
        raise StorageFailing(
            f"{folder}: its local copy in {tempfile.gettempdir()} cannot be kept ({error.strerror}); "
            "free some space there or set TMPDIR"
        ) from error

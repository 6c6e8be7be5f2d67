"""How are a recipe's generated clips drawn while its first stage starts?

The content of the data set is known before a pixel is drawn, so only the decoders wait for the drawing.
"""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from w3ray.storage import StoragePath, written_whole


class Drawing:
    """Draws a data set in a separate thread.

    When the set is complete, `root` appears; on object storage, its manifest appears.
    """

    def __init__(self, root: StoragePath, arguments: dict[str, Any]) -> None:
        self._root, self._arguments = root, arguments
        self._absent = [folder for folder in root.parents if not folder.exists()] if isinstance(root, Path) else []
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._draw, name="drawing", daemon=True)
        self._thread.start()

    def _draw(self) -> None:
        from w3ray.data.synthetic import DrawingStopped, write_motion_dataset

        def check() -> None:
            if self._stop.is_set():
                raise DrawingStopped

        try:
            with written_whole(self._root, last="manifest.parquet", check=check) as folder:
                write_motion_dataset(folder, **self._arguments, stop=self._stop)
        except DrawingStopped:
            pass
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Wait until the set is complete. Raises: as `check`."""
        self._thread.join()
        self.check()

    def check(self) -> None:
        """Raise the error that ended the drawing, if there was one.

        Raises:
            InputError: the set cannot be written.
        """
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Stop at the next clip. Remove what was drawn, and the folders that were made for it if they are empty."""
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            for folder in self._absent:
                folder.rmdir()

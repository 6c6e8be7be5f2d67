"""How are the frames of a camera, a network address or a file read as they come? With PyAV.

A live source does not wait. If frames come faster than they are taken, the newest one is kept, and the others are
counted. Files are read by `w3ray.data.decoders`, whose frames are exact.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from w3ray._redact import redact
from w3ray.data.crop import Frames
from w3ray.data.decoders import DecodeError, open_video
from w3ray.data.decoders.in_order import frames_in_order
from w3ray.errors import InputError, RunError

Source = str | os.PathLike[str] | int
"""A file, the number of a camera, or a network address."""

_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}:none")}
"""Platform -> FFmpeg's input format of cameras, and how it names camera n."""
_RUNNING, _ENDED, _CLOSED = range(3)
_SAME_S = 1e-6
"""Times that differ by less are equal."""


class LiveFrame(NamedTuple):
    """A frame that was taken."""

    frame_HWC: Frames
    """uint8 [H, W, 3], RGB."""
    time_s: float
    """When it is shown, in seconds after the source's first frame."""
    skipped: int
    """Frames since the last one taken that came too fast."""


class LiveFrames:
    """The frames of a source, one after the other. A context manager, which closes the source.

    Args:
        source: a file, the number of a camera, or an address such as `rtsp://...`.
        every: take each n-th frame.
        every_s: take one frame in so many seconds instead. None: by `every`.
        live: skip frames that come too fast. None: for cameras and addresses, but not for files.
        timeout_s: how long the source may give nothing.
        options: of FFmpeg, for cameras and addresses.

    Raises:
        InputError: the source cannot be opened, or an argument is out of range.
    """

    def __init__(
        self,
        source: Source,
        *,
        every: int = 1,
        every_s: float | None = None,
        live: bool | None = None,
        timeout_s: float = 10.0,
        options: Mapping[str, str] | None = None,
    ) -> None:
        for name, value in (("every", every), ("every_s", every_s), ("timeout_s", timeout_s)):
            if value is not None and not value > 0:
                raise InputError(f"{name} must be above 0, not {value}")
        self._every, self._every_s, self._timeout_s = every, every_s, timeout_s
        self._name = f"camera {source}" if isinstance(source, int) else redact(os.fspath(source))
        self._video = _file(source)
        self._container = None if self._video is not None else _live(source, self._name, options or {}, timeout_s)
        self._skips = self._video is None if live is None else live
        self._changed = threading.Condition()
        self._state, self._skipped = _RUNNING, 0
        self._waiting: tuple[Any, float] | None = None
        self._failure: Exception | None = None
        self._due_s = 0.0
        threading.Thread(target=self._read, name="live-frames", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading. The reading thread closes the source when its current frame is there."""
        with self._changed:
            self._state = _CLOSED
            self._changed.notify_all()

    def __iter__(self) -> Iterator[LiveFrame]:
        """The frames until the source ends or is closed.

        Raises:
            RunError: no frame came for `timeout_s`, or the source broke off.
        """
        while True:
            with self._changed:
                if not self._changed.wait_for(
                    lambda: self._waiting is not None or self._state != _RUNNING, self._timeout_s
                ):
                    raise RunError(f"{self._name}: no frame for {self._timeout_s:g} s")
                (taken, skipped), self._skipped = (self._waiting, self._skipped), 0
                self._waiting = None
                self._changed.notify_all()
                if taken is None:
                    if self._failure is not None:
                        raise RunError(f"{self._name}: {self._failure}") from self._failure
                    return
            frame, time_s = taken
            yield LiveFrame(frame if self._video is not None else frame.to_ndarray(format="rgb24"), time_s, skipped)

    def _read(self) -> None:
        """Put frame after frame where `__iter__` takes it. Runs in a thread."""
        try:
            for number, (frame, time_s) in enumerate(self._frames()):
                if self._is_due(number, time_s) and not self._put((frame, time_s)):
                    break
        except Exception as error:  # any error must reach the waiting thread
            self._failure = error
        finally:
            closing: Any = self._container if self._video is None else self._video
            closing.close()
            with self._changed:
                self._state = max(self._state, _ENDED)
                self._changed.notify_all()

    def _frames(self) -> Iterator[tuple[Any, float]]:
        if self._video is not None:
            indices = range(self._video.info.num_frames)
            times_s = self._video.times_s(indices)
            yield from zip(frames_in_order(self._video, indices), (times_s - times_s[0]).tolist(), strict=True)
            return
        assert self._container is not None
        first_s: float | None = None
        for frame in self._container.decode(video=0):
            now_s = time.monotonic() if frame.time is None else float(frame.time)
            first_s = now_s if first_s is None else first_s
            yield frame, now_s - first_s

    def _is_due(self, number: int, time_s: float) -> bool:
        if self._every_s is None:
            return number % self._every == 0
        if time_s < self._due_s - _SAME_S:
            return False
        # On a grid, so that a frame that comes late does not move those after it.
        self._due_s = ((time_s + _SAME_S) // self._every_s + 1) * self._every_s
        return True

    def _put(self, frame: tuple[Any, float]) -> bool:
        """Returns False if nobody takes frames any more."""
        with self._changed:
            if self._skips:
                self._skipped += self._waiting is not None
            else:
                self._changed.wait_for(lambda: self._waiting is None or self._state == _CLOSED)
            self._waiting = frame
            self._changed.notify_all()
            return self._state != _CLOSED


def _file(source: Source) -> Any:
    """The source as a video file. None: it is none."""
    if isinstance(source, int):
        return None
    path = os.fspath(source)
    if "://" in path and not path.startswith("s3://"):
        return None
    try:
        return open_video(path)
    except DecodeError as error:
        raise InputError(f"{redact(path)}: cannot be read ({error.reason})") from error


def _live(source: Any, name: str, options: Mapping[str, str], timeout_s: float) -> Any:
    """The opened camera or address."""
    import av

    form = None
    if isinstance(source, int):
        if sys.platform not in _CAMERAS:
            raise InputError(f"{name}: cameras can be read on Linux and macOS; give an address or a file")
        form, pattern = _CAMERAS[sys.platform]
        if isinstance(source, bool) or source < 0:
            raise InputError(f"{source!r} is no camera; cameras are 0, 1, ...")
        source = pattern.format(source)
        if form == "v4l2" and not os.path.exists(source):
            raise InputError(f"{name}: there is no {source}")
    try:
        container = av.open(os.fspath(source), format=form, options=dict(options), timeout=(timeout_s, timeout_s))
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name}: cannot be opened ({reason})") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{name}: has no video")
    container.streams.video[0].thread_type = "NONE"  # threads of the decoder would hold frames back
    return container

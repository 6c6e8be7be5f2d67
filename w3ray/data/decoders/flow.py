"""Reading a folder of optical flow: two grey images for each field, one for x and one for y.

    flow_x_00001.jpg flow_y_00001.jpg ...      x_00001.jpg y_00001.jpg ...      u/frame_0000000001.jpg v/...

Field i is the motion from frame i to frame i + 1 of the video, so a video of N frames has N - 1 fields. A value of
127.5 means no motion; larger values mean motion to the right (x) or down (y). `w3ray data flow` writes such folders
(`w3ray.data.flow` says how motion becomes a grey value); TSN's tools write the first layout, EPIC-KITCHENS the last.
"""

from collections.abc import Sequence

import numpy as np

from w3ray.data.decoders._common import ClosingVideo, DecodeError, VideoInfo
from w3ray.data.decoders.frames import FrameFolder, is_frame_folder
from w3ray.data.roots import outside
from w3ray.data.video_cache import VideoCache

LAYOUTS = (("flow_x_*", "flow_y_*"), ("x_*", "y_*"), ("u", "v"))
"""Where the two images of a field are, below the clip's folder."""


class FlowFolder(ClosingVideo):
    """A folder of flow fields. Its "frames" are fields: uint8 [N, H, W, 2], x and y.

    Args:
        uri: the folder.
        roots: where images may be, links followed; None: anywhere.
        cache: keeps images from object storage; None: no cache.

    Raises:
        DecodeError: the folder holds no flow, or not equally many fields of x and y.
    """

    def __init__(self, uri: str, roots: Sequence[str] | None = None, cache: VideoCache | None = None) -> None:
        if outside(uri, roots):
            raise DecodeError(uri, "it is a link that leads outside the roots")
        self.uri = uri
        self._x, self._y = _opened(uri, roots, cache)
        counts = self._x.info.num_frames, self._y.info.num_frames
        if counts[0] != counts[1]:
            raise DecodeError(uri, f"flow of x has {counts[0]} fields, of y {counts[1]}")

    @property
    def info(self) -> VideoInfo:
        return self._x.info

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The fields at `indices`, uint8 [N, H, W, 2]."""
        x_NHW, y_NHW = (part.frames(indices)[..., 0] for part in (self._x, self._y))
        if x_NHW.shape != y_NHW.shape:
            raise DecodeError(self.uri, f"flow of x has images of {x_NHW.shape[1:]}, of y {y_NHW.shape[1:]}")
        return np.stack([x_NHW, y_NHW], axis=-1)

    def frame_span(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        return self._x.frame_span(start_s, end_s)

    def close(self) -> None:
        self._x.close()
        self._y.close()


def _opened(uri: str, roots: Sequence[str] | None, cache: VideoCache | None) -> tuple[FrameFolder, FrameFolder]:
    if not is_frame_folder(uri):
        raise DecodeError(uri, "not a folder of optical flow; `w3ray data flow` makes flow from videos")
    folder = uri.rstrip("/")
    reason = ""
    for x, y in LAYOUTS:
        try:
            return FrameFolder(f"{folder}/{x}", roots, cache), FrameFolder(f"{folder}/{y}", roots, cache)
        except DecodeError as error:
            reason = reason or error.reason
    raise DecodeError(uri, f"no optical flow in the folder: {reason}")

"""How is a stored picture rotated and mirrored for display? Cameras and editors write a display matrix that tells."""

import struct
from typing import Any, NamedTuple

import numpy as np


class Orientation(NamedTuple):
    """What is done to a stored picture, in this order."""

    transpose: bool = False
    flip_horizontal: bool = False
    flip_vertical: bool = False

    def apply(self, image_HWC: np.ndarray) -> np.ndarray:
        """The picture as it is shown; a view."""
        if self.transpose:
            image_HWC = image_HWC.transpose(1, 0, 2)
        if self.flip_horizontal:
            image_HWC = image_HWC[:, ::-1]
        return image_HWC[::-1] if self.flip_vertical else image_HWC


UPRIGHT = Orientation()


def orientation_of(matrix: bytes) -> Orientation:
    """The orientation that a display matrix means, with the same rules as ffmpeg's autorotation.

    The matrix [a b u; c d v; x y w] takes a stored point (p, q) to (a p + c q + x, b p + d q + y)
    (ISO/IEC 14496-12, 8.3.2; libavutil/display.h). Other angles are rounded to the nearest quarter turn.

    Args:
        matrix: nine numbers of 32 bits in the machine's own byte order.
    """
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, flip_horizontal=a < 0, flip_vertical=d < 0)
    return Orientation(True, flip_horizontal=c < 0, flip_vertical=b < 0)


def orientation_in(frame: Any) -> Orientation:
    """The orientation of a frame that PyAV decoded."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return orientation_of(bytes(data))
    return UPRIGHT

"""How do images become a film that a browser plays?"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

FRAMES_PER_SECOND = 10
HOLD = 4
"""Each frame of a clip is shown so many frames of the film: 2.5 of a clip's frames a second, because what is to be
seen is where each one glows."""


def write_film(path: Path, images: Iterable[npt.NDArray[np.uint8]]) -> int:
    """Write images [H, W, 3] of one size with even sides as an MP4; returns the number of the film's frames.

    H.264 where PyAV has libx264 (its wheels do), else MPEG-4 Part 2, which not every browser plays.

    Raises:
        ValueError: no image.
    """
    pictures = iter(images)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"{path}: no image")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"crf": "20"} if codec == "libx264" else {"qscale": "3"}
    count = 0
    # faststart: the index stands first, so that a browser begins before it has the whole file.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
        stream.height, stream.width, stream.pix_fmt = first.shape[0], first.shape[1], "yuv420p"
        for picture_HWC in itertools.chain([first], pictures):
            for _ in range(HOLD):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")))
                count += 1
        container.mux(stream.encode(None))
    return count

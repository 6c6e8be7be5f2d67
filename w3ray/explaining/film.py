"""How do images become a film that a browser can play?"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

FRAMES_PER_SECOND = 10
HOLD = 4
"""Each frame of a clip is repeated this many times in the film. So the film shows 2.5 frames of the clip per second,
slow enough to see where each frame glows."""


def write_film(path: Path, images: Iterable[npt.NDArray[np.uint8]]) -> int:
    """Write images [H, W, 3], all of one size and with even sides, as an MP4. Returns the number of frames of the film.

    The codec is H.264 if PyAV has libx264 (its wheels have it), else MPEG-4 Part 2, which some browsers cannot play.

    Raises:
        ValueError: there is no image.
    """
    pictures = iter(images)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"{path}: no image")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"crf": "20"} if codec == "libx264" else {"qscale": "3"}
    count = 0
    # faststart: the index is at the start of the file, so a browser can play before it has the whole file.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
        stream.height, stream.width, stream.pix_fmt = first.shape[0], first.shape[1], "yuv420p"
        for picture_HWC in itertools.chain([first], pictures):
            for _ in range(HOLD):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")))
                count += 1
        container.mux(stream.encode(None))
    return count

"""The odd real files: what each decoder reads from them, or why it refuses them. One table for all tests.

Differences: decord refuses AV1, files without a duration and frames of 1x1 pixel; PyAV and torchcodec read them. All
convert 10-bit video to 8 bits, with different rounding. What PyAV refuses, all refuse with its reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np


@dataclass(frozen=True)
class Odd:
    """What is read from a file, and why a decoder refuses it (the start of the reason; None: it does not)."""

    frames: int = 0
    fps: float = 0.0
    size: tuple[int, int] = (0, 0)
    """Height and width as shown, pixels."""
    decord: str | None = None
    pyav: str | None = None

    def refusal(self, decoder):
        return self.decord or self.pyav if decoder == "decord" else self.pyav


def refused(reason):
    return Odd(pyav=reason)


SMALL = "decord cannot handle frames this small (try the decoder pyav)"
NO_VIDEO = "no video stream (audio only?)"
NO_DURATION = "its header gives no duration, which decord needs (try the decoder pyav)"
FILES = {
    "-leading-dash.mp4": Odd(5, 1.0, (1, 1), decord=SMALL),
    "audio_only.mp3": refused(NO_VIDEO),
    "audio_only.wav": refused(NO_VIDEO),
    "av1.mkv": Odd(125, 25.0, (360, 640), decord="decord does not know its codec: av1 (try the decoder pyav)"),
    "bbb_1s.webm": Odd(24, 24.0, (720, 1280)),
    "corrupted_after_28_of_50.mp4": refused("a frame is damaged: FFmpeg refuses its packet"),
    "demo_arm_wrestling.mp4": Odd(280, 28.0, (256, 340)),
    "full_range.mp4": Odd(30, 30.0, (720, 1280)),
    "h264_10bit.mp4": Odd(30, 30.0, (200, 200)),
    "h265_10bit.mp4": Odd(30, 30.0, (200, 200)),
    "minimal.avi": refused("the video stream holds no frame"),
    "minimal.flv": refused("the file ends before its first frame"),
    "minimal.webm": Odd(decord=NO_DURATION, pyav="only 1 frame: nothing can move in it"),
    "minimal_no_frames.mp4": refused(NO_VIDEO),
    "no_duration.webm": Odd(74, 14.985, (720, 1280), decord=NO_DURATION),
    "one_pixel.mp4": Odd(5, 1.0, (1, 1), decord=SMALL),
    "realshort.mp4": Odd(36, 30.020, (240, 320)),
    "rotation_0.mov": Odd(3, 30.0, (320, 568)),
    "rotation_180.mov": Odd(3, 30.0, (320, 568)),
    "rotation_270.mov": Odd(3, 30.0, (568, 320)),
    "rotation_90.mov": Odd(3, 30.0, (568, 320)),
    "ssv2_like.webm": Odd(47, 12.0, (240, 427)),
    "two_video_streams.mp4": Odd(390, 29.970, (270, 480)),
    "unordered_pts.mov": Odd(4, 32.0, (50, 50)),
    "vfr_fire.mp4": Odd(25, 10.505, (720, 1280)),
    "vfr_pancake.mkv": Odd(310, 30.0, (240, 426)),
    "zero_bytes.webm": refused("the file is empty (0 bytes)"),
}


def decode_all(path: str, upright: bool = True) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds from the first frame, RGB) of all frames in display order, without seeking."""
    with av.open(path if not path.startswith("-") else f"./{path}") as container:
        first = None
        for frame in container.decode(container.streams.best("video")):
            first = frame.time if first is None else first
            image = frame.to_ndarray(format="rgb24")
            yield frame.time - first, np.rot90(image, round(frame.rotation) // 90 % 4) if upright else image

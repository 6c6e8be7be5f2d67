"""Small real videos for tests. Their frames show their numbers."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH, BITS = 48, 64, 8


def write_video(
    path: Path,
    num_frames: int = 30,
    *,
    rate: int = 25,
    codec: str = "libx264",
    key_every: int = 12,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video whose frame i shows the number i as eight black or white bars, lowest bit on the left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = key_every
        for number in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, num_frames: int = 30, *, name: str = "{:05d}.jpg", first: int = 1) -> Path:
    """Write the same frames as a folder of JPEG images. The first one has the number `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_frames):
        Image.fromarray(numbered_image(number)).save(folder / name.format(first + number), "JPEG", quality=95)
    return folder


def numbered_image(number: int) -> np.ndarray:
    """The frame that shows a number, RGB."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            image[:, bit * WIDTH // BITS : (bit + 1) * WIDTH // BITS] = 255
    return image


def frame_numbers(frames_THWC: np.ndarray) -> list[int]:
    """The number of each frame, read from its bars."""
    bars = frames_THWC.mean(axis=(1, 3)).reshape(len(frames_THWC), BITS, WIDTH // BITS).mean(axis=2)
    return [sum(int(bar > 128) << bit for bit, bar in enumerate(row)) for row in bars]


def cut(source: Path, target: Path, share: float = 0.5) -> Path:
    """The first part of a file, as after an interrupted download."""
    content = source.read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content[: int(len(content) * share)])
    return target

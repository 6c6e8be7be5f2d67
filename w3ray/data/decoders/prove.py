"""Are frames that are read by their numbers the same as in a decode of the whole file?"""

from collections.abc import Iterator

import numpy as np

from w3ray.data.decoders._common import DecodeError, Video, open_source
from w3ray.data.decoders._orientation import orientation_in
from w3ray.data.decoders.frames import is_frame_folder

_BLOCK = 32  # frames compared at once; they are held twice
_ROUNDING = 4.0  # levels in the mean: FFmpeg versions differ in how they make 8 bits of 10-bit video


def prove_exact(video: Video, uri: str, first: int, end: int) -> None:
    """Compare frames `first` to `end` of an opened video, read in random order, with a decode from its first packet on.

    The decode is a plain loop over all packets, which shares nothing with the readers. Images in a folder are separate
    files, so there is nothing to compare.

    Raises:
        DecodeError: the number of frames or some frames differ; the reason says how many and which.
    """
    if is_frame_folder(uri):
        return
    random = np.random.default_rng(0)
    wrong: list[int] = []
    count = 0
    for start, block in _blocks(uri):
        count = start + len(block)
        indices = np.arange(max(start, first), min(count, end, video.info.num_frames))
        if not len(indices):
            continue
        order = random.permutation(indices)
        together = video.frames(order)
        alone = video.frames(order[:1])
        for index, image in [*zip(order, together, strict=True), (order[0], alone[0])]:
            if not _same(image, block, int(index) - start):
                wrong.append(int(index))
    if count != video.info.num_frames:
        raise DecodeError(uri, f"not exact: a whole decode shows {count} frames, not {video.info.num_frames}")
    if wrong:
        named = ", ".join(str(index) for index in sorted(set(wrong))[:5])
        raise DecodeError(
            uri, f"not exact: {len(set(wrong))} of {end - first} frames differ from a whole decode: {named}"
        )


def _same(image_HWC: np.ndarray, block: list[np.ndarray], place: int) -> bool:
    """Whether two frames are equal, or differ by rounding only and less than from the frames before and after."""
    if image_HWC.shape != block[place].shape:
        return False
    if np.array_equal(image_HWC, block[place]):
        return True
    neighbours = block[max(0, place - 1) : place + 2]
    differences = [float(np.abs(image_HWC.astype(np.int16) - other).mean()) for other in neighbours]
    own = differences[min(place, 1)]
    return own < _ROUNDING and own == min(differences)


def _blocks(uri: str) -> Iterator[tuple[int, list[np.ndarray]]]:
    start, block = 0, []
    for image in decode_whole(uri):
        block.append(image)
        if len(block) == _BLOCK:
            yield start, block
            start, block = start + _BLOCK, []
    if block:
        yield start, block


def decode_whole(uri: str) -> Iterator[np.ndarray]:
    """All frames that a plain loop over a video's packets shows, turned and mirrored as the file says: [H, W, 3].

    Raises:
        DecodeError: FFmpeg cannot decode it.
    """
    import av

    try:
        with av.open(open_source(uri)) as container:
            stream = container.streams.best("video")
            stream.thread_type = "NONE"
            for frame in container.decode(stream):
                yield orientation_in(frame).apply(frame.to_ndarray(format="rgb24"))
    except av.FFmpegError as error:
        raise DecodeError(uri, f"a whole decode fails: {error.strerror}") from error

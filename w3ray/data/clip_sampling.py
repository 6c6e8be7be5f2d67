"""Which frames of a video make one clip?

Every sampler is a pure function of the number of frames and of a random generator: the same generator state gives the
same indices. Without a generator (`rng=None`) it gives the indices of evaluation. Indices never decrease, lie in
[0, num_frames), and repeat where the video is shorter than the clip.

Letters: T samples of a clip, N frames of the video.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from w3ray._registry import Registry

Indices = npt.NDArray[np.int64]


def segment_indices(num_frames: int, num_samples: int, rng: np.random.Generator | None) -> Indices:
    """One frame from each of `num_samples` equal segments (TSN; W3.md, "TSM's recipe").

    Draws a frame uniformly inside every segment, or takes the centre of each segment if `rng` is None:

        N = 8, T = 4:   |0 1|2 3|4 5|6 7|   centres: 1 3 5 7

    The ends of a segment may lie between two frames. So the whole video is covered even if N < T, or if N is not a
    multiple of T: N = 3, T = 6 gives 0 0 1 1 2 2.

    Returns: int64 [T].
    Raises: ValueError if a count is below 1.
    """
    _check_counts(num_frames, num_samples)
    return segment_indices_at(num_frames, num_samples, 0.5 if rng is None else rng.random(num_samples))


def segment_indices_at(num_frames: int, num_samples: int, place_T: float | npt.NDArray[np.float64]) -> Indices:
    """`segment_indices` with the place inside each segment given, as a share of its length in [0, 1)."""
    indices_T = np.floor((np.arange(num_samples) + place_T) * (num_frames / num_samples)).astype(np.int64)
    # Rounding of the product may reach num_frames itself.
    return np.minimum(indices_T, num_frames - 1)


def dense_indices(num_frames: int, num_samples: int, stride_frames: int, rng: np.random.Generator | None) -> Indices:
    """`num_samples` frames, `stride_frames` apart, from a random place of the video (its middle if `rng` is None).

    Keeps the speed of the motion. If the video is shorter than (T - 1) * stride + 1 frames, the window is centred on
    the video, and repeats the first and the last frame outside it: N = 3, T = 5, stride 1 gives 0 0 1 2 2.

    Returns: int64 [T].
    Raises: ValueError if a count is below 1.
    """
    _check_counts(num_frames, num_samples)
    if stride_frames < 1:
        raise ValueError(f"stride_frames must be at least 1, not {stride_frames}")
    spare_frames = num_frames - ((num_samples - 1) * stride_frames + 1)
    if rng is None or spare_frames <= 0:
        start = spare_frames // 2
    else:
        start = int(rng.integers(spare_frames + 1))
    indices_T = start + np.arange(num_samples, dtype=np.int64) * stride_frames
    return np.clip(indices_T, 0, num_frames - 1)


def _check_counts(num_frames: int, num_samples: int) -> None:
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, not {num_frames}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")


def _segment(num_frames: int, num_samples: int, stride_frames: int, rng: np.random.Generator | None) -> Indices:
    return segment_indices(num_frames, num_samples, rng)


Sampler = Callable[[int, int, int, np.random.Generator | None], Indices]

SAMPLERS: Registry[Sampler] = Registry(
    "samplers", {"segment": _segment, "dense": dense_indices}, contract="w3ray.testing:check_sampler"
)
"""Name -> `sampler(num_frames, num_samples, stride_frames, rng)`; "segment" ignores the stride."""

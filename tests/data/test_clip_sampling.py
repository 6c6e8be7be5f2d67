"""Clip sampling: the frames it picks from videos of any length."""

import numpy as np
import pytest

from w3ray.data.clip_sampling import SAMPLERS, dense_indices, segment_indices


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_generator_another_clip(name):
    draws = [SAMPLERS[name](100, 8, 2, np.random.default_rng(seed)).tolist() for seed in (5, 6)]
    assert draws[0] != draws[1]


def test_segment_centres():
    assert segment_indices(8, 4, None).tolist() == [1, 3, 5, 7]
    assert segment_indices(9, 3, None).tolist() == [1, 4, 7]
    assert segment_indices(3, 6, None).tolist() == [0, 0, 1, 1, 2, 2]
    assert segment_indices(1, 4, None).tolist() == [0, 0, 0, 0]


def test_segment_covers_each_frame_evenly():
    rng = np.random.default_rng(1)
    counts = np.bincount(np.concatenate([segment_indices(24, 8, rng) for _ in range(6000)]), minlength=24)
    # 6000 draws in each segment of 3 frames: 2000 per frame, standard deviation 37.
    assert np.abs(counts - 2000).max() < 200
    for _ in range(100):
        assert (segment_indices(24, 8, rng) // 3).tolist() == list(range(8))


def test_segment_never_passes_the_end():
    class AlmostOne(np.random.Generator):
        def random(self, size=None):
            return np.full(size, np.nextafter(1, 0))

    rng = AlmostOne(np.random.PCG64(0))
    for num_frames in range(1, 400):
        for num_samples in (3, 7, 8, 13):
            assert segment_indices(num_frames, num_samples, rng).max() == num_frames - 1


def test_dense_keeps_the_stride():
    rng = np.random.default_rng(2)
    starts = set()
    for _ in range(300):
        indices_T = dense_indices(20, 4, 3, rng)
        assert np.diff(indices_T).tolist() == [3, 3, 3]
        starts.add(int(indices_T[0]))
    assert starts == set(range(11))
    assert dense_indices(20, 4, 3, None).tolist() == [5, 8, 11, 14]


def test_dense_short_video_repeats_its_ends():
    assert dense_indices(3, 5, 1, None).tolist() == [0, 0, 1, 2, 2]
    assert dense_indices(3, 5, 1, np.random.default_rng(0)).tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("arguments", [(0, 8, 2), (8, 0, 2)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_errors(name, arguments):
    with pytest.raises(ValueError, match="must be at least 1"):
        SAMPLERS[name](*arguments, None)


def test_errors_stride():
    with pytest.raises(ValueError, match="stride_frames"):
        dense_indices(8, 4, 0, None)

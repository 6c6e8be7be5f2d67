"""Crops: inside the frame, the same for all frames, resized like a reference."""

import numpy as np
import pytest
from PIL import Image

from w3ray.data.crop import Box, centre_crop_box, crop_and_resize, random_crop_box

SCALES = (1, 0.875, 0.75, 0.66)


def picture(num_frames=3, height=60, width=90, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (321, 77), (64, 64), (1, 1), (2, 500)])
def test_random_box_lies_inside(height, width):
    rng = np.random.default_rng(0)
    short_side = min(height, width)
    sides = [max(1, int(short_side * scale)) for scale in SCALES]
    for _ in range(300):
        box = random_crop_box(height, width, SCALES, rng)
        assert 0 <= box.top <= box.top + box.height <= height
        assert 0 <= box.left <= box.left + box.width <= width
        assert box.height in sides
        assert box.width in sides
        if len(set(sides)) == len(SCALES):
            assert abs(sides.index(box.height) - sides.index(box.width)) <= 1


def test_random_box_reaches_all_scales_and_places():
    rng = np.random.default_rng(0)
    boxes = {random_crop_box(240, 320, SCALES, rng) for _ in range(5000)}
    assert {(box.height, box.width) for box in boxes} == {
        (a, b) for i, a in enumerate((240, 210, 180, 158)) for j, b in enumerate((240, 210, 180, 158)) if abs(i - j) < 2
    }
    assert len({(box.top, box.left) for box in boxes if (box.height, box.width) == (180, 180)}) == 13


def test_random_box_is_a_function_of_the_generator():
    boxes = [random_crop_box(240, 320, SCALES, np.random.default_rng(3)) for _ in range(2)]
    assert boxes[0] == boxes[1]


def test_centre_box():
    assert centre_crop_box(240, 320) == Box(0, 40, 240, 240)
    assert centre_crop_box(256, 256, 224 / 256) == Box(16, 16, 224, 224)
    assert centre_crop_box(1, 1, 0.5) == Box(0, 0, 1, 1)


def test_resize_matches_pillow():
    frames_THWC = picture()
    box = Box(5, 11, 50, 41)
    ours_TSSC = crop_and_resize(frames_THWC, box, 24)
    for frame_HWC, ours_SSC in zip(frames_THWC, ours_TSSC, strict=True):
        cut = Image.fromarray(frame_HWC[5:55, 11:52])
        reference = np.asarray(cut.resize((24, 24), Image.Resampling.BILINEAR))
        # Both round fixed-point sums: they differ by at most one level.
        assert np.abs(reference.astype(int) - ours_SSC).max() <= 1


def test_same_size_is_an_exact_cut():
    frames_THWC = picture()
    clip_TSSC = crop_and_resize(frames_THWC, Box(3, 7, 32, 32), 32)
    np.testing.assert_array_equal(clip_TSSC, frames_THWC[:, 3:35, 7:39])
    assert not np.shares_memory(clip_TSSC, frames_THWC)


@pytest.mark.parametrize(("box", "size"), [(Box(3, 7, 32, 32), 32), (Box(3, 7, 50, 44), 24), (Box(0, 0, 9, 9), 24)])
def test_mirror(box, size):
    frames_THWC = picture()
    plain, mirrored = (crop_and_resize(frames_THWC, box, size, mirror=mirror) for mirror in (False, True))
    np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])
    for clip in (plain, mirrored):
        assert clip.dtype == np.uint8
        assert clip.flags.c_contiguous
        assert clip.flags.writeable


def test_same_for_all_frames():
    frames_THWC = np.repeat(picture(num_frames=1), 5, axis=0)
    rng = np.random.default_rng(0)
    for _ in range(10):
        clip = crop_and_resize(frames_THWC, random_crop_box(60, 90, SCALES, rng), 32)
        assert (clip == clip[:1]).all()


@pytest.mark.parametrize("scales", [(), (0.0,), (1.2, 1.0), (-1.0,)])
def test_errors_scales(scales):
    with pytest.raises(ValueError, match="scales"):
        random_crop_box(10, 10, scales, np.random.default_rng(0))


@pytest.mark.parametrize("share", [0, -1, 1.01])
def test_errors_share(share):
    with pytest.raises(ValueError, match="share"):
        centre_crop_box(10, 10, share)

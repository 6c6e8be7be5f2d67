"""The thing is where its pixels are, and the share of a map on it is counted correctly."""

import numpy as np
import pytest

from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.manifest import read_manifest
from w3ray.data.synthetic import acting_cover
from w3ray.errors import InputError
from w3ray.explaining.pointing import VISIBLE, cover_in_clip, pointing


def one_pixel(shape, place):
    array = np.zeros(shape, np.float32)
    array[place] = 1
    return array


class TestPointing:
    def test_known_by_hand(self):
        cover_TSS = np.zeros((3, 10, 10), np.float32)
        cover_TSS[0, 2:4, 2:4] = 1
        cover_TSS[1, 2:4, 2:4] = VISIBLE / 2  # too faint to be visible
        cover_TSS[2, :, :5] = 1
        map_TSS = np.zeros((3, 10, 10), np.float32)
        map_TSS[0, 2, 2], map_TSS[0, 9, 9] = 3, 1
        map_TSS[2, 0, 9], map_TSS[2, 0, 0] = 2, 1
        score = pointing(map_TSS, cover_TSS, tolerance=0)
        np.testing.assert_allclose(score.mass_F, [0.75, 1 / 3], rtol=1e-6)
        np.testing.assert_allclose(score.area_F, [0.04, 0.5])
        assert score.hit_F.tolist() == [1, 0]
        np.testing.assert_allclose(score.hit_area_F, [0.04, 0.5])

    @pytest.mark.parametrize(("column", "hit"), [(4, 1), (5, 1), (6, 0)])
    def test_tolerance_is_a_distance(self, column, hit):
        cover_TSS = one_pixel((1, 10, 10), (0, 5, 3))
        score = pointing(one_pixel((1, 10, 10), (0, 5, column)), cover_TSS, tolerance=0.2)
        assert score.hit_F.tolist() == [hit]
        assert score.hit_area_F.tolist() == [pytest.approx(0.13)]  # places at a distance of at most 2
        assert score.area_F.tolist() == [pytest.approx(0.01)]

    def test_an_even_map_gets_the_area(self):
        cover_TSS = np.zeros((2, 20, 20), np.float32)
        cover_TSS[:, 3:9, 4:12] = 1
        for even in (np.zeros_like(cover_TSS), np.full_like(cover_TSS, 0.95)):
            score = pointing(even, cover_TSS)
            np.testing.assert_allclose(score.mass_F, score.area_F, rtol=1e-5)
            np.testing.assert_allclose(score.hit_F, score.hit_area_F)

    def test_nothing_to_be_seen(self):
        score = pointing(np.ones((2, 8, 8), np.float32), np.zeros((2, 8, 8), np.float32))
        assert score.mass_F.shape == (0,)

    def test_errors(self):
        with pytest.raises(ValueError, match="shape"):
            pointing(np.ones((2, 8, 8), np.float32), np.ones((2, 8, 9), np.float32))
        with pytest.raises(ValueError, match="negative"):
            pointing(np.full((2, 8, 8), -1, np.float32), np.ones((2, 8, 8), np.float32))


def colourfulness(frames_TSSC):
    """The acting thing is colourful, everything else nearly grey."""
    frames_TSSC = frames_TSSC.astype(int)
    return frames_TSSC.max(axis=3) - frames_TSSC.min(axis=3)


@pytest.mark.parametrize("spec", [ClipSpec(size=40), ClipSpec(size=48, num_frames=5, sampling="dense", short_side=64)])
def test_the_thing_is_where_the_pixels_are(motion_manifest, spec):
    """In every clip of the set, loaded from its file as in evaluation."""
    manifest = read_manifest(str(motion_manifest))
    inside, outside, faint = [], [], 0
    for row, video in zip(manifest.table.to_pylist(), manifest.resolved_uris(), strict=True):
        cover_TSS = cover_in_clip(acting_cover(motion_manifest.parent, row["clip_id"]), spec)
        frames_TSSC, _ = load_clip(video, label=row["label"], spec=spec, rng=None)
        assert cover_TSS.shape == frames_TSSC.shape[:3]
        colour_TSS = colourfulness(frames_TSSC)
        faint += int((cover_TSS.max(axis=(1, 2)) < VISIBLE).sum())
        if (cover_TSS > 0.9).any():
            inside.append(colour_TSS[cover_TSS > 0.9].mean())
            outside.append(colour_TSS[cover_TSS < 0.01].mean())
    assert len(inside) > 40
    # In each clip, one hue clearly stands out in every frame.
    assert min(np.array(inside) / np.array(outside)) > 2
    assert faint > 0


def test_turned_round_or_shifted_it_is_not(motion_manifest):
    """The test above would fail with wrong frames, where the thing of a moving clip is elsewhere."""
    manifest = read_manifest(str(motion_manifest))
    worse = 0
    rows = [row for row in manifest.table.to_pylist() if row["label"] < 2]
    spec = ClipSpec(size=40)
    for row in rows:
        cover_NSS = acting_cover(motion_manifest.parent, row["clip_id"])
        colour_TSS = colourfulness(load_clip(manifest.resolve(row["uri"]), label=0, spec=spec, rng=None)[0])
        right, wrong = (colour_TSS[cover_in_clip(cover, spec) > 0.9].mean() for cover in (cover_NSS, cover_NSS[::-1]))
        worse += wrong < right - 20
    assert worse == len(rows)


def test_errors_of_the_set(motion_manifest, tmp_path):
    clip_id = read_manifest(str(motion_manifest)).table["clip_id"][0].as_py()
    assert acting_cover(motion_manifest.parent, clip_id).ndim == 3
    for wrong in ("nonsense", "00000000" + clip_id[8:], clip_id[:-5] + "99999", clip_id.replace("train", "dev")):
        with pytest.raises(InputError, match="holds no clip"):
            acting_cover(motion_manifest.parent, wrong)
    with pytest.raises(InputError, match="cannot be read; name the folder of a generated data set"):
        acting_cover(tmp_path, clip_id)
    (tmp_path / "synthetic.json").write_text('{"version": 1}')
    with pytest.raises(InputError, match="another version"):
        acting_cover(tmp_path, clip_id)

"""Views of a test protocol: their places in time and space. The single view is that of the validation."""

import numpy as np
import pytest

from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.decoders import open_video
from w3ray.data.manifest import read_manifest
from w3ray.data.views import PROTOCOLS, clip_indices, load_views, parse_protocol
from w3ray.errors import InputError

SPEC = ClipSpec(num_frames=4, size=32)


@pytest.fixture(scope="module")
def clip(motion_manifest) -> dict:
    manifest = read_manifest(motion_manifest)
    row = manifest.split("val").to_pylist()[0]
    return {"uri": manifest.resolve(row["uri"]), "reversed": row["reversed"]}


@pytest.mark.parametrize(
    ("name", "views", "shape"),
    [
        ("1clip-center", 1, (32, 32)), ("2clip-center", 2, (32, 32)), ("2clip-full-res", 2, (37, 37)),
        ("3crop-2clip", 6, (37, 37)), ("10crop-2clip", 20, (32, 32)), ("7clip-center", 7, (32, 32)),
    ],
)  # fmt: skip
def test_how_many_views_of_what_size(clip, name, views, shape):
    protocol = parse_protocol(name)
    found = load_views(**clip, spec=SPEC, protocol=protocol)
    assert found.shape == (views, 4, *shape, 3)
    assert (protocol.num_views, len(protocol.mirrored_V)) == (views, views)
    assert found.dtype == np.uint8


def test_the_papers_protocols_are_known():
    assert [parse_protocol(name).num_views for name in PROTOCOLS] == [1, 2, 2, 6, 20]


@pytest.mark.parametrize(
    "name", ["", "center", "0clip-center", "3crop", "5crop-2clip", "101clip-center", "2clip-centre"]
)
def test_no_such_protocol(name):
    with pytest.raises(InputError, match=r"protocol '.*': "):
        parse_protocol(name)


def test_one_centre_view_is_what_validation_sees(clip):
    (view,) = load_views(**clip, spec=SPEC, protocol=parse_protocol("1clip-center"))
    assert np.array_equal(view, load_clip(**clip, label=0, spec=SPEC, rng=None)[0])


def test_two_clips_are_the_start_and_the_middle_of_each_segment():
    """TSM's "twice sample": N = 16 frames in 4 segments of 4."""
    assert clip_indices(16, SPEC, 2).tolist() == [[0, 4, 8, 12], [2, 6, 10, 14]]
    assert clip_indices(16, SPEC, 1).tolist() == [[2, 6, 10, 14]]
    assert clip_indices(16, SPEC, 4).tolist() == [[start + 4 * i for i in range(4)] for start in range(4)]
    assert clip_indices(3, SPEC, 3).max() == 2


def test_dense_clips_go_from_the_start_to_the_end():
    dense = ClipSpec(num_frames=4, size=32, sampling="dense", stride_frames=2)
    assert clip_indices(20, dense, 3).tolist() == [[0, 2, 4, 6], [6, 8, 10, 12], [13, 15, 17, 19]]
    assert clip_indices(20, dense, 1).tolist() == [[6, 8, 10, 12]]
    assert clip_indices(5, dense, 2).tolist() == [clip_indices(5, dense, 1).tolist()[0]] * 2, "no other position exists"


class Ramp:
    """Pixels that encode their place: red the column, green the row."""

    def __init__(self, height: int, width: int) -> None:
        rows, columns = np.mgrid[:height, :width]
        self._frame = np.stack([columns, rows, np.zeros_like(rows)], -1).astype(np.uint8)

    def frame_span(self, start_s, end_s):
        return 0, 4

    def frames(self, indices):
        return np.stack([self._frame] * len(indices))

    def times_s(self, indices):
        return np.asarray(indices) / 10

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def corners(view: np.ndarray) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) of the first frame, by its pixels."""
    frame = view[0].astype(int)
    return frame[0, 0, 0], frame[0, -1, 0], frame[0, 0, 1], frame[-1, 0, 1]


@pytest.mark.parametrize(
    ("height", "width", "lefts", "tops"),
    [(48, 100, [0, 26, 52], [0, 0, 0]), (100, 48, [0, 0, 0], [0, 26, 52]), (48, 48, [0, 0, 0], [0, 0, 0])],
)
def test_three_crops_cover_the_long_side(monkeypatch, height, width, lefts, tops):
    spec = ClipSpec(num_frames=4, size=42, short_side=48)  # nothing is resized
    monkeypatch.setattr("w3ray.data.views.open_clip", lambda *args, **more: Ramp(height, width))
    views = load_views("x", spec=spec, protocol=parse_protocol("3crop-1clip"))
    assert [corners(view) for view in views] == [
        (left, left + 47, top, top + 47) for left, top in zip(lefts, tops, strict=True)
    ]


def test_ten_crops_are_corners_and_centre_and_their_mirror_images(monkeypatch):
    spec = ClipSpec(num_frames=4, size=40, short_side=48)
    monkeypatch.setattr("w3ray.data.views.open_clip", lambda *args, **more: Ramp(48, 100))
    protocol = parse_protocol("10crop-1clip")
    views = load_views("x", spec=spec, protocol=protocol)
    places = [(0, 0), (60, 0), (0, 8), (60, 8), (30, 4)]
    assert [corners(view) for view in views[:5]] == [(left, left + 39, top, top + 39) for left, top in places]
    assert np.array_equal(views[5:], views[:5, :, :, ::-1])
    assert protocol.mirrored_V == (False,) * 5 + (True,) * 5


def test_a_clip_played_backwards_is_the_same_views_turned_round(clip):
    protocol = parse_protocol("2clip-center")
    forward = load_views(clip["uri"], spec=SPEC, protocol=protocol)
    backward = load_views(clip["uri"], spec=SPEC, protocol=protocol, reversed=True)
    assert np.array_equal(backward, forward[:, ::-1])


def test_the_whole_frame_keeps_its_shape(clip):
    with open_video(clip["uri"]) as video:
        height, width = video.frames([0]).shape[1:3]
    spec = ClipSpec(num_frames=4, size=32, short_side=min(height, width))
    (view,) = load_views(**clip, spec=spec, protocol=parse_protocol("1clip-full-res"))
    assert view.shape[1:3] == (height, width)

"""Parts of exact frames: rereading packets of a long file, correcting a wrong index, lengths of containers."""

from io import BytesIO

import numbered
import numpy as np
import pytest
from videos import cut, write_video

from w3ray.data.decoders import DecodeError, _pictures, open_video, pyav
from w3ray.data.decoders._common import check_not_cut
from w3ray.data.decoders._orientation import Orientation, orientation_of

LONG = ["h264_open.mp4", "hevc_open.mkv", "mpeg4_b.avi", "mpeg2_b.ts", "mpeg1_b.mpg", "vp8_altref.webm", "flv1.flv"]


@pytest.mark.parametrize("cell", LONG)
def test_packets_that_are_not_kept(tmp_path, monkeypatch, cell):
    """The stream is too long for memory, so packets are read again, after a seek or from the start of the file."""
    path = str(numbered.write(tmp_path / cell, numbered.CODECS[cell.split(".")[0]]))
    monkeypatch.setattr(pyav, "_HELD_BYTES", 0)
    with open_video(path) as video:
        count = video.info.num_frames
        order = np.random.default_rng(1).permutation(count)
        assert count == numbered.NUM_FRAMES
        assert numbered.numbers(video.frames(order)) == order.tolist()
        for index in order:
            assert numbered.numbers(video.frames([index])) == [index]


def test_a_seek_that_goes_wrong_half_way(tmp_path, monkeypatch):
    """A packet is not where it was: the rest is read from the start of the file, into the same decoder."""
    path = str(numbered.write(tmp_path / "a.mp4", numbered.CODECS["h264_no_b"]))
    with open_video(path) as video:
        whole = video.frames(range(numbered.NUM_FRAMES))
    monkeypatch.setattr(pyav, "_HELD_BYTES", 0)
    with open_video(path) as video:
        for place in (14, 26):
            video._table.position[place] += 1
        monkeypatch.setattr(video, "_decode_whole", lambda: pytest.fail("the decoder lost what came before"))
        for indices in ([17], [29], [25, 12, 18]):
            np.testing.assert_array_equal(video.frames(indices), whole[indices])


def test_a_count_that_was_wrong_is_found_and_corrected(tmp_path, monkeypatch):
    """Pictures that are not shown although their headers say so: no other frame takes their place."""
    path = str(numbered.write(tmp_path / "a.webm", numbered.CODECS["vp8_altref"]))
    shown = numbered.NUM_FRAMES
    monkeypatch.setitem(_pictures.READERS, "vp8", lambda data, is_key: _pictures.Picture(True, True, not data[0] & 1))
    with open_video(path) as video:
        promised = video.info.num_frames
        assert promised > shown
        with pytest.raises(DecodeError, match=f"promise {promised} frames, a decode shows {shown}: open it again"):
            video.frames(range(promised))
    with open_video(path) as video:  # this process now knows the true count
        assert numbered.numbers(video.frames(range(shown))) == list(range(shown))


def test_a_whole_decode_is_remembered(tmp_path, monkeypatch):
    path = str(numbered.write(tmp_path / "a.ts", numbered.CODECS["mpeg2_b"]))
    decodes = []
    whole = pyav.PyavVideo._decode_whole
    monkeypatch.setattr(pyav.PyavVideo, "_decode_whole", lambda video: decodes.append(1) or whole(video))
    for _ in range(3):
        with open_video(path) as video:
            assert numbered.numbers(video.frames([20, 3])) == [20, 3]
    assert len(decodes) == 1
    numbered.write(tmp_path / "a.ts", numbered.CODECS["mpeg2"])  # a new video with the same name is decoded again
    with open_video(path) as video:
        assert numbered.numbers(video.frames([31])) == [31]
    assert len(decodes) == 2


@pytest.mark.parametrize(("cell", "byte"), [("h264_closed.ts", 5011), ("mpeg2_b.ts", 9001), ("mpeg1_b.mpg", 9001)])
def test_a_recording_that_begins_within_a_packet(tmp_path, cell, byte):
    whole = numbered.write(tmp_path / cell, numbered.CODECS[cell.split(".")[0]])
    part = tmp_path / f"part-{cell}"
    part.write_bytes(whole.read_bytes()[byte:])
    shown = numbered.truth(part).numbers
    assert len(shown) < numbered.NUM_FRAMES
    with open_video(str(part)) as video:
        assert video.info.num_frames == len(shown)
        assert numbered.numbers(video.frames(range(len(shown)))) == shown


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi", "a.wmv", "a.flv"])
def test_length_by_the_container(tmp_path, name):
    """Complete files pass. Without their last tenth they count as truncated, whatever their content."""
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4", "wmv": "wmv2", "flv": "flv"}.get(name[2:], "libx264")
    whole = write_video(tmp_path / name, 100, codec=codec)
    check_not_cut(str(whole), name)
    check_not_cut(BytesIO(whole.read_bytes()), name)
    with open_video(str(whole)) as video:
        assert video.info.num_frames == 100
    share = 0.5 if name == "a.flv" else 0.9  # FLV has only the duration in its header
    part = cut(whole, tmp_path / "cut" / name, share)
    with pytest.raises(DecodeError, match="truncated"):
        open_video(str(part))


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), Orientation()),
        ((-1, 0, 0, 1), Orientation(flip_horizontal=True)),
        ((1, 0, 0, -1), Orientation(flip_vertical=True)),
        ((-1, 0, 0, -1), Orientation(flip_horizontal=True, flip_vertical=True)),
        ((0, 1, 1, 0), Orientation(transpose=True)),
        ((0, 1, -1, 0), Orientation(transpose=True, flip_horizontal=True)),
        ((0, -1, 1, 0), Orientation(transpose=True, flip_vertical=True)),
        ((0, -1, -1, 0), Orientation(transpose=True, flip_horizontal=True, flip_vertical=True)),
    ],
)
def test_every_flip_and_quarter_turn(matrix, expected):
    """Point (p, q) of the stored picture is shown at (a p + c q, b p + d q), moved into the frame."""
    a, b, c, d = matrix
    words = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], dtype=np.int32)
    assert orientation_of(words.tobytes()) == expected
    stored = np.arange(6).reshape(2, 3, 1)  # 2 rows, 3 columns
    shown = expected.apply(stored)
    for q in range(2):
        for p in range(3):
            x, y = a * p + c * q, b * p + d * q
            left = min(0, a * 2 + 0) + min(0, c * 1)
            top = min(0, b * 2) + min(0, d * 1)
            assert shown[y - top, x - left] == stored[q, p]

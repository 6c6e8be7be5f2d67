"""Decoders return exactly the requested frames, all decoders the same ones, or refuse with a reason."""

import pickle
import subprocess
import sys
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
from decoders_here import each_decoder, imported_torchcodec
from videos import HEIGHT, WIDTH, cut, frame_numbers, write_video

from w3ray.data.decoders import DecodeError, open_video, require_decoder
from w3ray.errors import InputError


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", 60)


@each_decoder
@pytest.mark.parametrize(
    "indices",
    [
        [0],
        [59],
        list(range(60)),
        [5, 17, 30, 44, 58],  # across key frames (every 12th frame)
        [58, 3, 3, 40, 0, 58],  # any order, with repetitions
        [11, 12, 13, 23, 24, 25],
    ],
)
def test_exactly_the_frames_asked_for(clip, decoder, indices):
    with open_video(str(clip), decoder) as video:
        frames = video.frames(indices)
        assert frames.dtype == np.uint8
        assert frames.shape == (len(indices), HEIGHT, WIDTH, 3)
        assert frame_numbers(frames) == indices
        assert frame_numbers(video.frames(indices[::-1])) == indices[::-1]  # a second call on the same video


@each_decoder
@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")])
def test_other_containers(tmp_path, decoder, name, codec):
    clip = write_video(tmp_path / name, 40, codec=codec)
    if name == "a.avi" and decoder != "pyav":
        with pytest.raises(DecodeError, match="is not proven right for this file, use the decoder pyav"):
            open_video(str(clip), decoder)
        return
    with open_video(str(clip), decoder) as video:
        assert video.info.num_frames == 40
        assert frame_numbers(video.frames([39, 0, 20, 7])) == [39, 0, 20, 7]


@each_decoder
def test_info(clip, decoder):
    with open_video(str(clip), decoder) as video:
        assert (video.info.height, video.info.width) == (None, None)  # nothing is decoded yet
        video.frames([0])
        info = video.info
    assert (info.num_frames, info.height, info.width) == (60, HEIGHT, WIDTH)
    assert info.fps == pytest.approx(25)
    assert info.duration_s == pytest.approx(2.4, abs=1e-6)


@each_decoder
@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((None, None), (0, 60)),
        ((0.4, 1.2), (10, 30)),
        ((None, 0.4), (0, 10)),
        ((2.0, None), (50, 60)),
        ((2, 9), (50, 60)),
    ],
)
def test_frame_span(clip, decoder, span, expected):
    with open_video(str(clip), decoder) as video:
        assert video.frame_span(*span) == expected


@each_decoder
def test_a_span_behind_the_end_is_refused(clip, decoder):
    with open_video(str(clip), decoder) as video, pytest.raises(DecodeError, match=r"no frame between 3\.0 and 4\.0 s"):
        video.frame_span(3.0, 4.0)


@each_decoder
@pytest.mark.parametrize("indices", [[60], [-1], []])
def test_indices_outside_are_the_callers_mistake(clip, decoder, indices):
    with open_video(str(clip), decoder) as video, pytest.raises(IndexError):
        video.frames(indices)


@each_decoder
def test_file_uri_and_a_remote_file_system(clip, decoder):
    fsspec.filesystem("memory").pipe("/bucket/clip.mp4", clip.read_bytes())
    for uri in (f"file://{clip}", "memory://bucket/clip.mp4"):
        with open_video(uri, decoder) as video:
            assert frame_numbers(video.frames([59, 4])) == [59, 4]
    with pytest.raises(DecodeError, match="cannot be fetched"):
        open_video("memory://bucket/nothing.mp4", decoder)


@each_decoder
def test_missing_and_empty_files(tmp_path, decoder):
    with pytest.raises(DecodeError, match="No such file"):
        open_video(str(tmp_path / "none.mp4"), decoder)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(DecodeError, match="empty"):
        open_video(str(tmp_path / "empty.mp4"), decoder)
    (tmp_path / "text.mp4").write_text("this is no video\n" * 99)
    with pytest.raises(DecodeError) as caught:
        open_video(str(tmp_path / "text.mp4"), decoder)
    assert "\n" not in caught.value.reason
    assert str(tmp_path) not in caught.value.reason  # the uri is stored elsewhere; reasons are counted by kind


@each_decoder
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("index_last.mp4", "libx264", {}),
        ("index_first.mp4", "libx264", {"movflags": "faststart"}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.avi", "mpeg4", {}),
    ],
)
def test_a_file_that_was_cut_off_is_refused(tmp_path, decoder, name, codec, options):
    """AVI, Matroska and WebM would play up to the cut, as if the clip were shorter."""
    whole = write_video(tmp_path / name, 100, codec=codec, options=options)
    with open_video(str(whole)) as video:
        assert video.info.num_frames == 100
    with pytest.raises(DecodeError, match="truncated"):
        open_video(str(cut(whole, tmp_path / "cut" / name)), decoder)


@each_decoder
def test_a_single_frame_is_no_clip(tmp_path, decoder):
    with pytest.raises(DecodeError, match="only 1 frame"):
        open_video(str(write_video(tmp_path / "still.mp4", 1)), decoder)
    with open_video(str(write_video(tmp_path / "two.mp4", 2)), decoder) as video:
        assert frame_numbers(video.frames([1, 0])) == [1, 0]


def test_unknown_decoder():
    with pytest.raises(InputError, match="unknown decoder 'decrod'; known: pyav, decord, torchcodec"):
        open_video("x.mp4", "decrod")


def test_decode_error_survives_pickling():
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "the file is empty")))
    assert (error.uri, error.reason, str(error)) == ("a.mp4", "the file is empty", "a.mp4: the file is empty")


@pytest.mark.real_data
def test_packed_b_frames_are_counted_as_shown(real_data):
    """An AVI of UT-Interaction: 110 packets, two of them without a picture. P- and B-frames share packets."""
    path = str(real_data / "ut-interaction" / "set1" / "0_1_4.avi")
    with av.open(path) as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_video(path) as video:
        assert video.info.num_frames == len(whole) == 108
        assert video.info.fps == pytest.approx(30)
        # The two empty packets follow the first frame, so this frame lasts as long as three.
        assert video.times_s(range(3)) == pytest.approx([0, 3 / 30, 4 / 30])
        assert video.frame_span(1.0, 2.0) == (28, 58)
        indices = [107, 50, 0, 51, 106]
        np.testing.assert_array_equal(video.frames(indices), [whole[index] for index in indices])


@each_decoder
def test_nothing_is_printed_about_damaged_frames(tmp_path, decoder):
    clip = write_video(tmp_path / "clip.mp4", 60)
    content = bytearray(clip.read_bytes())
    content[600:1200] = bytes(600)
    clip.write_bytes(content)
    script = (
        "import sys\n"
        "from w3ray.data.decoders import DecodeError, open_video\n"
        "try:\n"
        "    open_video(sys.argv[1], sys.argv[2]).frames([0, 30, 59])\n"
        "except DecodeError:\n"
        "    pass\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(clip), decoder],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout + run.stderr == ""


def test_torchcodec_without_ffmpeg_is_refused_before_the_first_video(monkeypatch):
    """torchcodec can then be imported, but fails on each video: a run would count all videos as unreadable."""
    torchcodec = imported_torchcodec()

    monkeypatch.setattr(torchcodec, "ffmpeg_major_version", None)
    with pytest.raises(InputError, match=r"torchcodec cannot be loaded; it needs FFmpeg's libraries \(4 to 9\)"):
        require_decoder("torchcodec")

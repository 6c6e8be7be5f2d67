"""Every decoder reads odd real files correctly or refuses them with a reason. `odd_files.py` has the expectations."""

import os
import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from decoders_here import each_decoder
from odd_files import FILES, NO_DURATION, SMALL, decode_all
from videos import HEIGHT, WIDTH, frame_numbers, numbered_image

from w3ray.data.audit import check_clips
from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.decoders import DecodeError, open_video
from w3ray.data.manifest import build_manifest

pytestmark = pytest.mark.real_data
TEN_BIT_LEVELS = 4.0  # mean difference in 8-bit levels: the libraries' FFmpeg versions round 10 bits differently

each_file = pytest.mark.parametrize("name", FILES)
READ = [name for name, odd in FILES.items() if odd.pyav is None]


@pytest.fixture
def odd(real_data, monkeypatch):
    """The files are given by their plain names. One starts with a dash."""
    monkeypatch.chdir(real_data / "odd")


def test_every_file_is_in_the_table(real_data):
    assert set(os.listdir(real_data / "odd")) == set(FILES)


def test_where_the_decoders_differ():
    differ = {name: odd.decord for name, odd in FILES.items() if odd.decord and not odd.pyav}
    assert differ == {
        "-leading-dash.mp4": SMALL,
        "av1.mkv": "decord does not know its codec: av1 (try the decoder pyav)",
        "no_duration.webm": NO_DURATION,
        "one_pixel.mp4": SMALL,
    }


@each_file
@each_decoder
def test_clip(odd, name, decoder):
    """The result for training and evaluation: a clip with content, or one line with the reason."""
    expected = FILES[name]
    spec = ClipSpec(num_frames=8, size=64, decoder=decoder)
    if (reason := expected.refusal(decoder)) is None:
        clip_TSSC, label = load_clip(name, label=3, spec=spec, rng=None)
        assert (clip_TSSC.shape, label) == ((8, 64, 64, 3), 3)
        assert clip_TSSC.max() > 0
        with open_video(name, decoder) as video:
            video.frames([0])
            info = video.info
        assert (info.num_frames, (info.height, info.width)) == (expected.frames, expected.size)
        assert info.fps == pytest.approx(expected.fps, rel=1e-3)
        return
    with pytest.raises(DecodeError) as caught:
        load_clip(name, label=3, spec=spec, rng=None)
    assert caught.value.reason.startswith(reason)
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 200


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@each_decoder
def test_data_check(real_data, decoder):
    paths = [str(real_data / "odd" / name) for name in FILES]
    columns = {"clip_id": list(FILES), "uri": paths, "label": [0] * len(paths), "split": ["train"] * len(paths)}
    rows = check_clips(build_manifest(columns, ["a"]), decoder).to_pylist()
    found = {row["clip_id"]: (row["num_frames"], row["height"], row["width"]) for row in rows if row["ok"]}
    reasons = {row["clip_id"]: row["reason"] for row in rows if not row["ok"]}
    readable = {name: odd for name, odd in FILES.items() if odd.refusal(decoder) is None}
    assert found == {name: (odd.frames, *odd.size) for name, odd in readable.items()}
    assert set(reasons) == set(FILES) - set(readable)
    assert all(reason.startswith(FILES[name].refusal(decoder)) for name, reason in reasons.items())


@pytest.mark.parametrize("name", READ)
@each_decoder
def test_frames_are_those_of_plain_decoding(odd, name, decoder):
    """Frame i, found by seeking, is the i-th in display order of a loop that decodes everything."""
    if FILES[name].refusal(decoder) is not None:
        return
    wanted = [FILES[name].frames - 1, 0, FILES[name].frames // 2]
    with open_video(name, decoder) as video:
        frames = video.frames(wanted).astype(np.int16)
    plain = [image for place, (_, image) in enumerate(decode_all(name)) if place in wanted]
    difference = np.abs(frames[[1, 2, 0]] - np.stack(plain)).mean()
    assert difference <= (TEN_BIT_LEVELS if "10bit" in name and decoder != "pyav" else 0)


@each_decoder
def test_rotation_is_applied(odd, decoder):
    """Four videos of one keyboard, held in four ways: each is shown upright, and only in the way of its tag."""
    for tag, quarter_turns in {0: 0, 90: 3, 180: 2, 270: 1}.items():
        name = f"rotation_{tag}.mov"
        stored = next(decode_all(name, upright=False))[1]
        with open_video(name, decoder) as video:
            shown = video.frames([0])[0]
        same = [turns for turns in range(4) if np.array_equal(np.rot90(stored, turns), shown)]
        assert same == [quarter_turns], name


@each_decoder
def test_one_recording_under_four_rotation_tags(odd, tmp_path, decoder):
    """The same pixels with another tag give the same picture, rotated."""
    content = bytearray(Path("rotation_0.mov").read_bytes())
    place = content.index(b"tkhd") + 4
    place += 52 if content[place] else 40  # version 1 has 64-bit times
    turns = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    shown = {}
    for tag, (a, b, c, d) in turns.items():
        content[place : place + 20] = struct.pack(">5i", a << 16, b << 16, 0, c << 16, d << 16)
        path = tmp_path / f"{tag}.mov"
        path.write_bytes(content)
        with open_video(str(path), decoder) as video:
            shown[tag] = video.frames([0, 2])
    for tag, clockwise_turns in {90: 1, 180: 2, 270: 3}.items():
        np.testing.assert_array_equal(shown[tag], np.rot90(shown[0], -clockwise_turns, axes=(1, 2)))


@pytest.mark.parametrize("name", ["vfr_fire.mp4", "vfr_pancake.mkv", "no_duration.webm", "unordered_pts.mov"])
@each_decoder
def test_a_part_is_cut_by_time_stamps(odd, name, decoder):
    if FILES[name].refusal(decoder) is not None:
        return
    times_s = np.array([time_s for time_s, _ in decode_all(name)])
    assert (np.diff(times_s) > 0).all()
    parts_s = list(pairwise(np.linspace(0, times_s[-1], 4)))
    with open_video(name, decoder) as video:
        spans = [video.frame_span(start_s, end_s) for start_s, end_s in parts_s]
        fps = video.info.fps
    slack_s = 5e-4  # container ticks can be as coarse as 1 ms
    assert spans == [tuple((times_s < limit_s - slack_s).sum() for limit_s in part_s) for part_s in parts_s]
    if name == "vfr_fire.mp4":  # counting at the average rate would give other frames
        assert [first for first, _ in spans] != [round(start_s * fps) for start_s, _ in parts_s]


@each_decoder
def test_times_that_are_uneven_by_design(tmp_path, decoder):
    """Frames carry their numbers. The frames between two times are those that are shown between these times."""
    times_ms = np.cumsum([0, 10, 10, 10, 400, 20, 20, 300, 5, 5, 5, 200, 40, 40, 40, 40])
    path = tmp_path / "uneven.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")
            frame.pts, frame.time_base = int(time_ms), stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with open_video(str(path), decoder) as video:
        for start_s, end_s, expected in [(0.0, 0.03, [0, 1, 2]), (0.43, 0.75, [4, 5, 6]), (0.77, 0.8, [7, 8, 9, 10])]:
            assert frame_numbers(video.frames(range(*video.frame_span(start_s, end_s)))) == expected


@each_decoder
def test_of_two_video_streams_the_larger_is_read(odd, decoder):
    """All decoders take the stream that FFmpeg calls best. The first stream of the file has 320x180 pixels."""
    with av.open("two_video_streams.mp4") as container:
        assert [(stream.height, stream.width) for stream in container.streams.video] == [(180, 320), (270, 480)]
    with open_video("two_video_streams.mp4", decoder) as video:
        assert video.frames([0]).shape == (1, 270, 480, 3)


@each_decoder
def test_full_range_is_not_stretched(odd, decoder):
    """Its luma uses all of 0..255 and its colours are BT.709. Read as usual video (16..235), it would be too bright and
    too dark by up to 16 levels."""
    with av.open("full_range.mp4") as container:
        planes = next(container.decode(video=0)).to_ndarray().astype(float)
    luma, blue, red = planes[:720], planes[720:900].reshape(360, 640), planes[900:].reshape(360, 640)
    blue, red = (np.kron(chroma - 128, np.ones((2, 2))) for chroma in (blue, red))
    with open_video("full_range.mp4", decoder) as video:
        frame = video.frames([0])[0]
    for read_as, stretch, at_least, at_most in [(luma, 1.0, 0, 1), ((luma - 16) * 255 / 219, 255 / 224, 5, 99)]:
        rgb = [read_as + stretch * 1.5748 * red, read_as - stretch * (0.1873 * blue + 0.4681 * red),
               read_as + stretch * 1.8556 * blue]  # fmt: skip
        assert at_least <= np.abs(frame - np.stack(rgb, axis=-1).clip(0, 255)).mean() <= at_most

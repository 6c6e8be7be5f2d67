"""Packed clips: the same frames one to one, at the same times, with the same ids and labels; resumed, never redone."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numbered
import numpy as np
import pytest
from videos import cut, frame_numbers, write_frames

from w3ray.data.clip import ClipSpec, read_clip
from w3ray.data.decoders import DecodeError, open_video
from w3ray.data.manifest import FOLDER_FPS, build_manifest, read_manifest
from w3ray.data.pack import STILL_END_S, PackSettings, pack_clip, pack_clips, packed_frames, packed_size, ticks_of
from w3ray.errors import InputError, RunError

SMALL = PackSettings(short_side=64)
H264 = numbered.CODECS["h264_closed"]
QUARTER_TURN = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)


def packed(source: Path, target: Path, settings: PackSettings = SMALL, span=(None, None)):
    """The numbers and the times of all frames of a packed clip, and a frame."""
    count = pack_clip(str(source), *span, target, settings)
    with open_video(str(target)) as video:
        assert video.info.num_frames == count
        frames_THWC = video.frames(np.arange(count))
        return numbered.numbers(frames_THWC), video.times_s(np.arange(count)), frames_THWC[0]


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> dict[str, Path]:
    """Videos with B-frames, in open groups, at uneven times, with odd sides, and a folder of frames."""
    folder = tmp_path_factory.mktemp("many")
    uneven = [0, 1, 2, 7, 8, 20, *range(21, 21 + numbered.NUM_FRAMES)]
    images = write_frames(folder / "images", 12)
    return {
        "b_frames": numbered.write(folder / "b.mp4", H264),
        "open": numbered.write(folder / "open.ts", numbered.CODECS["mpeg2_b"]),
        "uneven": numbered.write(folder / "uneven.mkv", H264, ticks=uneven.__getitem__),
        "odd": numbered.write(
            folder / "odd.avi", replace(numbered.CODECS["ffv1"], pix_fmt="yuv444p", height=97, width=161)
        ),
        "ntsc": numbered.write(folder / "ntsc.mp4", replace(H264, rate=Fraction(30000, 1001))),
        "images": images,
    }


class TestFrames:
    @pytest.mark.parametrize("name", ["b_frames", "open", "uneven", "odd", "ntsc"])
    def test_each_frame_is_there_once_at_its_time(self, many, tmp_path, name):
        truth = numbered.truth(many[name])
        numbers, times_s, frame = packed(many[name], tmp_path / "clip.mp4")
        assert numbers == truth.numbers
        np.testing.assert_allclose(times_s, truth.times_s, atol=1e-3)
        assert frame.shape == (64, 106, 3)

    def test_a_part_of_a_video_begins_at_zero(self, many, tmp_path):
        numbers, times_s, _ = packed(many["uneven"], tmp_path / "clip.mp4", span=(2 / 30, 21 / 30))
        assert numbers == [2, 3, 4, 5]
        np.testing.assert_allclose(times_s, [0, 5 / 30, 6 / 30, 18 / 30], atol=1e-3)

    def test_samplers_choose_the_same_frames(self, many, tmp_path):
        target, spec = tmp_path / "clip.mp4", ClipSpec(num_frames=5, size=64, short_side=64)
        pack_clip(str(many["b_frames"]), 0.2, 0.9, target, SMALL)
        for seed in (None, 0, 1):
            before, after = (
                read_clip(uri, label=0, spec=spec, rng=None if seed is None else np.random.default_rng(seed), **span)
                for uri, span in ((str(many["b_frames"]), {"start_s": 0.2, "end_s": 0.9}), (str(target), {}))
            )
            assert (before.numbers_T - 6).tolist() == after.numbers_T.tolist()
            np.testing.assert_allclose(before.times_s - 0.2, after.times_s, atol=1e-3)
            error = np.abs(before.frames_TSSC.astype(int) - after.frames_TSSC).mean()
            assert error < 12, "the pictures are those of the same frames"

    def test_a_turned_picture_is_packed_upright(self, tmp_path):
        source = numbered.write(tmp_path / "turned.mp4", H264, matrix=QUARTER_TURN)
        _, _, frame = packed(source, tmp_path / "clip.mp4", PackSettings(short_side=96))
        with open_video(str(source)) as video:
            (shown,) = video.frames([0])
        assert frame.shape == shown.shape == (160, 96, 3)
        assert np.abs(frame.astype(int) - shown).mean() < 4

    def test_pictures_that_are_not_made_smaller_look_the_same_in_colour(self, tmp_path):
        source = numbered.write(tmp_path / "a.mkv", replace(numbered.CODECS["ffv1"], height=97, width=161))
        _, _, frame = packed(source, tmp_path / "clip.mp4", PackSettings())
        with open_video(str(source)) as video:
            (before,) = video.frames([0])
        assert frame.shape == (96, 160, 3)
        assert np.abs(frame.astype(int) - before[:96, :160]).mean(axis=(0, 1)).max() < 4

    def test_a_folder_of_frames(self, many, tmp_path):
        pack_clip(str(many["images"]), 3 / FOLDER_FPS, 7 / FOLDER_FPS, tmp_path / "clip.mp4", SMALL)
        with open_video(str(tmp_path / "clip.mp4")) as video:
            assert frame_numbers(video.frames(range(4))) == [3, 4, 5, 6]

    def test_a_part_with_a_single_frame(self, many, tmp_path):
        for name in ("b_frames", "images"):
            target = tmp_path / f"{name}.mp4"
            assert pack_clip(str(many[name]), 0.1, 0.13, target, SMALL) == packed_frames(target) == 1
            spec = ClipSpec(num_frames=4, size=64, short_side=64)
            clip = read_clip(str(target), label=0, spec=spec, rng=None, end_s=STILL_END_S)
            before = read_clip(str(many[name]), label=0, spec=spec, rng=None, start_s=0.1, end_s=0.13)
            assert set(clip.numbers_T) == {0}
            assert set(before.numbers_T) == {3}
            assert np.abs(before.frames_TSSC.astype(int) - clip.frames_TSSC).mean() < 12

    def test_key_frames_are_near(self, many, tmp_path):
        import av

        pack_clip(str(many["b_frames"]), None, None, tmp_path / "clip.mp4", PackSettings(short_side=64, gop=5))
        with av.open(str(tmp_path / "clip.mp4")) as container:
            packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        assert [number for number, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, 32, 5))
        assert all(packet.pts == packet.dts for packet in packets), "no frame waits for a later one"

    def test_the_bytes_are_a_function_of_the_clip(self, many, tmp_path):
        for name in ("a.mp4", "b.mp4"):
            pack_clip(str(many["odd"]), None, None, tmp_path / name, SMALL)
        assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("before", "after"),
    [((480, 640), (256, 342)), ((640, 480), (342, 256)), ((257, 257), (256, 256)), ((101, 257), (100, 256))],
)
def test_packed_size(before, after):
    assert packed_size(*before, 256) == after


def test_ticks():
    assert ticks_of(np.array([2.0, 2.5, 3.0])).tolist() == [0, 45_000, 90_000]
    assert ticks_of(np.array([0, 1e-6, 2e-6, 1.0])).tolist() == [0, 1, 2, 90_000]
    assert ticks_of(np.full(3, np.nan)).tolist() == [0, 3000, 6000]


class TestRefused:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"short_side": 0}, "short side 0: must be an even number of at least 16 pixels"),
            ({"short_side": 255}, "short side 255: must be an even number"),
            ({"crf": 0}, "crf 0: must be in 1..51"),
            ({"gop": 0}, "gop 0: must be in 1..250 frames"),
        ],
    )
    def test_settings(self, values, message):
        with pytest.raises(InputError, match=message):
            PackSettings(**values)

    def test_clips(self, many, tmp_path):
        target = tmp_path / "clip.mp4"
        with pytest.raises(DecodeError, match="no frame between 9"):
            pack_clip(str(many["b_frames"]), 9, 10, target, SMALL)
        tiny = numbered.write(tmp_path / "tiny.avi", replace(numbered.CODECS["raw"], height=8, width=20))
        with pytest.raises(DecodeError, match="frames of 20x8 pixels are too small to pack"):
            pack_clip(str(tiny), None, None, target, SMALL)
        assert {path.name for path in tmp_path.iterdir()} == {"tiny.avi"}, "no half of a file is left"

    def test_a_file_that_was_cut_off_is_not_finished(self, many, tmp_path):
        pack_clip(str(many["b_frames"]), None, None, tmp_path / "clip.mp4", SMALL)
        assert packed_frames(tmp_path / "clip.mp4") == numbered.NUM_FRAMES
        assert packed_frames(cut(tmp_path / "clip.mp4", tmp_path / "cut.mp4")) is None
        assert packed_frames(tmp_path / "absent.mp4") is None


def manifest_of(many: dict[str, Path], broken: Path):
    return build_manifest(
        {
            "clip_id": ["one", "back", "part/of", "lost", "held", "short"],
            "uri": [
                *(str(many[name]) for name in ("b_frames", "b_frames", "uneven")),
                *map(str, (broken, many["odd"], many["open"])),
            ],
            "start_s": [None, None, 0.1, None, None, 0.1],
            "end_s": [None, None, 0.5, None, None, 0.13],
            "reversed": [False, True, False, False, False, False],
            "label": [0, 1, 3, 2, None, 1],
            "split": ["train", "train", "val", "train", "test", "train"],
            "group": ["g", "g", None, "h", None, None],
        },
        ["a", "b", "x", "y"],
        {0: 1, 1: 0},
    )


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_manifest_is_packed_and_resumed(many, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    clips, out = manifest_of(many, broken), tmp_path / "out"
    with pytest.raises(RunError, match=r"1 of 6 clips cannot be read, .*\(lost: not a video"):
        pack_clips(clips, str(out), SMALL)
    assert not (out / "manifest.parquet").exists()
    first = {path: path.stat().st_ino for path in out.rglob("*.mp4")}
    assert len(first) == 4, "the clip and its reversed twin share a file"

    # As after an interruption: one clip is not there, one was cut off, one is whole.
    whole, lost, damaged, still = sorted(first)
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-100])
    made = pack_clips(clips, str(out), SMALL, max_failed_share=0.2)
    assert whole.stat().st_ino == first[whole]
    assert still.stat().st_ino == first[still]
    assert [row["kept"] for row in made.result.to_pylist()].count(True) == 2
    assert all(packed_frames(path) for path in first)

    written = read_manifest(out / "manifest.parquet")
    assert written.fingerprint() == made.manifest.fingerprint()
    rows = [0, 1, 2, 4, 5]
    for name in ("clip_id", "reversed", "label", "split", "group"):
        assert written.table[name].to_pylist() == clips.table[name].take(rows).to_pylist()
    assert (written.classes, written.flip_map) == (clips.classes, clips.flip_map)
    uris = written.table["uri"].to_pylist()
    assert uris[0] == uris[1] == "clips/00000/one.mp4"
    assert written.table["start_s"].null_count == 5
    assert written.table["end_s"].to_pylist() == [None, None, None, None, STILL_END_S], "its frame is there twice"
    assert (clips.own_times, written.own_times) == (False, True), "a part begins at 0 now"
    with open_video(written.resolved_uris()[2]) as video:
        assert numbered.numbers(video.frames(range(video.info.num_frames))) == [3, 4]
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert failure["clip_id"] == "lost"
    result = json.loads((out / "pack.json").read_text())["result"]
    assert (result["clips"], result["missing"], result["fingerprint"]) == (5, 1, written.fingerprint())
    assert result["bytes"] == sum(path.stat().st_size for path in first)

    with pytest.raises(InputError, match="holds clips packed with another crf; name another folder"):
        pack_clips(clips, str(out), replace(SMALL, crf=30))
    with pytest.raises(InputError, match="holds clips packed with another clips"):
        pack_clips(clips, str(out), SMALL, splits=["val"])


def test_what_cannot_be_packed_is_said_before_anything_starts(many, tmp_path):
    clips = manifest_of(many, tmp_path)
    with pytest.raises(InputError, match="holds optical flow, which is not packed"):
        pack_clips(replace(clips, flow=True), str(tmp_path / "out"))
    with pytest.raises(InputError, match="unknown decoder 'vcr'"):
        pack_clips(clips, str(tmp_path / "out"), PackSettings(decoder="vcr"))
    with pytest.raises(InputError, match="'dev'"):
        pack_clips(clips, str(tmp_path / "out"), splits=["dev"])
    with pytest.raises(InputError, match="lie outside the roots"):
        pack_clips(clips, str(tmp_path / "out"), roots=[str(tmp_path / "elsewhere")])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        pack_clips(clips, str(tmp_path / "file" / "out"))
    assert not (tmp_path / "out").exists()

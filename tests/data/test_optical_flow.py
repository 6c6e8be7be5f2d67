"""Optical flow: computed once, resumed, and read as clips whose motion has the right sign and order."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from w3ray.data.audit import check_clips
from w3ray.data.clip import ClipSpec, load_clip, read_clip
from w3ray.data.decoders import DecodeError
from w3ray.data.decoders.flow import FlowFolder
from w3ray.data.flow import FINISHED_NAME, FlowSettings, compute_flow, finished_fields, to_grey
from w3ray.data.flow_colours import visible
from w3ray.data.manifest import build_manifest, read_manifest
from w3ray.data.modality import holds_flow, require_modality
from w3ray.data.views import load_views, parse_protocol
from w3ray.errors import InputError, RunError

SIDE = 64
STILL = 128


def moving(folder: Path, *, right: int = 0, down: int = 0, num_frames: int = 8) -> Path:
    """Frames of a smooth pattern that moves by so many pixels from frame to frame."""
    noise = np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)
    pattern = np.asarray(Image.fromarray(noise).resize((4 * SIDE, 4 * SIDE), Image.Resampling.BICUBIC))
    folder.mkdir(parents=True)
    for number in range(num_frames):
        top, left = SIDE - down * number, SIDE - right * number
        Image.fromarray(pattern[top : top + SIDE, left : left + SIDE]).save(folder / f"{number + 1:05d}.png")
    return folder


def manifest_of(paths, **columns):
    return build_manifest(
        {
            "clip_id": [f"clip-{number}" for number in range(len(paths))],
            "uri": [str(path) for path in paths],
            "label": [0] * len(paths),
            "split": ["train"] * len(paths),
        }
        | columns,
        ["a"],
    )


def written(folder: Path, fields_NHW2: np.ndarray, names=("flow_x_{:05d}.png", "flow_y_{:05d}.png")) -> Path:
    for axis, name in enumerate(names):
        for number, field in enumerate(fields_NHW2[..., axis], 1):
            path = folder / name.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(field)).save(path)
    return folder


@pytest.fixture(scope="module")
def fields() -> np.ndarray:
    """Ten fields that can be told apart: uint8 [10, 32, 32, 2]."""
    x = np.arange(10, dtype=np.uint8)[:, None, None] + np.arange(32, dtype=np.uint8)[None, None, :] * 4
    x = np.broadcast_to(x, (10, 32, 32))
    return np.stack([x, 255 - x], axis=-1)


@pytest.fixture
def folder(fields, tmp_path) -> Path:
    return written(tmp_path / "clip", fields)


SPEC = ClipSpec(num_frames=2, size=32, short_side=32, flow_fields=3)


def test_a_sample_is_a_stack_of_neighbouring_fields(folder, fields):
    clip = read_clip(str(folder), label=0, spec=SPEC, rng=None)
    assert clip.frames_TSSC.shape == (2, 32, 32, SPEC.channels) == (2, 32, 32, 6)
    for sample, first in zip(clip.frames_TSSC, (2, 6), strict=True):  # centres of two segments of 8 possible places
        for number in range(3):
            np.testing.assert_array_equal(sample[..., 2 * number : 2 * number + 2], fields[first + number])


def test_a_stack_beyond_the_end_repeats_the_last_field(tmp_path, fields):
    clip, _ = load_clip(str(written(tmp_path / "short", fields[:2])), label=0, spec=SPEC, rng=None)
    np.testing.assert_array_equal(clip[0, ..., 4:6], fields[1])
    np.testing.assert_array_equal(clip[0, ..., 2:4], fields[1])
    np.testing.assert_array_equal(clip[0, ..., 0:2], fields[0])


def test_backwards_the_order_and_the_sign_of_motion_turn_round(folder):
    forwards, _ = load_clip(str(folder), label=0, spec=SPEC, rng=None)
    backwards, _ = load_clip(str(folder), label=0, spec=SPEC, rng=None, reversed=True)
    stacks = forwards.reshape(2, 32, 32, 3, 2)[::-1, :, :, ::-1]
    np.testing.assert_array_equal(backwards, 255 - stacks.reshape(2, 32, 32, 6))


def test_a_mirror_image_moves_the_other_way(folder):
    views = load_views(str(folder), spec=SPEC, protocol=parse_protocol("10crop-1clip"))
    plain, mirrored = views[4], views[9]  # the centre, and its mirror image
    np.testing.assert_array_equal(mirrored[..., 0::2], 255 - plain[:, :, ::-1, 0::2])
    np.testing.assert_array_equal(mirrored[..., 1::2], plain[:, :, ::-1, 1::2])
    spec = ClipSpec(num_frames=2, size=32, flow_fields=3, flip=True, scales=(1.0,))
    clips = [
        read_clip(str(folder), label=0, spec=spec, rng=np.random.default_rng(seed), flip_map={0: 0})
        for seed in range(8)
    ]
    assert {clip.mirrored for clip in clips} == {True, False}
    for clip in clips:  # x grows to the right in the picture, so it falls in the mirror; 255 - x grows again
        assert (np.diff(clip.frames_TSSC[0, 0, :, 0].astype(int)) > 0).all()


@pytest.mark.parametrize("names", [("x_{:05d}.png", "y_{:05d}.png"), ("u/frame_{:010d}.png", "v/frame_{:010d}.png")])
def test_public_layouts(tmp_path, fields, names):
    with FlowFolder(str(written(tmp_path / "clip", fields, names))) as flow:
        np.testing.assert_array_equal(flow.frames([7, 0]), fields[[7, 0]])


def test_folders_that_are_no_flow(tmp_path, fields):
    with pytest.raises(DecodeError, match="no optical flow in the folder: a folder without JPEG or PNG images called"):
        FlowFolder(str(moving(tmp_path / "frames")))
    (tmp_path / "video.mp4").touch()
    with pytest.raises(DecodeError, match="not a folder of optical flow; `w3ray data flow` makes flow"):
        FlowFolder(str(tmp_path / "video.mp4"))
    clip = written(tmp_path / "clip", fields)
    (clip / "flow_y_00010.png").unlink()
    with pytest.raises(DecodeError, match="flow of x has 10 fields, of y 9"):
        FlowFolder(str(clip))


def test_grey_values():
    np.testing.assert_array_equal(to_grey(np.array([-99.0, -20, 0, 1, 20, 99])), [0, 0, STILL, 134, 255, 255])


@pytest.mark.parametrize(
    ("values", "message"),
    [({"method": "lucas"}, "method 'lucas': must be one of dis-medium"), ({"short_side": 4}, "at least 16 pixels")],
)
def test_bad_settings(values, message):
    with pytest.raises(InputError, match=message):
        FlowSettings(**values)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_flow_of_a_manifest(tmp_path):
    right, down = moving(tmp_path / "right", right=2), moving(tmp_path / "down", down=3)
    (tmp_path / "absent").mkdir()
    videos = manifest_of([right, right, down, tmp_path / "absent"], reversed=[False, True, False, False])
    seen: list[tuple[int, int]] = []
    made, result = compute_flow(videos, str(tmp_path / "out"), progress=lambda *counts: seen.append(counts))
    assert made is not None
    assert made.flow
    assert read_manifest(tmp_path / "out" / "manifest.parquet").flow
    assert [row["fields"] for row in result.to_pylist()] == [7, 7, None]  # a reversed twin has its clip's flow
    assert result["reason"].to_pylist()[2] == "a folder without JPEG or PNG images"
    assert seen[-1] == (3, 3)
    assert made.table["clip_id"].to_pylist() == ["clip-0", "clip-1", "clip-2"]
    spec = ClipSpec(num_frames=2, size=64, short_side=64, flow_fields=2)
    motion = []
    for uri, row in zip(made.resolved_uris(), made.table.to_pylist(), strict=True):
        clip, _ = load_clip(uri, label=0, spec=spec, rng=None, reversed=row["reversed"])
        middle = clip[:, 16:48, 16:48].astype(float).mean(axis=(0, 1, 2))
        motion.append((middle.reshape(2, 2).mean(axis=0) / 255 * 40 - 20).round(1).tolist())
    np.testing.assert_allclose(motion, [[2, 0], [-2, 0], [0, 3]], atol=0.25)

    # Again: the finished clip is kept, the other one is computed anew.
    kept = tmp_path / "out" / "flow" / "clip-0"
    marked = (kept / "flow_x_00001.jpg").write_bytes((kept / "flow_x_00002.jpg").read_bytes())
    (tmp_path / "out" / "flow" / "clip-2" / FINISHED_NAME).unlink()
    (tmp_path / "out" / "flow" / "clip-2" / "flow_x_00001.jpg").unlink()
    compute_flow(videos, str(tmp_path / "out"))
    assert marked == (kept / "flow_x_00001.jpg").stat().st_size
    assert (tmp_path / "out" / "flow" / "clip-2" / "flow_x_00001.jpg").exists()

    with pytest.raises(InputError, match="holds flow with another method"):
        compute_flow(videos, str(tmp_path / "out"), FlowSettings(method="dis-fast"))
    with pytest.raises(InputError, match="holds flow with another clips"):
        compute_flow(manifest_of([right]), str(tmp_path / "out"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_full_disk_is_named_and_the_same_command_goes_on(tmp_path, small_disk):
    disk = small_disk("100k")
    videos = manifest_of([moving(tmp_path / "right", right=1, num_frames=60)])
    with pytest.raises(RunError, match="No space left on device"):
        compute_flow(videos, str(disk / "out"))
    assert not list((disk / "out").rglob(FINISHED_NAME))
    small_disk("4m")
    made, result = compute_flow(videos, str(disk / "out"))
    assert made is not None
    assert result["fields"].to_pylist() == [59]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_frames_that_opencv_refuses(tmp_path):
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    for number in range(3):
        Image.new("L", (4, 4)).save(tiny / f"{number + 1:05d}.png")
    made, result = compute_flow(manifest_of([tiny]), str(tmp_path / "out"))
    assert made is None
    assert result["reason"][0].as_py().startswith("OpenCV cannot compute its flow: ")


def test_a_marker_that_is_damaged_does_not_count(tmp_path):
    (tmp_path / FINISHED_NAME).write_text("{")
    assert finished_fields(tmp_path) is None
    (tmp_path / FINISHED_NAME).write_text(json.dumps({"fields": 4}))
    assert finished_fields(tmp_path) == 4


def test_clips_of_the_wrong_kind_are_refused(tmp_path, fields):
    videos = manifest_of([moving(tmp_path / "frames")])
    flow = manifest_of([written(tmp_path / "flow", fields)])
    assert not holds_flow(videos)
    assert holds_flow(flow)
    require_modality(videos, None, "the recipe")
    require_modality(flow, 5, "the recipe")
    with pytest.raises(InputError, match=r"the recipe reads optical flow, but .* holds videos"):
        require_modality(videos, 5, "the recipe")
    with pytest.raises(InputError, match=r"holds optical flow, but m reads RGB frames; set data.flow_fields=5"):
        require_modality(flow, None, "m")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_check_of_a_manifest_reads_both_images_of_a_field(tmp_path, fields):
    good, bad = written(tmp_path / "good", fields), written(tmp_path / "bad", fields)
    (bad / "flow_y_00010.png").unlink()
    ledger = check_clips(manifest_of([good, bad])).to_pylist()
    assert [row["ok"] for row in ledger] == [True, False]
    assert (ledger[0]["num_frames"], ledger[0]["height"], ledger[0]["width"]) == (10, 32, 32)
    assert ledger[1]["reason"] == "flow of x has 10 fields, of y 9"


def test_motion_as_colours():
    still = np.full((1, 4, 4, 6), STILL, np.uint8)
    assert (visible(still) == 255).all()
    right = still.copy()
    right[..., 2] = 255  # x of the middle field
    np.testing.assert_array_equal(visible(right)[0, 0, 0], [255, 0, 0])
    left = still.copy()
    left[..., 2] = 0
    np.testing.assert_allclose(visible(left)[0, 0, 0], [0, 255, 255], atol=2)
    rgb = np.zeros((1, 4, 4, 3), np.uint8)
    assert visible(rgb) is rgb

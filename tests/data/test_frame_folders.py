"""A folder of JPEG images is a video: exactly the requested frames, or a reason that names the image."""

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import fsspec
import numpy as np
import pytest
from decoders_here import each_decoder
from PIL import Image
from videos import HEIGHT, WIDTH, cut, frame_numbers, numbered_image, write_frames

from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.decoders import DecodeError, open_video
from w3ray.data.decoders.frames import FrameFolder, frame_names, whole_frame_names
from w3ray.data.importers import import_csv, import_folder
from w3ray.data.manifest import FOLDER_FPS
from w3ray.data.shared_clips import ClipFolder
from w3ray.storage import StorageFailing


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("clips") / "100218", 60)


@each_decoder
@pytest.mark.parametrize("indices", [[0], [59], list(range(60)), [5, 17, 30, 44, 58], [58, 3, 3, 40, 0, 58]])
def test_exactly_the_frames_asked_for(clip, decoder, indices):
    with open_video(str(clip), decoder) as video:
        frames = video.frames(indices)
        assert frames.dtype == np.uint8
        assert frames.shape == (len(indices), HEIGHT, WIDTH, 3)
        assert frame_numbers(frames) == indices
        assert frame_numbers(video.frames(indices[::-1])) == indices[::-1]
        frames[:] = 0  # must be writable, as with any decoder


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("{:05d}.jpg", 0, 12),
        ("img_{:05d}.jpg", 1, 12),
        ("frame_{:010d}.jpg", 1, 12),
        ("{}.JPG", 1, 12),
        ("clip 2, take 3 %d ü_{}.jpeg", 0, 101),  # numbers without padding get longer
        ("{:02d}.jpg", 1, 120),
        ("frame_{:010d}.jpg", 123, 12),  # a part of a longer video
        ("{}.jpg", 95, 12),
    ],
)
def test_names(tmp_path, name, first, count):
    folder = write_frames(tmp_path / "ä b", count, name=name, first=first)
    (folder / ".DS_Store").write_text("x")
    (folder / "n_frames.txt").write_text("12")
    (folder / ".hidden.jpg").write_text("x")
    with open_video(str(folder)) as video:
        assert video.info.num_frames == count
        assert frame_numbers(video.frames([0, 9, count - 1])) == [0, 9, count - 1]


def test_optical_flow_is_no_frame(tmp_path):
    for flow in ("flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg"):
        write_frames(tmp_path / "a", 11, name=flow)
        write_frames(tmp_path / "b", 11, name=flow)
    for flow in ("x_{:05d}.jpg", "y_{:05d}.jpg"):
        write_frames(tmp_path / "c", 11, name=flow, first=0)
    write_frames(tmp_path / "a", 12, name="img_{:05d}.jpg")
    write_frames(tmp_path / "c", 12, name="{:05d}.jpg")
    for number in range(12):  # PNG images next to the JPEG images of the flow
        Image.fromarray(numbered_image(number)).save(tmp_path / "b" / f"img_{number:05d}.png")
    for name in ("a", "b", "c"):
        with open_video(str(tmp_path / name)) as video:
            assert video.info.num_frames == 12
            assert frame_numbers(video.frames(range(12))) == list(range(12))
    # One kind of flow is left. It is read, because the user may choose it. Two kinds are refused.
    write_frames(tmp_path / "d", 12, name="flow_x_{:05d}.jpg")
    with open_video(str(tmp_path / "d")) as video:
        assert video.info.num_frames == 12
    write_frames(tmp_path / "d", 12, name="flow_y_{:05d}.jpg")
    with pytest.raises(DecodeError, match=r"images of two kinds: flow_x_00001\.jpg, flow_y_00001\.jpg"):
        open_video(str(tmp_path / "d"))


def test_a_published_clip_begins_at_its_first_image(tmp_path):
    """Data sets with published lists have a known first image, so a missing beginning is noticed."""
    folder = write_frames(tmp_path / "a", 12, first=3)
    assert frame_names(str(folder)).first == 3
    with pytest.raises(DecodeError, match=r"missing images: 00001\.jpg is the first of 2"):
        whole_frame_names(str(folder))


def test_info_and_spans(clip):
    with open_video(str(clip)) as video:
        assert (video.info.height, video.info.width) == (None, None)
        video.frames([0])
        info = video.info
        assert (info.num_frames, info.fps, info.duration_s, info.height, info.width) == (60, 30.0, 2.0, HEIGHT, WIDTH)
        assert video.frame_span(None, None) == (0, 60)
        assert video.frame_span(None, 0.5) == (0, 15)
        assert video.frame_span(1.0, 9.0) == (30, 60)
        with pytest.raises(DecodeError, match=r"no frame between 3\.0 and 4\.0 s"):
            video.frame_span(3.0, 4.0)
        for outside in ([60], [-1], []):
            with pytest.raises(IndexError):
                video.frames(outside)


def test_frame_numbers_survive_seconds(tmp_path, monkeypatch):
    """Every span of frames, written as seconds and read back, stays the same, in a folder of 70000 images."""
    monkeypatch.setattr("os.listdir", lambda _: [f"{number:06d}.jpg" for number in range(1, 70_001)])
    folder = FrameFolder(str(tmp_path))
    for first in (0, 1, 7, 29, 333, 4999, 65_536, 69_998):
        for length in (1, 2, 3, 100):
            if first + length <= 70_000:
                span = folder.frame_span(first / FOLDER_FPS, (first + length) / FOLDER_FPS)
                assert span == (first, first + length)
    assert Fraction(FOLDER_FPS).denominator == 1


def test_only_the_images_asked_for_are_read(tmp_path):
    folder = write_frames(tmp_path / "a", 20)
    for number in range(1, 21):
        if number not in (4, 9):
            (folder / f"{number:05d}.jpg").write_bytes(b"damaged")
    with open_video(str(folder)) as video:
        assert frame_numbers(video.frames([8, 3])) == [8, 3]
        with pytest.raises(DecodeError, match=r"a damaged image: 00003\.jpg"):
            video.frames([3, 2])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / "00007.jpg").unlink(), "missing images: 00007.jpg is the first of 1"),
        (lambda f: [(f / f"0000{n}.jpg").unlink() for n in (3, 4, 8)], "missing images: 00003.jpg is the first of 3"),
        (lambda f: (f / "00002.jpg").rename(f / "00099.jpg"), "missing images: 00002.jpg is the first of 87"),
        (lambda f: (f / "img_00013.jpg").touch(), "images of two kinds: 00001.jpg, img_00013.jpg"),
        (lambda f: (f / "00013.jpeg").touch(), "images of two kinds: 00001.jpg, 00013.jpeg"),
        (lambda f: (f / "0005.jpg").touch(), "two images with one number: "),
        (lambda f: (f / "0000013.jpg").touch(), "an image with another number of digits: 0000013.jpg"),
        (lambda f: (f / "thumbnail.jpg").touch(), "an image without a number: thumbnail.jpg"),
        (lambda f: (f / "00013\n.jpg").touch(), r"an image without a number: 00013\\n.jpg"),
        (lambda f: (f / "a\udcff.jpg").touch(), r"an image without a number: a\\udcff.jpg"),
        (lambda f: [path.unlink() for path in f.iterdir()], "a folder without JPEG or PNG images"),
    ],
)
def test_a_folder_that_is_no_whole_clip_is_refused(tmp_path, change, reason):
    folder = write_frames(tmp_path / "a", 12)
    change(folder)
    with pytest.raises(DecodeError, match=reason) as caught:
        open_video(str(folder))
    caught.value.reason.encode()  # it can be printed and stored
    assert "\n" not in caught.value.reason
    assert str(tmp_path) not in caught.value.reason
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_image_that_comes_later_is_seen(tmp_path):
    folder = write_frames(tmp_path / "a", 12)
    with open_video(str(folder)) as video:
        assert video.info.num_frames == 12
    shutil.copy(folder / "00001.jpg", folder / "00013.jpg")
    os.utime(folder, ns=(1, 1))  # a different time, however coarse the clock
    with open_video(str(folder)) as video:
        assert video.info.num_frames == 13


def test_a_single_frame_is_no_clip(tmp_path):
    with pytest.raises(DecodeError, match="only 1 frame"):
        open_video(str(write_frames(tmp_path / "one", 1)))
    with open_video(str(write_frames(tmp_path / "two", 2))) as video:
        assert frame_numbers(video.frames([1, 0])) == [1, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"a damaged image: 00002.jpg is empty \(0 bytes\)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a damaged image: 00002.jpg is no JPEG image"),
        (None, r"a damaged image: 00002.jpg \(.*(?i:truncated)"),
    ],
)
def test_a_damaged_image_is_named(tmp_path, content, reason, capfd):
    folder = write_frames(tmp_path / "a", 3)
    image = folder / "00002.jpg"
    if content is None:
        cut(image, image, 0.7)
    else:
        image.write_bytes(content)
    with open_video(str(folder)) as video, pytest.raises(DecodeError, match=reason):
        video.frames([0, 1, 2])
    assert capfd.readouterr() == ("", "")


def test_sizes_and_colours(tmp_path):
    folder = write_frames(tmp_path / "a", 4)
    Image.new("L", (WIDTH, HEIGHT), 200).save(folder / "00002.jpg")
    turned = Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    turned.getexif()[0x0112] = 6
    turned.save(folder / "00003.jpg", exif=turned.getexif())
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(folder / "00004.jpg")
    with open_video(str(folder)) as video:
        assert video.frames([1, 2]).shape == (2, HEIGHT, WIDTH, 3)  # grey, and rotated as its tag says
        assert set(np.unique(video.frames([1]))) == {200}
        with pytest.raises(DecodeError, match=r"the frame size changes within the folder: \[\(48, 64\), \(48, 65\)\]"):
            video.frames([0, 3])


@pytest.mark.parametrize("size", [(1, 1), (37, 23), (431, 240)])
def test_odd_sizes(tmp_path, size):
    for number in (1, 2):
        Image.new("RGB", size).save(tmp_path / f"{number}.jpg")
    with open_video(str(tmp_path)) as video:
        assert video.frames([0, 1]).shape == (2, size[1], size[0], 3)


def test_clips_are_the_same_in_two_processes(clip):
    script = (
        "import hashlib, sys, numpy as np\n"
        "from w3ray.data.clip import ClipSpec, load_clip\n"
        "spec = ClipSpec(num_frames=8, size=32)\n"
        "clip, _ = load_clip(sys.argv[1], label=0, spec=spec, rng=np.random.default_rng(3), start_s=0.5, end_s=1.5)\n"
        "print(hashlib.sha256(clip.tobytes()).hexdigest())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(clip)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    spec = ClipSpec(num_frames=8, size=32)
    here, _ = load_clip(str(clip), label=0, spec=spec, rng=np.random.default_rng(3), start_s=0.5, end_s=1.5)
    assert run.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()
    assert here.shape == (8, 32, 32, 3)


def test_a_clip_shorter_than_its_samples(tmp_path):
    folder = write_frames(tmp_path / "a", 3)
    spec = ClipSpec(num_frames=6, size=HEIGHT, short_side=HEIGHT)
    clip, _ = load_clip(str(folder), label=0, spec=spec, rng=None)
    assert clip.shape == (6, HEIGHT, HEIGHT, 3)
    assert all(np.array_equal(clip[i], clip[i + 1]) for i in (0, 2, 4))
    assert not np.array_equal(clip[2], clip[4])


class TestRoots:
    def test_links_that_lead_out_are_not_opened(self, tmp_path):
        secret = write_frames(tmp_path / "secret", 3)
        folder = write_frames(tmp_path / "root" / "a", 3)
        (folder / "00002.jpg").unlink()
        (folder / "00002.jpg").symlink_to(secret / "00002.jpg")
        (tmp_path / "root" / "b").symlink_to(secret)
        roots = [str(tmp_path / "root")]
        with open_video(str(folder), roots=roots) as video:
            assert frame_numbers(video.frames([0, 2])) == [0, 2]
            with pytest.raises(DecodeError, match=r"a link that leads outside the roots: 00002\.jpg"):
                video.frames([0, 1])
        with pytest.raises(DecodeError, match="it is a link that leads outside the roots"):
            open_video(str(tmp_path / "root" / "b"), roots=roots)
        with open_video(str(folder)) as video:
            assert frame_numbers(video.frames([0, 1])) == [0, 1]  # without roots it is a normal image

    def test_links_within_the_roots(self, tmp_path):
        folder = write_frames(tmp_path / "a", 3)
        (tmp_path / "b").symlink_to(folder)
        with open_video(str(tmp_path / "b"), roots=[str(tmp_path)]) as video:
            assert frame_numbers(video.frames([2, 1])) == [2, 1]


class TestRemote:
    def test_a_remote_file_system(self, clip):
        for path in clip.iterdir():
            fsspec.filesystem("memory").pipe(f"/frames/100218/{path.name}", path.read_bytes())
        with open_video("memory://frames/100218") as video:
            assert video.info.num_frames == 60
            assert frame_numbers(video.frames([59, 4])) == [59, 4]
        with pytest.raises(DecodeError, match="cannot be fetched"):
            open_video("memory://frames/nothing")

    def test_object_storage(self, s3, clip, monkeypatch):
        from w3ray.storage import storage_path

        for path in clip.iterdir():
            (storage_path("s3://bucket/set") / "100218" / path.name).write_bytes(path.read_bytes())
        with open_video("s3://bucket/set/100218", roots=["s3://bucket/set"]) as video:
            assert frame_numbers(video.frames([59, 0, 30])) == [59, 0, 30]
        fetched = s3.requests("GET", r"\.jpg")
        assert len(fetched) == 3, fetched  # only the images asked for
        s3.forget()
        with open_video("s3://bucket/set/100218") as video:
            assert frame_numbers(video.frames([5])) == [5]
        # Listed once per process.
        assert all(request.endswith("00006.jpg") for request in s3.requests()), s3.requests()
        with pytest.raises(DecodeError, match="cannot be fetched"):
            open_video("s3://bucket/set/4")
        monkeypatch.setenv("W3RAY_STORAGE_DEADLINE_S", "0.1")
        s3.fail("00031.jpg")
        with open_video("s3://bucket/set/100218") as video, pytest.raises(StorageFailing):
            video.frames([30])  # such an error does not concern the clip


class TestWhereverAVideoIsNamed:
    def test_class_folders(self, tmp_path):
        for name in ("left/one", "left/day 2/two", "right/one.5"):
            write_frames(tmp_path / "set" / name, 2)
        (tmp_path / "set" / "right" / "v").mkdir()
        (tmp_path / "set" / "right" / "v" / "a.mp4").touch()
        (tmp_path / "set" / "right" / "v" / "thumbnail.jpg").touch()  # an image next to a video is not a frame
        rows = import_folder(tmp_path / "set").table.to_pylist()
        names = ["left/day 2/two", "left/one", "right/one.5", "right/v/a.mp4"]
        assert sorted(row["clip_id"] for row in rows) == names
        (tmp_path / "train.txt").write_text("left/one 0\nright/one.5 1\n")
        listed = import_folder(tmp_path / "set", split="list", lists={"train": tmp_path / "train.txt"})
        assert [row["clip_id"] for row in listed.table.to_pylist()] == ["left/one", "right/one.5"]

    def test_csv(self, tmp_path):
        write_frames(tmp_path / "clips" / "1", 2)
        (tmp_path / "list.csv").write_text("path,label\nclips/1,x\nclips/2,x\n")
        with pytest.raises(Exception, match=r"list.csv:3: no file or folder .*clips/2 \(1 of 2 are missing\)"):
            import_csv(tmp_path / "list.csv")
        (tmp_path / "list.csv").write_text("path,label\nclips/1,x\n")
        assert import_csv(tmp_path / "list.csv").table["uri"].to_pylist() == [str(tmp_path / "clips" / "1")]

    def test_shared_clips(self, tmp_path):
        folder = write_frames(tmp_path / "a", 4)
        (tmp_path / "shared").mkdir()
        shared = ClipFolder(tmp_path / "shared", 1 << 20, ClipSpec(num_frames=4, size=32))
        row = {"uri": str(folder), "start_s": None, "end_s": None, "reversed": False, "label": 1}
        before = shared.key(row, 7, {}, None)
        assert shared.key(row, 7, {}, None) == before
        shutil.copy(folder / "00004.jpg", folder / "00005.jpg")
        os.utime(folder, ns=(1, 1))
        assert shared.key(row, 7, {}, None) != before


def test_png_images(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(4):
        image = Image.fromarray(numbered_image(number))
        (image.convert("RGBA") if number == 2 else image).save(folder / f"{number + 1:05d}.png")
    with open_video(str(folder)) as video:
        assert video.info.num_frames == 4
        frames = video.frames([3, 2, 0])
    np.testing.assert_array_equal(frames, np.stack([numbered_image(number) for number in (3, 2, 0)]))
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(folder / "00002.png")
    with open_video(str(folder)) as video, pytest.raises(DecodeError, match=r"without 8 bits per value: 00002\.png"):
        video.frames([1])


def test_a_png_beside_jpeg_images_is_no_frame(tmp_path):
    folder = write_frames(tmp_path / "a", 3)
    Image.fromarray(numbered_image(9)).save(folder / "00004.png")
    with open_video(str(folder)) as video:
        assert video.info.num_frames == 3

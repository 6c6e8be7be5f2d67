"""Which files are clips: all commands agree, each folder counts once, and videos have priority over pictures."""

import os

import fsspec
import pytest
from videos import frame_numbers, write_frames

from w3ray.cli import main
from w3ray.data.clip import ClipSpec
from w3ray.data.clip_files import clips_below, remote_clips_below
from w3ray.data.decoders import open_video
from w3ray.data.importers import IMPORTERS, import_csv, import_folder
from w3ray.data.manifest import read_manifest, write_manifest
from w3ray.data.shared_clips import ClipFolder
from w3ray.errors import InputError
from w3ray.explaining.videos import Explainer
from w3ray.scoring.videos import videos_of
from w3ray.storage import storage_path


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def below(root):
    """What `predict` reads, as paths relative to the folder."""
    return [os.path.relpath(path, root) for path in videos_of(str(root))]


def imported(root, **options):
    return import_folder(root, **options).table["clip_id"].to_pylist()


MIXED = (
    "poster1.jpg",
    "a.mp4",
    "b.mp4",
    "frames/00001.jpg",
    "frames/00002.jpg",
    "frames/small/00001.jpg",
    "day/poster1.jpg",
    "day/poster2.jpg",
    "day/cam/c.mp4",
    "week/cover1.png",
    "week/d/00001.png",
    "week/d/00002.png",
    ".trash/e.mp4",
    "._a.mp4",
)
CLIPS = ["a.mp4", "b.mp4", "day/cam/c.mp4", "frames", "week/d"]


def test_videos_win(tmp_path):
    root = touch(tmp_path / "set" / "class", *MIXED)
    assert below(root) == CLIPS
    assert imported(root.parent) == [f"class/{path}" for path in CLIPS]
    assert below(root / "frames") == ["."]  # the folder itself is a clip
    assert [os.path.relpath(path, root) for path in videos_of(f"{root}/*")] == ["a.mp4", "b.mp4", "frames"]


def test_at_an_address():
    files = fsspec.filesystem("memory")
    for path in MIXED:
        files.pipe(f"/clip-files/{path}", b"x")
    try:
        found = remote_clips_below(storage_path("memory://clip-files"))
        assert found == [f"memory://clip-files/{path}" for path in CLIPS]
        assert videos_of("memory://clip-files") == found
        assert videos_of("memory://clip-files/frames") == ["memory://clip-files/frames"]
    finally:
        files.rm("/clip-files", recursive=True)


def test_a_folder_of_videos_is_not_explained_as_its_poster(tmp_path):
    root = touch(tmp_path, "poster1.jpg", "poster2.jpg", "a.mp4")
    with pytest.raises(InputError, match="a folder of videos; name the videos"):
        Explainer.load(object.__new__(Explainer), str(root))


class TestLinks:
    def test_to_its_own_parent(self, tmp_path):
        root = touch(tmp_path / "set", "a/1.mp4", "a/2.mp4", "b/3.mp4")
        (root / "a" / "loop").symlink_to("..")
        (root / "a" / "again").symlink_to(".")
        (root / "back").symlink_to(root)
        assert imported(root) == ["a/1.mp4", "a/2.mp4", "b/3.mp4"]
        assert below(root) == ["a/1.mp4", "a/2.mp4", "b/3.mp4"]
        assert sorted(os.path.relpath(path, root) for path in videos_of(f"{root}/**/*.mp4")) == below(root)

    def test_in_a_circle(self, tmp_path):
        root = touch(tmp_path / "set", "a/1.mp4", "b/2.mp4")
        (root / "a" / "to b").symlink_to(root / "b")
        (root / "b" / "to a").symlink_to(root / "a")
        assert imported(root) == ["a/1.mp4", "b/2.mp4"]
        assert below(root) == ["a/1.mp4", "b/2.mp4"]

    def test_outward_are_followed(self, tmp_path):
        pool = touch(tmp_path / "pool", "run/1.mp4", "run/far/2.mp4", "jump/00001.jpg", "jump/00002.jpg")
        root = tmp_path / "set"
        (root / "jump").mkdir(parents=True)
        (root / "run").symlink_to(pool / "run")
        (root / "jump" / "clip").symlink_to(pool / "jump")
        assert imported(root) == ["jump/clip", "run/1.mp4", "run/far/2.mp4"]
        assert below(root) == ["jump/clip", "run/1.mp4", "run/far/2.mp4"]

    def test_one_folder_in_two_classes_or_splits(self, tmp_path):
        root = touch(tmp_path / "set", "run/1.mp4")
        (root / "also").symlink_to("run")
        with pytest.raises(InputError, match=r"also: a link to .*/run, whose clips are in another class or split"):
            import_folder(root)
        root = touch(tmp_path / "splits", "train/run/1.mp4", "val/jump/2.mp4")
        (root / "val" / "run").symlink_to(root / "train" / "run")
        with pytest.raises(InputError, match=r"val/run: a link to .*/train/run"):
            import_folder(root, split="folder")

    def test_kinetics(self, tmp_path):
        root = touch(tmp_path / "v", "a/x_000000_000010.mp4")
        (root / "a" / "loop").symlink_to("..")
        (tmp_path / "l").mkdir()
        (tmp_path / "l" / "all.csv").write_text("label,youtube_id,time_start,time_end,split\nrun,x,0,10,Train\n")
        manifest = IMPORTERS["kinetics"](tmp_path / "l", videos=str(root), note=print)
        assert manifest.splits() == {"train": 1}
        assert manifest.table["clip_id"].to_pylist() == ["a/x_000000_000010.mp4"]

    def test_broken(self, tmp_path, capfd):
        root = touch(tmp_path / "set", "a/1.mp4", "b/2.mp4")
        (root / "a" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
        (root / "b" / "self").symlink_to("self")
        (root / "b" / "notes.txt").symlink_to("nowhere")
        assert main(["data", "import", "folder", str(root), "-o", str(tmp_path / "m.parquet")]) == 2
        told = capfd.readouterr().err
        assert "2 broken links, the first " in told
        assert "gone.mp4 leads to " in told
        # `predict` gives a reason for each of them, as for any other unread file.
        assert below(root) == ["a/1.mp4", "b/2.mp4", "a/gone.mp4", "b/self"]
        (root / "a" / "gone.mp4").unlink()
        (root / "b" / "self").unlink()
        (root / "c").symlink_to("nowhere")
        with pytest.raises(InputError, match=r"a broken link: .*c leads to nowhere, which is not there"):
            import_folder(root)

    def test_of_a_root_that_is_itself_a_link(self, tmp_path):
        touch(tmp_path / "real", "a/1.mp4", "b/2.mp4")
        (tmp_path / "real" / "a" / "loop").symlink_to(tmp_path / "real")
        (tmp_path / "set").symlink_to("real")
        assert imported(tmp_path / "set") == ["a/1.mp4", "b/2.mp4"]


class TestFramePrefix:
    @pytest.fixture
    def root(self, tmp_path):
        for clip in ("set/wave/1", "set/point/2"):
            write_frames(tmp_path / clip, 12, name="rgb_{:05d}.jpg", first=123)
            write_frames(tmp_path / clip, 12, name="depth_{:05d}.jpg")
        return tmp_path / "set"

    def check(self, manifest, tmp_path):
        manifest = read_manifest(write_manifest(manifest, tmp_path / "m.parquet").location)
        uris = manifest.resolved_uris()
        assert all(uri.endswith("/rgb_*") for uri in uris)
        for uri in uris:
            with open_video(uri) as video:
                assert frame_numbers(video.frames(range(12))) == list(range(12))
        return manifest.table["clip_id"].to_pylist()

    def test_it_survives_the_manifest(self, root, tmp_path):
        assert self.check(import_folder(root, frame_prefix="rgb_"), tmp_path) == ["point/2", "wave/1"]

    def test_in_a_csv(self, root, tmp_path):
        (tmp_path / "set" / "list.csv").write_text("path,label\nwave/1,0\npoint/2,1\n")
        assert self.check(import_csv(root / "list.csv", frame_prefix="rgb_"), tmp_path) == ["wave/1", "point/2"]
        (tmp_path / "set" / "list.csv").write_text("path,label\nwave/1/rgb_*,0\npoint/2/rgb_*,1\n")
        assert self.check(import_csv(root / "list.csv"), tmp_path) == ["wave/1/rgb_*", "point/2/rgb_*"]
        (tmp_path / "set" / "list.csv").write_text("path,label\nwave/7/rgb_*,0\n")
        with pytest.raises(InputError, match=r"no file or folder .*/wave/7"):
            import_csv(root / "list.csv")

    def test_other_images_make_another_clip_for_a_sweep(self, root, tmp_path):
        shared = ClipFolder(tmp_path / "shared", 1 << 20, ClipSpec(num_frames=4, size=32))
        row = {"uri": f"{root}/wave/1/rgb_*", "start_s": None, "end_s": None, "reversed": False, "label": 1}
        before = shared.key(row, 7, {}, None)
        assert shared.key(row, 7, {}, None) == before
        os.utime(root / "wave" / "1", ns=(1, 1))
        assert shared.key(row, 7, {}, None) != before

    def test_named_to_predict(self, root):
        assert videos_of(f"{root}/wave/1/rgb_*") == [f"{root}/wave/1/rgb_*"]
        with pytest.raises(InputError, match="no video matches"):
            videos_of(f"{root}/wave/1/none_*")

    def test_without_it(self, root):
        with pytest.raises(Exception, match=r"images of two kinds: .*; name one kind as FOLDER/PREFIX"):
            open_video(f"{root}/wave/1")


def test_clips_of_several_folders(tmp_path):
    root = touch(tmp_path, "a/1.mp4", "b/00001.jpg", "b/00002.jpg")
    found = clips_below([f"{root}/a", f"{root}/b"], tops_are_clips=True)
    assert {top: files.clips for top, files in found.items()} == {
        f"{root}/a": [f"{root}/a/1.mp4"],
        f"{root}/b": [f"{root}/b"],
    }

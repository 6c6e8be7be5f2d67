"""Statistics of a manifest: rows are counted, videos are read, and unreadable videos are counted by reason."""

import fsspec
import pytest
from test_odd_files import FILES
from videos import HEIGHT, WIDTH, cut, write_video

from w3ray.data.decoders import DecodeError, open_video
from w3ray.data.decoders.probe import probe_video
from w3ray.data.manifest import build_manifest
from w3ray.data.stats import manifest_stats
from w3ray.errors import InputError


def manifest_of(rows, classes=("left", "right", "up")):
    """Rows of (uri, label, split, start_s, end_s)."""
    uris, labels, splits, starts_s, ends_s = (list(column) for column in zip(*rows, strict=True))
    columns = {"clip_id": [str(place) for place in range(len(rows))], "uri": [str(uri) for uri in uris]}
    return build_manifest(
        columns | {"label": labels, "split": splits, "start_s": starts_s, "end_s": ends_s}, list(classes)
    )


def test_values(tmp_path):
    one = write_video(tmp_path / "one.mp4", 50)  # 2 s at 25 frames per second
    two = write_video(tmp_path / "two.webm", 30, rate=10, codec="libvpx-vp9")  # 3 s
    broken = cut(one, tmp_path / "broken.mp4")
    manifest = manifest_of(
        [
            (one, 0, "train", None, None),  # 2 s
            (one, 0, "train", 0.5, None),  # 1.5 s
            (two, 0, "train", 1.0, 2.0),  # 1 s
            (two, 1, "train", 2.5, 9.0),  # 0.5 s: the video ends earlier
            (broken, 0, "val", None, None),  # unknown
            (broken, 1, "val", 1.0, 5.0),  # 4 s, according to the manifest
            (tmp_path / "none.mp4", 2, "val", None, None),
        ]
    )
    stats = manifest_stats(manifest)
    assert (stats["clips"], stats["videos"], stats["videos_read"], stats["sampled"]) == (7, 4, 4, False)
    train, val = stats["splits"]["train"], stats["splits"]["val"]
    assert (train["clips"], train["videos"], train["videos_read"], train["unreadable"]) == (4, 2, 2, 0)
    assert train["classes"] == {
        "present": 2,
        "imbalance": 3.0,
        "majority": 0.75,
        "largest": "left",
        "smallest": "right",
        "absent": ["up"],
        "clips": {"left": 3, "right": 1, "up": 0},
        "unlabelled": 0,
    }
    expected = {"known": 4, "min": 0.5, "median": 1.25, "mean": 1.25, "max": 2.0, "total": 5.0}
    assert train["length_s"] == pytest.approx(expected, abs=0.01)
    assert train["fps"] == {"min": 10.0, "median": 17.5, "mean": 17.5, "max": 25.0, "videos": {"25": 1, "10": 1}}
    assert train["sizes"] == {f"{WIDTH}x{HEIGHT}": 2}
    assert train["codecs"] == {"h264": 1, "vp9": 1}
    assert val["length_s"] == pytest.approx({"known": 1, "min": 4, "median": 4, "mean": 4, "max": 4, "total": 12})
    assert (val["unreadable"], val["reasons"]) == (2, {"truncated": 1, "cannot be read": 1})
    assert (val["sizes"], val["fps"]["min"]) == ({}, None)


def test_balance_of_each_head_and_clips_without_labels(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", 12)
    columns = {
        "clip_id": list("abcde"),
        "uri": [str(clip)] * 5,
        "label": [0, 0, 4, None, None],
        "split": ["train"] * 4 + ["test"],
    }
    manifest = build_manifest(
        columns, ("take", "put", "cup", "pan", "lid"), head_sizes=(("verb", 2), ("noun", 3)), location="/m.parquet"
    )
    stats = manifest_stats(manifest)
    assert stats["heads"] == {"verb": 2, "noun": 3}
    train, test = (stats["splits"][name]["classes"] for name in ("train", "test"))
    assert (train["present"], train["clips"], train["unlabelled"]) == (2, {"take cup": 2, "put pan": 1}, 1)
    assert train["heads"]["verb"]["clips"] == {"take": 2, "put": 1}
    assert (train["heads"]["noun"]["largest"], train["heads"]["noun"]["absent"]) == ("cup", ["lid"])
    assert (test["present"], test["unlabelled"], test["largest"]) == (0, 1, None)
    assert test["heads"]["verb"]["absent"] == ["take", "put"]


def test_beyond_a_limit_some_videos_are_drawn(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", 12)
    rows = []
    for place in range(24):
        (tmp_path / f"{place}.mp4").symlink_to(clip)
        rows.append((tmp_path / f"{place}.mp4", place % 2, "val" if place == 0 else "train", None, None))
    manifest = manifest_of(rows)
    seen = []
    stats = manifest_stats(manifest, max_videos=6, progress=lambda done, total: seen.append((done, total)))
    assert (stats["videos"], stats["videos_read"], stats["sampled"]) == (24, 6, True)
    assert [stats["splits"][name]["videos_read"] for name in ("train", "val")] == [5, 1]
    assert stats["splits"]["train"]["clips"] == 23  # all rows are counted
    assert stats["splits"]["train"]["length_s"]["known"] == 5
    assert stats["splits"]["train"]["length_s"]["total"] == pytest.approx(23 * 12 / 25, abs=0.01)
    assert seen[-1] == (6, 6)
    assert manifest_stats(manifest, max_videos=6) == stats


def test_a_remote_video_is_looked_into_where_it_lies(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", 25)
    fsspec.filesystem("memory").pipe("/bucket/probed.mp4", clip.read_bytes())
    header = probe_video("memory://bucket/probed.mp4")
    assert (header.codec, header.height, header.width, header.fps) == ("h264", HEIGHT, WIDTH, 25)
    assert header.duration_s == pytest.approx(1.0)
    with pytest.raises(DecodeError, match="no such file"):
        probe_video("memory://bucket/nothing.mp4")


def test_roots(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", 12)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link.mp4").symlink_to(clip)
    with pytest.raises(InputError, match="outside the roots"):
        manifest_stats(manifest_of([(clip, 0, "train", None, None)]), roots=[str(tmp_path / "inside")])
    linked = manifest_of([(tmp_path / "inside" / "link.mp4", 0, "train", None, None)])
    stats = manifest_stats(linked, roots=[str(tmp_path / "inside")])
    assert stats["splits"]["train"]["reasons"] == {"it is a link that leads outside the roots": 1}


@pytest.mark.real_data
@pytest.mark.parametrize("name", FILES)
def test_odd_files(real_data, name):
    """A header agrees with the decoded frames. If FFmpeg cannot read the start of a file, there is a reason."""
    path, odd = str(real_data / "odd" / name), FILES[name]
    if odd.frames == 0 and name not in ("corrupted_after_28_of_50.mp4", "minimal.webm"):  # these fail only later
        with pytest.raises(DecodeError) as caught:
            probe_video(path)
        assert caught.value.reason.startswith(odd.pyav)
        return
    header = probe_video(path)
    if odd.frames:
        assert (header.height, header.width) == odd.size
        assert header.fps == pytest.approx(odd.fps, rel=0.01)
        with open_video(path, "pyav") as video:
            if name == "no_duration.webm":
                assert header.duration_s is None
            else:
                assert header.duration_s == pytest.approx(video.info.duration_s, abs=0.1)

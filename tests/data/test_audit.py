"""The audit reads every clip on a cluster and reports each unreadable clip, even if it crashes a decoder."""

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from decoders_here import decoder_param
from videos import HEIGHT, WIDTH, cut, write_frames, write_video

from w3ray.data.audit import LEDGER_SCHEMA, check_clips, reason_counts, write_ledger
from w3ray.data.decoders import open_video
from w3ray.data.every_clip import CRASHED
from w3ray.data.manifest import build_manifest
from w3ray.errors import InputError
from w3ray.storage import StorageRefused

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def manifest_of(paths, **columns):
    return build_manifest(
        {
            "clip_id": [str(number) for number in range(len(paths))],
            "uri": [str(path) for path in paths],
            "label": [0] * len(paths),
            "split": ["train"] * len(paths),
        }
        | columns,
        ["a"],
    )


def test_ledger(tmp_path):
    good = write_video(tmp_path / "good.mp4", 40)
    (tmp_path / "empty.mp4").touch()
    paths = [
        good,
        tmp_path / "none.mp4",
        tmp_path / "empty.mp4",
        cut(good, tmp_path / "cut.mp4"),
        write_video(tmp_path / "still.mp4", 1),
        good,
        good,
    ]
    spans = {"start_s": [None] * 5 + [0.4, 7.0], "end_s": [None] * 5 + [0.8, None]}
    seen = []
    ledger = check_clips(manifest_of(paths, **spans), progress=lambda done, total: seen.append((done, total)))
    assert ledger.schema.equals(LEDGER_SCHEMA)
    rows = ledger.to_pylist()
    assert [row["clip_id"] for row in rows] == [str(number) for number in range(7)]
    assert [row["ok"] for row in rows] == [True, False, False, False, False, True, False]
    assert [row["num_frames"] for row in rows] == [40, None, None, None, None, 10, None]
    assert (rows[0]["height"], rows[0]["width"], rows[0]["fps"]) == (HEIGHT, WIDTH, 25.0)
    assert all(row["decode_s"] > 0 for row in rows)
    assert reason_counts(ledger) == {
        "cannot be read": 1,
        "the file is empty (0 bytes)": 1,
        "truncated": 1,
        "only 1 frame": 1,
        "no frame between 7.0 and None s": 1,
    }
    assert seen[-1] == (7, 7)


def test_folders_of_frames(tmp_path):
    secret = write_frames(tmp_path / "secret", 10)
    root = tmp_path / "root"
    folders = [write_frames(root / name, 10) for name in ("good", "part", "gap", "cut", "link")]
    (folders[2] / "00004.jpg").unlink()
    cut(folders[3] / "00010.jpg", folders[3] / "00010.jpg")
    (folders[4] / "00001.jpg").unlink()
    (folders[4] / "00001.jpg").symlink_to(secret / "00001.jpg")
    spans = {"start_s": [None, 3 / 30, None, None, None], "end_s": [None, 7 / 30, None, None, None]}
    rows = check_clips(manifest_of(folders, **spans), roots=[str(root)]).to_pylist()
    assert [row["ok"] for row in rows] == [True, True, False, False, False]
    assert [row["num_frames"] for row in rows[:2]] == [10, 4]
    assert (rows[0]["height"], rows[0]["width"], rows[0]["fps"]) == (HEIGHT, WIDTH, 30.0)
    assert rows[2]["reason"] == "missing images: 00004.jpg is the first of 1"
    assert rows[3]["reason"].startswith("a damaged image: 00010.jpg")
    assert rows[4]["reason"] == "it holds a link that leads outside the roots: 00001.jpg"


@pytest.mark.parametrize("decoder", [decoder_param("decord"), "pyav"])
def test_segments_past_the_end(tmp_path, decoder):
    """A container may have a few frames fewer than its header says, so a file has that slack. A folder has none."""
    video, folder = write_video(tmp_path / "v.mp4", 50), write_frames(tmp_path / "f", 30)  # 2 s and 1 s
    paths = [video, video, video, folder, folder]
    spans = {"start_s": [1.0, 1.0, 1.0, 0.5, 0.5], "end_s": [2.0, 2.3, 9.0, 1.0, 31 / 30]}
    rows = check_clips(manifest_of(paths, **spans), decoder).to_pylist()
    assert [row["reason"] for row in rows] == [
        None,
        None,
        "the segment ends past its video: at 9.000 s, the video at 2.000 s",
        None,
        "the segment ends past its video: at 1.033 s, the video at 1.000 s",
    ]
    assert [row["num_frames"] for row in rows] == [25, 25, None, 15, None]


def crash_on_bad(uri, decoder, roots):
    if Path(uri).name == "bad.mp4":
        os._exit(1)
    return open_video(uri, decoder, roots)


def test_a_crashing_decoder_costs_its_own_clip_only(tmp_path):
    good, bad = write_video(tmp_path / "good.mp4"), write_video(tmp_path / "bad.mp4")
    # Pickled by value: the worker processes have not imported this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ledger = check_clips(manifest_of([good, bad, good]), open_clip=crash_on_bad)
    assert [row["reason"] for row in ledger.to_pylist()] == [None, CRASHED, None]


def raise_oddly(uri, decoder, roots):
    raise MemoryError("no room\nfor this video")


def test_an_unforeseen_error_is_a_finding(tmp_path):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ledger = check_clips(manifest_of([tmp_path / "a.mp4"]), open_clip=raise_oddly)
    assert ledger["reason"].to_pylist() == ["unexpected MemoryError: no room for this video"]


def refuse(uri, decoder, roots):
    raise StorageRefused("s3://clips: access denied")


def test_a_store_that_refuses_says_nothing_about_the_clips(tmp_path):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.raises(StorageRefused, match=r"^s3://clips: access denied$"):
        check_clips(manifest_of([tmp_path / "a.mp4", tmp_path / "b.mp4"]), open_clip=refuse)


def test_unknown_decoder(tmp_path):
    with pytest.raises(InputError, match="unknown decoder 'nosuch'"):
        check_clips(manifest_of([tmp_path / "a.mp4"]), "nosuch")


def test_writing_the_ledger(tmp_path):
    row = {"clip_id": "a", "uri": "a.mp4", "ok": False, "reason": "truncated: half of it"}
    ledger = pa.Table.from_pylist([row], schema=LEDGER_SCHEMA)
    write_ledger(ledger, tmp_path / "new" / "ledger.parquet")
    assert pq.read_table(tmp_path / "new" / "ledger.parquet").equals(ledger)
    assert os.listdir(tmp_path / "new") == ["ledger.parquet"]
    with pytest.raises(InputError, match="cannot be written"):
        write_ledger(ledger, tmp_path / "new" / "ledger.parquet" / "below.parquet")

"""A clip gets the features of its video around its middle, and what is not there is marked."""

import json

import numpy as np
import pyarrow as pa
import pytest

from w3ray.data.bank import BANK_COLUMN, BANK_NAME, Bank, features_bytes, features_file, read_bank, video_key
from w3ray.data.clip import Clip, ClipSpec
from w3ray.data.crop import Box
from w3ray.data.side_inputs import bank_of, blank_extras, extras_of_views
from w3ray.errors import InputError, RunError
from w3ray.storage import storage_path, write_bytes

SPEC = ClipSpec(num_frames=2, size=16, bank_window=4, bank_channels=2, bank_every_s=0.5)


def clip_at(*times_s: float) -> Clip:
    return Clip(
        frames_TSSC=np.zeros((len(times_s), 16, 16, 3), np.uint8), label=0, times_s=np.array(times_s),
        numbers_T=np.arange(len(times_s)), frame_size=(16, 16), box=Box(0, 0, 16, 16), mirrored=False,
    )  # fmt: skip


def bank_with(folder, videos: dict[str, np.ndarray], resolved: dict[str, str] | None = None) -> Bank:
    for uri, features_SC in videos.items():
        write_bytes(features_file(storage_path(folder), uri), features_bytes(features_SC))
    about = {"identity": "i", "model": "m", "every_s": 0.5, "span_s": 1.0, "channels": 2, "manifest": "f"}
    document = {
        **about,
        "videos": {video_key(uri): len(one) for uri, one in videos.items()},
        "resolved": {video_key(uri): video_key(name) for uri, name in (resolved or {}).items()},
    }
    (folder / BANK_NAME).write_text(json.dumps(document))
    return read_bank(str(folder))


@pytest.fixture
def row(tmp_path) -> dict[str, str]:
    """Ten features, at 0.25, 0.75, ... 4.75 s. The first channel is their number."""
    features_SC = np.stack([np.arange(10), np.full(10, 7)], axis=1)
    return {BANK_COLUMN: bank_with(tmp_path, {"v.mp4": features_SC}).file_of("v.mp4")}


@pytest.mark.parametrize(
    ("times_s", "numbers"),
    [
        ((2.5,), [3, 4, 5, 6]),  # at 1.75, 2.25, 2.75, 3.25
        ((1.0, 4.0), [3, 4, 5, 6]),  # the middle is that of the clip
        ((4.0, 1.0), [3, 4, 5, 6]),  # also of one that is played backwards
        ((2.7,), [3, 4, 5, 6]),
        ((2.8,), [4, 5, 6, 7]),
        ((0.0,), [None, None, 0, 1]),
        ((5.0,), [8, 9, None, None]),
        ((40.0,), [None, None, None, None]),
    ],
)
def test_the_nearest_features_and_none_outside_of_the_video(row, times_s, numbers):
    bank_WC = bank_of(row, clip_at(*times_s), SPEC)
    assert bank_WC.dtype == np.float32
    expected = [[0, 0, 0] if number is None else [1, number, 7] for number in numbers]
    assert bank_WC.tolist() == expected


def test_features_that_could_not_be_computed_are_absent(tmp_path):
    features_SC = np.array([[1, 1], [np.nan, np.nan], [3, 3], [4, 4]])
    bank = bank_with(tmp_path, {"v": features_SC, "none": np.zeros((0, 2))})
    found = bank_of({BANK_COLUMN: bank.file_of("v")}, clip_at(1.0), SPEC)
    assert found.tolist() == [[1, 1, 1], [0, 0, 0], [1, 3, 3], [1, 4, 4]]
    assert (bank_of({BANK_COLUMN: bank.file_of("none")}, clip_at(1.0), SPEC) == 0).all()


def test_each_view_has_its_own_window(row):
    bank_VWC = extras_of_views(row, [clip_at(1.0), clip_at(2.5)], SPEC)["bank"]
    assert bank_VWC[:, 0, 1].tolist() == [0, 3]
    assert blank_extras(SPEC, (2, 3))["bank"].shape == (2, 3, 4, 3)


def test_a_bank_knows_its_videos_by_both_names(tmp_path):
    bank = bank_with(tmp_path, {"clips/v.mp4": np.ones((3, 2))}, {"/data/clips/v.mp4": "clips/v.mp4"})
    assert bank.file_of("clips/v.mp4") == bank.file_of("/data/clips/v.mp4")
    rows = pa.table({"clip_id": ["a", "b"], "uri": ["/new/clips/v.mp4", "/data/clips/v.mp4"]})
    joined = bank.joined(rows, "m", location="/new/manifest.parquet", fingerprint="f")
    assert joined[BANK_COLUMN].to_pylist() == [bank.file_of("clips/v.mp4")] * 2
    rows = pa.table({"uri": ["/new/clips/v.mp4", "/new/x.mp4", "/new/y.mp4", "/new/x.mp4"]})
    with pytest.raises(InputError, match=r"no features of 2 of 3 videos of m, such as 'x.mp4'; make a bank of this"):
        bank.joined(rows, "m", location="/new/manifest.parquet", fingerprint="f")
    # Another data set may have a video of that name beside its manifest.
    with pytest.raises(InputError, match=r"no features of 1 of 1 videos of m, such as '/new/clips/v.mp4'"):
        bank.joined(rows.slice(0, 1), "m", location="/new/manifest.parquet", fingerprint="other")
    moved = pa.table({"uri": ["/data/clips/v.mp4"]})
    assert bank.joined(moved, "m", location="/data/manifest.parquet", fingerprint="other").num_rows == 1
    with pytest.raises(InputError, match="has no features of other; make a bank"):
        bank.file_of("other")


def test_folders_that_are_no_bank(tmp_path):
    with pytest.raises(InputError, match="no finished bank here") as caught:
        read_bank(str(tmp_path))
    assert "\n" not in str(caught.value)
    (tmp_path / BANK_NAME).write_text("{}")
    with pytest.raises(InputError, match="not a description of a bank"):
        read_bank(str(tmp_path))


def test_files_that_are_gone_or_damaged(tmp_path):
    with pytest.raises(RunError, match="is gone, or this node does not see it"):
        bank_of({BANK_COLUMN: str(tmp_path / "none.npy")}, clip_at(1.0), SPEC)
    (tmp_path / "text.npy").write_text("no")
    with pytest.raises(RunError, match="not a file of a bank's features"):
        bank_of({BANK_COLUMN: str(tmp_path / "text.npy")}, clip_at(1.0), SPEC)
    np.save(tmp_path / "flat.npy", np.zeros(3, np.float32))
    with pytest.raises(RunError, match="not a file of a bank's features"):
        bank_of({BANK_COLUMN: str(tmp_path / "flat.npy")}, clip_at(1.0), SPEC)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bank_window": 0}, "bank_window must be at least 1"),
        ({"bank_window": 4}, "go together"),
        ({"bank_window": 4, "bank_channels": 2, "bank_every_s": 0.0}, "bank_every_s must be above 0"),
    ],
)
def test_bad_specs(values, message):
    with pytest.raises(ValueError, match=message):
        ClipSpec(**values)

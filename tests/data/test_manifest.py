"""A manifest is checked when it is read. Faults are one line. Folds keep groups together."""

import hashlib
import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w3ray.data.manifest import SCHEMA, build_manifest, known_labels, read_manifest, write_manifest
from w3ray.errors import InputError

METADATA = {"w3ray.version": "1", "w3ray.classes": '["open", "close"]', "w3ray.flip_map": "{}"}


def columns(num_clips=4):
    return {
        "clip_id": [f"clip{number}" for number in range(num_clips)],
        "uri": [f"clips/{number}.mp4" for number in range(num_clips)],
        "label": pa.array([number % 2 for number in range(num_clips)], pa.int32()),
        "split": ["train" if number % 4 else "val" for number in range(num_clips)],
    }


def write_raw(path, changed=None, metadata=METADATA):
    pq.write_table(pa.table(columns() | (changed or {})).replace_schema_metadata(metadata), path)
    return path


def in_memory(root, num_clips=12, groups=6):
    return build_manifest(
        {
            "clip_id": [f"c{number:02}" for number in range(num_clips)],
            "uri": [f"{root}/videos/{number}.mp4" for number in range(num_clips)],
            "label": [number % 2 for number in range(num_clips)],
            "split": ["test" if number >= num_clips - 2 else "train" for number in range(num_clips)],
            "group": [f"g{number % groups}" for number in range(num_clips)],
        },
        ("left", "right"),
        {0: 1, 1: 0},
    )


def test_round_trip(tmp_path):
    manifest = in_memory(tmp_path)
    written = write_manifest(manifest, tmp_path / "set.parquet")
    read = read_manifest(tmp_path / "set.parquet")
    assert read == written
    assert read.table.schema.equals(SCHEMA)
    assert read.classes == ("left", "right")
    assert read.flip_map == {0: 1, 1: 0}
    assert read.num_classes == 2
    assert read.splits() == {"test": 2, "train": 10}
    assert read.split("test")["clip_id"].to_pylist() == ["c10", "c11"]
    assert pickle.loads(pickle.dumps(read)) == read
    assert os.listdir(tmp_path) == ["set.parquet"]


def test_videos_beneath_the_manifest_move_with_it(tmp_path):
    manifest = write_manifest(in_memory(tmp_path / "here"), tmp_path / "here" / "set.parquet")
    assert manifest.table["uri"][0].as_py() == "videos/0.mp4"
    os.rename(tmp_path / "here", tmp_path / "there")
    moved = read_manifest(tmp_path / "there" / "set.parquet")
    assert moved.resolved_uris()[0] == f"{tmp_path}/there/videos/0.mp4"
    assert moved.fingerprint() == manifest.fingerprint()
    # In another folder it still names the same files.
    elsewhere = write_manifest(moved, tmp_path / "other" / "set.parquet")
    assert elsewhere.table["uri"][0].as_py() == f"{tmp_path}/there/videos/0.mp4"


def test_uris_of_all_kinds_are_resolved_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr("w3ray.data.manifest._columns._ROWS_AT_ONCE", 2)
    uris = ["a.mp4", "/b.mp4", "s3://bucket/c.mp4", "d/ä.mp4", "e.mp4"]
    manifest = build_manifest(columns(5) | {"uri": uris}, ["a", "b"], location=f"{tmp_path}/m.parquet")
    assert manifest.resolved_uris() == [manifest.resolve(uri) for uri in uris]
    assert manifest.resolved_uris()[3] == f"{tmp_path}/d/ä.mp4"
    assert write_manifest(manifest, tmp_path / "m.parquet").table["uri"].to_pylist() == uris


def test_addresses_are_left_alone(tmp_path):
    manifest = build_manifest(columns() | {"uri": [f"s3://bucket/{n}.mp4" for n in range(4)]}, ["a", "b"])
    assert write_manifest(manifest, tmp_path / "m.parquet").resolved_uris()[3] == "s3://bucket/3.mp4"


def test_remote_location():
    root = "memory://manifests"
    manifest = write_manifest(build_manifest(columns() | {"uri": [f"{root}/{n}" for n in range(4)]}, "ab"), f"{root}/m")
    read = read_manifest(f"{root}/m")
    assert read == manifest
    assert read.table["uri"].to_pylist() == ["0", "1", "2", "3"]
    assert read.resolve("0") == f"{root}/0"


@pytest.mark.parametrize(
    "change",
    [
        {"clip_id": ["x", "clip1", "clip2", "clip3"]},
        {"uri": ["x", "y", "z", "w"]},
        {"label": [1, 1, 1, 1]},
        {"split": ["val"] * 4},
        {"group": ["g"] * 4},
        {"start_s": [0.0] * 4},
        {"end_s": [1.0] * 4},
        {"reversed": [True] * 4},
    ],
)
def test_fingerprint_covers_every_column(change):
    base = {
        name: list(values) if isinstance(values, list) else values.to_pylist() for name, values in columns().items()
    }
    assert build_manifest(base | change, ["a", "b"]).fingerprint() != build_manifest(base, ["a", "b"]).fingerprint()


def plain_fingerprint(manifest):
    """The definition: JSON of the metadata, then for each column its name and the list of its values."""
    described = {
        "w3ray.version": 1,
        "w3ray.classes": list(manifest.classes),
        "w3ray.flip_map": {str(label): mirror for label, mirror in manifest.flip_map.items()},
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in SCHEMA.names:
        digest.update(json.dumps([name, manifest.table[name].to_pylist()], separators=(",", ":")).encode())
    return digest.hexdigest()


rows_of_any_text = st.lists(
    st.tuples(
        st.text(min_size=1), st.sampled_from([None, 0.1, 1e-7, 3.0]), st.sampled_from([None, "g", 'a "quoted"', "a\n"])
    ),
    min_size=1,
    max_size=12,
)


@given(rows_of_any_text, st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_fingerprint_is_that_of_the_rows_however_they_are_stored(rows, chunk):
    columns = {
        "clip_id": [f"{number} {text}" for number, (text, _, _) in enumerate(rows)],
        "uri": [text for text, _, _ in rows],
        "start_s": [start_s for _, start_s, _ in rows],
        "group": [group for _, _, group in rows],
        "label": [number % 2 for number in range(len(rows))],
        "split": ["train"] * len(rows),
    }
    whole = build_manifest(columns, ["a", "b"], {0: 1, 1: 0})
    pieces = [whole.table.slice(start, chunk) for start in range(0, len(rows), chunk)]
    chunked = replace(whole, table=pa.concat_tables(pieces))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("w3ray.data.manifest._columns._ROWS_AT_ONCE", 3)
        assert whole.fingerprint() == chunked.fingerprint() == plain_fingerprint(whole)


def test_fingerprint_of_a_file_does_not_depend_on_its_encoding(tmp_path):
    table = pa.table(columns(50)).replace_schema_metadata(METADATA)
    encoded = table.set_column(1, "uri", table["uri"].dictionary_encode()).set_column(
        0, "clip_id", table["clip_id"].cast(pa.large_string())
    )
    pq.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False)
    pq.write_table(encoded, tmp_path / "b.parquet", compression="zstd", row_group_size=7)
    a, b = read_manifest(tmp_path / "a.parquet"), read_manifest(tmp_path / "b.parquet")
    assert a.fingerprint() == b.fingerprint() == plain_fingerprint(a)
    assert a.table.equals(b.table)


@given(st.lists(st.text(max_size=4), min_size=1, max_size=30), st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_a_clip_id_that_occurs_twice_is_found_in_any_slice(clip_ids, rows_at_once):
    def build():
        return build_manifest(
            {
                "clip_id": clip_ids,
                "uri": ["/u"] * len(clip_ids),
                "label": [0] * len(clip_ids),
                "split": ["train"] * len(clip_ids),
            },
            ["a"],
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("w3ray.data.manifest._columns._ROWS_AT_ONCE", rows_at_once)
        if len(set(clip_ids)) == len(clip_ids):
            assert build().table["clip_id"].to_pylist() == clip_ids
        else:
            with pytest.raises(InputError, match=r"occurs \d+ times"):
                build()


def test_clip_ids_of_one_hash_are_not_taken_for_one(monkeypatch):
    monkeypatch.setattr("w3ray.data.manifest.checks.hash_of", lambda texts: np.zeros(len(texts), np.uint64))
    assert build_manifest(columns(), ["a", "b"]).table.num_rows == 4


def test_fingerprint_covers_classes_and_flip_map(tmp_path):
    fingerprints = {
        build_manifest(columns(), classes, flip_map).fingerprint()
        for classes, flip_map in ((["a", "b"], {}), (["a", "c"], {}), (["a", "b"], {0: 1, 1: 0}))
    }
    assert len(fingerprints) == 3


def test_optional_columns_are_filled_and_unknown_ones_dropped(tmp_path):
    manifest = read_manifest(write_raw(tmp_path / "m.parquet", {"label": [0, 1, 0, 1], "note": ["x"] * 4}))
    row = manifest.table.to_pylist()[0]
    assert row == {
        "clip_id": "clip0",
        "uri": "clips/0.mp4",
        "start_s": None,
        "end_s": None,
        "reversed": False,
        "label": 0,
        "split": "val",
        "group": None,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"label": [0, 1, 2, 1]},
            r"1 label\(s\) out of range, first 2 of clip 'clip2'; its 2 classes have the labels 0\.\.1",
        ),
        ({"label": [0, -1, 0, 1]}, "first -1 of clip 'clip1'"),
        ({"label": ["0", "1", "0", "1"]}, "column 'label' is string, it must be int32"),
        ({"label": [0.0, 1.0, 0.0, 1.0]}, "column 'label' is double, it must be int32"),
        ({"label": [0, 1, 0, 2**40]}, "column 'label' is int64, it must be int32"),
        ({"split": ["train", None, "val", "val"]}, "column 'split' is empty in row 1"),
        ({"clip_id": [1, 2, 3, 4]}, "column 'clip_id' is int64, it must be string"),
        ({"clip_id": ["a", "b", "a", "c"]}, "clip_id 'a' occurs 2 times"),
        ({"uri": ["a", None, "b", "c"]}, "column 'uri' is empty in row 1"),
        ({"start_s": [0.0, 2.0, 0.0, 0.0], "end_s": [1.0, 1.0, 1.0, 1.0]}, "clip 'clip1' runs from 2.0 to 1.0 s"),
        ({"start_s": [-1.0, 0.0, 0.0, 0.0]}, "clip 'clip0' runs from -1.0 to None s"),
        ({"start_s": [float("nan")] * 4}, "clip 'clip0' runs from nan"),
        ({"reversed": [0, 1, 0, 1]}, "column 'reversed' is int64, it must be bool"),
    ],
)
def test_wrong_content(tmp_path, changed, message):
    path = write_raw(tmp_path / "m.parquet", changed)
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["clip_id", "uri", "label", "split"])
def test_missing_column(tmp_path, name):
    path = tmp_path / "m.parquet"
    table = pa.table(columns()).drop_columns([name])
    pq.write_table(table.replace_schema_metadata(METADATA), path)
    with pytest.raises(InputError, match=rf"column\(s\) {name} missing; it has "):
        read_manifest(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "'w3ray.version' is missing"),
        (METADATA | {"w3ray.version": "7"}, "version 7; this w3ray reads version 1"),
        (METADATA | {"w3ray.classes": "{"}, "its w3ray metadata cannot be read"),
        (METADATA | {"w3ray.classes": '["a", "a"]'}, "must be different"),
        (METADATA | {"w3ray.flip_map": '{"0": 5}'}, "flip_map 0 -> 5 is outside"),
        (METADATA | {"w3ray.flip_map": '{"0": 1}'}, "flip_map 0 -> 1 but not back"),
        (METADATA | {"w3ray.flip_map": '{"0": 1, "1": 1}'}, "but not back"),
    ],
)
def test_wrong_metadata(tmp_path, metadata, message):
    path = write_raw(tmp_path / "m.parquet", metadata=metadata)
    with pytest.raises(InputError, match=message):
        read_manifest(path)


def test_places_that_hold_no_manifest(tmp_path):
    with pytest.raises(InputError, match="no such file; make one with `w3ray data import`"):
        read_manifest(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="it is a folder"):
        read_manifest(tmp_path)
    (tmp_path / "text.parquet").write_text("path,label\n")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_manifest(tmp_path / "text.parquet")
    with pytest.raises(InputError, match="no file system for this address"):
        read_manifest("nosuch://bucket/m.parquet")
    with pytest.raises(InputError, match="it has no clips"):
        build_manifest({"clip_id": [], "uri": [], "label": [], "split": []}, ["a"])


def test_a_failed_write_leaves_the_old_manifest(tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(in_memory(tmp_path), path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="cannot be written"):
        write_manifest(in_memory(tmp_path), path / "below" / "m.parquet")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.parquet"]


def test_empty_split_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"split 'valid' is empty; it has test \(2\), train \(10\)"):
        in_memory(tmp_path).split("valid")


def test_relative_uri_without_a_location():
    with pytest.raises(InputError, match="needs a manifest with a location"):
        build_manifest(columns(), ["a", "b"]).resolve("clips/0.mp4")


def test_folds_partition_the_groups(tmp_path):
    manifest = in_memory(tmp_path, num_clips=32, groups=10)
    held_out = []
    for fold in range(5):
        dealt = manifest.with_fold(fold, 5)
        rows = dealt.table.to_pylist()
        val = {row["group"] for row in rows if row["split"] == "val"}
        train = {row["group"] for row in rows if row["split"] == "train"}
        assert len(val) == 2
        assert not val & train
        # Clips of the test split are in no fold.
        assert [row["clip_id"] for row in rows if row["split"] == "test"] == ["c30", "c31"]
        assert dealt.fingerprint() != manifest.fingerprint()
        held_out += sorted(val)
    assert sorted(held_out) == [f"g{number}" for number in range(10)]
    assert manifest.with_fold(1, 5) == manifest.with_fold(1, 5)
    assert any(manifest.with_fold(f, 5, seed=3) != manifest.with_fold(f, 5) for f in range(5))


@pytest.mark.parametrize(
    ("fold", "folds", "message"),
    [(5, 5, "fold 5 of 5"), (-1, 5, "fold -1"), (0, 1, "at least 2"), (0, 7, "6 groups are too few for 7 folds")],
)
def test_impossible_folds(tmp_path, fold, folds, message):
    with pytest.raises(InputError, match=message):
        in_memory(tmp_path).with_fold(fold, folds)


def test_folds_need_groups():
    with pytest.raises(InputError, match="need a group for every clip"):
        build_manifest(columns(), ["a", "b"]).with_fold(0, 2)


def test_stored_metadata_is_what_the_docstring_says(tmp_path):
    write_manifest(in_memory(tmp_path), tmp_path / "m.parquet")
    metadata = pq.read_schema(tmp_path / "m.parquet").metadata
    assert json.loads(metadata[b"w3ray.classes"]) == ["left", "right"]
    assert json.loads(metadata[b"w3ray.flip_map"]) == {"0": 1, "1": 0}
    assert json.loads(metadata[b"w3ray.version"]) == 1


def with_heads(**changes):
    columns = {
        "clip_id": ["a", "b", "c"],
        "uri": ["/v/a.mp4", "/v/b.mp4", "/v/c.mp4"],
        "label": [5, 0, None],
        "split": ["train", "val", "test"],
    }
    options = {"classes": ("take", "put", "cup", "pan", "lid"), "head_sizes": (("verb", 2), ("noun", 3))} | changes
    return build_manifest(columns, options.pop("classes"), **options)


def test_several_labels_a_clip_are_one_number_and_survive_the_file(tmp_path):
    written = write_manifest(with_heads(flip_map={0: 0}), tmp_path / "m.parquet")
    read = read_manifest(tmp_path / "m.parquet")
    assert read == written
    assert read.head_sizes == (("verb", 2), ("noun", 3))
    assert [read.heads.class_name(label) for label in read.table["label"].to_pylist()] == ["put lid", "take cup", "?"]
    assert known_labels(read.table).tolist() == [5, 0, -1]
    assert read.fingerprint() == with_heads(flip_map={0: 0}).fingerprint()
    assert read.fingerprint() != with_heads(flip_map={0: 0}, head_sizes=(("verb", 3), ("noun", 2))).fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_sizes": (("verb", 2), ("noun", 2))}, "do not add up to 5 class names"),
        ({"head_sizes": (("verb", 1), ("noun", 4))}, "out of range, first 5 of clip 'a'; the combinations of"),
        ({"head_sizes": (("verb", 2), ("verb", 3))}, "two or more different names"),
        ({"head_sizes": (("verb", 5),)}, "two or more different names"),
        ({"classes": ("take", "put", "cup", "cup", "lid")}, "class names of 'noun' must be different"),
        ({"flip_map": {0: 1, 1: 0}}, "with several heads a mirror image keeps its labels"),
    ],
)
def test_heads_that_do_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        with_heads(**changes)


def test_one_name_may_be_a_class_of_two_heads():
    assert with_heads(classes=("cup", "put", "cup", "pan", "lid")).heads.class_name(0) == "cup cup"


def test_heads_of_a_file_that_can_not_be_read(tmp_path):
    path = write_raw(tmp_path / "m.parquet", metadata=METADATA | {"w3ray.heads": '{"verb": 2}'})
    with pytest.raises(InputError, match="metadata cannot be read"):
        read_manifest(path)

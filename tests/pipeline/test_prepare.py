"""Preparing a run's data: memory is bounded by the manifest's size, and faults are refused."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from w3ray.data.manifest import SCHEMA, build_manifest, write_manifest
from w3ray.errors import InputError
from w3ray.pipeline.prepare import _require_same_clip, prepare_data
from w3ray.recipe import load_recipe

NUM_CLIPS = 1_000_000

# In its own process, because a memory peak belongs to a process.
PREPARE = """
import json, resource, sys
import pyarrow as pa
from w3ray.pipeline.prepare import prepare_data
from w3ray.recipe import load_recipe

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = peak_mib()
recipe = load_recipe("tank-state", [f"data.manifest={sys.argv[1]}", "data.test_split=val"])
data = prepare_data(recipe)
held = sum(table.nbytes for table in {id(table): table for table in data.splits.values()}.values())
print(json.dumps({
    "peak_mib": peak_mib() - before, "held_mib": held / 2**20, "allocated_mib": pa.total_allocated_bytes() / 2**20,
    "rows": {kind: table.num_rows for kind, table in data.splits.items()},
    "chunks": max(table["uri"].num_chunks for table in data.splits.values()),
}))
"""


def write_large_manifest(path):
    numbers = np.arange(NUM_CLIPS)
    names = pa.array(numbers).cast(pa.string())
    splits = pa.DictionaryArray.from_arrays(pa.array((numbers % 100 == 99).astype(np.int32)), ["train", "val"])
    columns = {
        "clip_id": pc.binary_join_element_wise("clip", names, "-"),
        "uri": pc.binary_join_element_wise("videos/of/some/length", names, "/"),
        "start_s": pa.array(numbers % 7 * 0.1),
        "end_s": pa.array(numbers % 7 + 10.0),
        "reversed": pa.array(np.zeros(NUM_CLIPS, bool)),
        "label": pa.array(numbers % 2, pa.int32()),
        "split": splits.cast(pa.string()),
        "group": pc.binary_join_element_wise("group", pa.array(numbers % 1000).cast(pa.string()), ""),
    }
    metadata = {"w3ray.version": "1", "w3ray.classes": '["a", "b"]', "w3ray.flip_map": "{}"}
    table = pa.table(columns, schema=SCHEMA.with_metadata(metadata))
    pq.write_table(table, path, row_group_size=100_000)
    return table.nbytes / 2**20


def test_memory_is_bounded_by_the_manifests_size(tmp_path):
    manifest_mib = write_large_manifest(tmp_path / "large.parquet")
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "large.parquet")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert found["rows"] == {"train": 990_000, "val": 10_000, "test": 10_000}
    assert found["chunks"] == 1
    # Only the splits stay in memory.
    assert found["allocated_mib"] < 1.1 * found["held_mib"] + 8
    # The manifest, its splits, and one or two columns in between; 256 MiB for slices and the allocator.
    assert found["peak_mib"] < 2.5 * manifest_mib + 256


def pairs(**changed):
    rows = {"uri": ["/a", "/a", "/b", "/b", "/c", "/c"], "start_s": [None, None, 1.0, 1.0, 2.0, 2.0]}
    rows["end_s"] = [None, None, 2.0, 2.0, None, None]
    return pa.table(rows | changed)


@pytest.mark.parametrize("rows_at_once", [1, 2, 100])
def test_rows_kept_together_must_be_of_one_clip(monkeypatch, rows_at_once):
    monkeypatch.setattr("w3ray.pipeline.prepare._ROWS_AT_ONCE", rows_at_once)
    _require_same_clip(pairs(), 2, "teacher")
    _require_same_clip(pairs(uri=list("abcdef")), 1, "teacher")
    for changed in (
        {"uri": ["/a", "/a", "/b", "/b", "/c", "/d"]},
        {"start_s": [None, None, 1.0, 1.0, None, 2.0]},
        {"end_s": [None, None, 2.0, 2.0, None, 3.0]},
    ):
        with pytest.raises(InputError, match=r"training rows 4 and 5 together.*\(c, [cd]\)"):
            _require_same_clip(pairs(**changed), 2, "teacher")
    with pytest.raises(InputError, match="rows 0 and 2 together"):
        _require_same_clip(pairs(), 3, "teacher")


def test_a_split_without_labels_is_refused(tmp_path):
    columns = {
        "clip_id": ["a", "b", "c", "d"],
        "uri": [f"/v/{name}.mp4" for name in "abcd"],
        "label": [0, 1, 1, None],
        "split": ["train", "train", "val", "test"],
    }
    manifest = write_manifest(build_manifest(columns, ("left", "right")), tmp_path / "m.parquet")
    options = [f"data.manifest={manifest.location}"]
    assert prepare_data(load_recipe("tank-state", [*options, "data.test_split=val"])).splits["val"].num_rows == 1
    with pytest.raises(InputError, match=r"1 of 1 clips of split 'test' have no label \(the first is 'd'\)"):
        prepare_data(load_recipe("tank-state", [*options, "data.test_split=test", "evaluation.split=test"]))

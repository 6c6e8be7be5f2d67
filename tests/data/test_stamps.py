"""A video that is replaced in place is noticed. A touched video counts as the same."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from w3ray.cli import main
from w3ray.data import stamps
from w3ray.data.manifest import STAMPS, Manifest, build_manifest, read_manifest, write_manifest
from w3ray.data.stamps import FileChanges, changes_since_import, stamped
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.recipe import Recipe


def files(root: Path) -> Manifest:
    """Two files and a folder of images, with stamps. `b` is in val."""
    (root / "frames").mkdir()
    for name in ("a.mp4", "b.mp4", "frames/img_1.jpg", "frames/img_2.jpg"):
        (root / name).write_bytes(name.encode())
    return build_manifest(
        {
            "clip_id": ["a", "a again", "b", "f"],
            "uri": ["a.mp4", "a.mp4", str(root / "b.mp4"), "frames/img_*"],
            "label": [0, 1, 0, 1],
            "split": ["train", "train", "val", "train"],
        },
        ["one", "two"],
        location=str(root / "m.parquet"),
    )


@pytest.fixture(params=[False, True], ids=["without-hash", "with-hash"])
def hashed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def manifest(tmp_path: Path, hashed: bool) -> Manifest:
    location = str(tmp_path / "m.parquet")
    write_manifest(stamped(files(tmp_path), content=hashed), location)
    return read_manifest(location)


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def test_stamps_are_kept_and_change_no_fingerprint(manifest, tmp_path):
    assert manifest.table.column_names[-3:] == STAMPS.names
    rows = manifest.table.to_pylist()
    assert [row["size"] for row in rows] == [5, 5, 5, 2]
    assert rows[0]["modified_ns"] == (tmp_path / "a.mp4").stat().st_mtime_ns
    plain = write_manifest(build_plain(manifest), tmp_path / "plain.parquet")
    assert plain.table.column_names == manifest.table.column_names[:-3]
    assert plain.fingerprint() == manifest.fingerprint()
    assert changes_since_import(plain, ["train"]) == FileChanges()


def build_plain(manifest: Manifest) -> Manifest:
    columns = {name: manifest.table[name] for name in manifest.table.column_names if name not in STAMPS.names}
    return build_manifest(columns, manifest.classes, location=manifest.location)


def test_nothing_changed(manifest):
    assert changes_since_import(manifest, ["train", "val"]) == FileChanges()


def test_another_size_is_another_file(manifest, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"longer than before")
    found = changes_since_import(manifest, ["train"])
    assert (found.changed, found.touched) == (("a.mp4",), ())
    touch(tmp_path / "a.mp4")
    assert changes_since_import(manifest, ["train"]) == found, "by its content"
    assert found.messages() == ["a.mp4 was changed since the import: stages that saw the old content are not reused"]
    assert changes_since_import(manifest, ["val"]) == FileChanges(), "only in the requested splits"
    (tmp_path / "a.mp4").write_bytes(b"longer than befor!")
    assert changes_since_import(manifest, ["train"]).digest != found.digest


def test_other_bytes_of_the_same_size(manifest, tmp_path, hashed):
    (tmp_path / "b.mp4").write_bytes(b"B.MP4")
    touch(tmp_path / "b.mp4")
    found = changes_since_import(manifest, ["train", "val"])
    uris = ("b.mp4",)
    assert (found.changed, found.touched) == ((uris, ()) if hashed else ((), uris))
    if not hashed:
        assert found.messages() == [
            "b.mp4 was touched since the import, the size is the same: taken as unchanged; "
            "import with --hash to be sure"
        ]


def test_a_touched_file_is_the_same_one(manifest, tmp_path, hashed):
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "frames")
    found = changes_since_import(manifest, ["train", "val"])
    assert found.digest is None
    assert found.touched == (() if hashed else ("a.mp4", "frames/img_*"))


def test_an_image_comes(manifest, tmp_path):
    (tmp_path / "frames" / "img_3.jpg").write_bytes(b"3")
    touch(tmp_path / "frames")
    assert changes_since_import(manifest, ["train"]).changed == ("frames/img_*",)


def test_files_that_are_not_seen_from_here_tell_nothing(manifest, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / "frames")
    assert changes_since_import(manifest, ["train", "val"]) == FileChanges()
    assert [row["modified_ns"] for row in stamped(manifest).table.to_pylist()] == [None] * 4


def test_a_replaced_video_is_another_stage_and_the_old_one_comes_back(tmp_path, motion_manifest):
    """The complete flow: import, plan, replace a video in place, plan again."""
    shutil.copytree(motion_manifest.parent, tmp_path / "set")
    place = tmp_path / "set" / "manifest.parquet"
    manifest = write_manifest(stamped(read_manifest(place), content=True), place)
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "storage": str(tmp_path / "runs"),
            "data": {"manifest": str(place), "size": 32},
            "model": {"backbone": "resnet_small"},
            "train": {"epochs": 1, "batch_size": 8},
            "stages": [{"name": "teacher"}],
        }
    )

    def planned():
        data = prepare_data(recipe)
        (stage,) = plan_stages(recipe, data)
        return data.files.changed, stage.identity

    nothing, before = planned()
    assert nothing == ()
    first, second = (Path(uri) for uri in manifest.resolved_uris(manifest.split("train").slice(0, 2)))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    changed, after = planned()
    assert [Path(uri).name for uri in changed] == [first.name]
    assert after != before
    first.write_bytes(kept)
    assert planned() == ((), before)


def test_a_table_of_several_pieces_and_many_files(tmp_path, monkeypatch):
    """They are processed in slices. Each row gets the stamp of its own file."""
    monkeypatch.setattr(stamps, "_AT_ONCE", 2)
    manifest = files(tmp_path)
    pieces = pa.concat_tables([manifest.table.slice(i, 1) for i in range(4)])
    rows = stamped(replace(manifest, table=pieces)).table.to_pylist()
    assert [row["size"] for row in rows] == [5, 5, 5, 2]
    assert rows[2]["modified_ns"] == (tmp_path / "b.mp4").stat().st_mtime_ns


def test_nothing_is_looked_at_that_is_not_looked_for(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("path,label,split\na.mp4,x,train\nb.mp4,y,val\n")
    words = ["data", "import", "csv", str(tmp_path / "list.csv"), "--out", str(tmp_path / "m.parquet"), "--missing-ok"]
    assert main(words) == 0
    assert not set(STAMPS.names) & set(read_manifest(tmp_path / "m.parquet").table.column_names)
    assert main([*words, "--hash"]) == 2
    assert "--hash has no effect with --missing-ok" in capsys.readouterr().err

"""`w3ray data boxes`: a grid, a detector with made-up weights, and boxes of the user's."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from w3ray.cli import main
from w3ray.data.boxes import read_boxes, unpacked
from w3ray.data.find_boxes import DetectorSettings, detected, find_boxes, grid_boxes
from w3ray.data.manifest import build_manifest, write_manifest


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for frame in range(3):
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(
                tmp_path / name / f"{frame:05d}.png"
            )
    columns = {
        "clip_id": ["a", "b"], "uri": [str(tmp_path / "a"), str(tmp_path / "b")], "label": [0, 0],
        "split": ["train", "val"],
    }  # fmt: skip
    return write_manifest(build_manifest(columns, ["x"]), str(tmp_path / "manifest.parquet"))


def test_a_grid(manifest, tmp_path, capfd):
    out = str(tmp_path / "grid.parquet")
    assert main(["data", "boxes", manifest.location, out, "--grid", "2", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["clips"], document["count"], document["failures"]) == (2, 8, [])
    found = unpacked(read_boxes(out).of("b"))
    np.testing.assert_array_equal(found.place_P4, grid_boxes(2))
    assert found.place_P4.tolist() == [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one of --weights FILE, --grid N and --from FILE"),
        (["--grid", "2", "--weights", "x"], "name one of"),
        (["--grid", "0"], "--grid 0: must be at least 1"),
        (["--weights", "absent.pth"], "weights absent.pth: cannot be read (No such file or directory); save"),
        (["--weights", "absent.pth", "--short-side", "3"], "short side 3: must be at least 32"),
        (["--from", "absent.parquet"], "absent.parquet: boxes cannot be read (No such file or directory)"),
    ],
)
def test_bad_input_is_one_line(manifest, tmp_path, capfd, words, message):
    assert main(["data", "boxes", manifest.location, str(tmp_path / "out.parquet"), *words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out.parquet").exists()


def test_boxes_of_the_users(manifest, tmp_path, capfd):
    box = {"frame": 1, "x1": 0.1, "y1": 0.2, "x2": 0.3, "y2": 0.4, "score": 1.0}
    mine, out = str(tmp_path / "mine.parquet"), str(tmp_path / "out.parquet")
    pq.write_table(pa.Table.from_pylist([{"clip_id": "a", **box}]), mine)
    assert main(["data", "boxes", manifest.location, out, "--from", mine]) == 2
    assert "1 of 2 clips of" in capfd.readouterr().err
    pq.write_table(pa.Table.from_pylist([{"clip_id": name, **box} for name in "ab"]), mine)
    assert main(["data", "boxes", manifest.location, out, "--from", mine]) == 0
    assert unpacked(read_boxes(out).of("b")).when_P.tolist() == [1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Made-up weights of the detector."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.save(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), path)
    return path


@pytest.mark.slow
def test_the_detector_gives_boxes_in_the_frame(weights):
    settings = DetectorSettings(weights=str(weights), most=5, short_side=64)
    frame_HWC = np.random.default_rng(0).integers(0, 255, (48, 96, 3), dtype=np.uint8)
    boxes_N4 = detected(frame_HWC, settings)
    assert 1 <= len(boxes_N4) <= 5
    assert (boxes_N4 >= 0).all()
    assert (boxes_N4 <= 1).all()
    assert (boxes_N4[:, 2:] > boxes_N4[:, :2]).all()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_detector_on_a_manifest(manifest, weights, tmp_path):
    """A clip that cannot be read has no box; a second call finds only what is left."""
    out = str(tmp_path / "boxes.parquet")
    hidden = tmp_path / "hidden"
    (tmp_path / "b").rename(hidden)
    settings = DetectorSettings(weights=str(weights), frames=2, most=4, short_side=64)
    result = find_boxes(manifest, out, settings).to_pylist()
    assert [row["ok"] for row in result] == [True, False]
    assert unpacked(read_boxes(out).of("b")).place_P4.tolist() == [[0, 0, 0, 0]]
    kept = tmp_path / "boxes.parquet.parts" / "a.parquet"
    before = kept.stat().st_mtime_ns
    with pytest.raises(Exception, match="was begun with another most"):
        find_boxes(manifest, out, DetectorSettings(weights=str(weights), frames=2, most=3, short_side=64))
    assert kept.stat().st_mtime_ns == before
    hidden.rename(tmp_path / "b")
    result = find_boxes(manifest, out, settings).to_pylist()
    assert [row["ok"] for row in result] == [True, True]
    found = unpacked(read_boxes(out).of("b"))
    assert len(np.unique(found.when_P)) == 2
    assert found.by_time
    assert not kept.exists()

"""`w3ray data` as a command: exit codes, one JSON document, one line for each kind of bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from videos import cut, write_video

from w3ray.cli import main
from w3ray.data.manifest import read_manifest


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / "clips"
    for label in ("left", "right"):
        for number in range(5):
            write_video(root / label / f"s{number}.mp4", 12)
    return root


def run_json(capfd, *words):
    code = main(["data", *map(str, words), "--json"])
    return code, json.loads(capfd.readouterr().out)


def test_import_folder(tree, tmp_path, capfd):
    out = tmp_path / "set.parquet"
    code, document = run_json(capfd, "import", "folder", tree, "--out", out, "--flip-map", "left=right")
    assert code == 0
    manifest = read_manifest(out)
    assert document == {
        "manifest": str(out),
        "clips": 10,
        "classes": ["left", "right"],
        "heads": {},
        "multi_label": False,
        "splits": {"train": 8, "val": 2},
        "counts": {"left": {"train": 4, "val": 1}, "right": {"train": 4, "val": 1}},
        "flip_map": {"left": "right", "right": "left"},
        "fingerprint": manifest.fingerprint(),
    }


def test_import_folder_by_group_for_people(tree, tmp_path, capfd):
    out = tmp_path / "set.parquet"
    words = ["--group", r"/(s\d)\.", "--val-groups", "s1,s2", "--test-groups", "s3"]
    assert main(["data", "import", "folder", str(tree), "-o", str(out), *words]) == 0
    printed = capfd.readouterr().out
    assert "left" in printed
    assert f"10 clips in {out}" in printed.replace("\n", "")
    assert read_manifest(out).splits() == {"test": 2, "train": 4, "val": 4}


def test_import_folder_by_lists(tree, tmp_path, capfd):
    (tmp_path / "a.txt").write_text("left/s0.mp4 0\nright/s0.mp4 1\n")
    (tmp_path / "b.txt").write_text("left/s1.mp4 0\n")
    lists = f"train={tmp_path}/a.txt,val={tmp_path}/b.txt"
    code, document = run_json(capfd, "import", "folder", tree, "--out", tmp_path / "m", "--list", lists)
    assert (code, document["splits"]) == (0, {"train": 2, "val": 1})


def test_import_csv_with_twins(tree, tmp_path, capfd):
    (tree.parent / "list.csv").write_text("video,label\nclips/left/s0.mp4,0\nclips/right/s0.mp4,1\n")
    code, document = run_json(
        capfd, "import", "csv", tree.parent / "list.csv", "--columns", "path=video", "--classes", "l,r",
        "--reversed-twin", "--out", tmp_path / "m.parquet",
    )  # fmt: skip
    assert (code, document["clips"], document["classes"]) == (0, 4, ["forward", "backward"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["import", "folder", "{tmp}/none", "--out", "{tmp}/m"], "no such folder"),
        (["import", "folder", "{tree}", "--out", "{tree}/left/s0.mp4/m"], "cannot be written"),
        (
            ["import", "folder", "{tree}", "--out", "{tmp}/m", "--split", "random", "--val-groups", "a"],
            "no effect without --split group",
        ),
        (
            ["import", "folder", "{tree}", "--out", "{tmp}/m", "--split", "random", "--list", "train=a"],
            "no effect with --split random",
        ),
        (["import", "folder", "{tree}", "--out", "{tmp}/m", "--list", "train={tmp}/none"], "cannot be read"),
        (["import", "folder", "{tree}", "--out", "{tmp}/m", "--flip-map", "left"], "not of the form name=value"),
        (["import", "folder", "{tree}", "--out", "{tmp}/m", "--split", "nosuch"], "nosuch"),
        (["import", "folder", "{tree}"], "Missing option '--out'"),
        (["import", "csv", "{tmp}/none.csv", "--out", "{tmp}/m"], "cannot be read as CSV"),
        (["import", "csv", "{tmp}/none.csv", "--out", "{tmp}/m", "--columns", "pth=a"], "no 'pth'; known: path, label"),
        (["check", "{tmp}/none.parquet"], "no such file"),
        (["check", "{tmp}"], "it is a folder"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tree, tmp_path, capfd, words, message):
    words = ["data", *(word.format(tree=tree, tmp=tmp_path) for word in words)]
    assert main([*words, "--json"]) == 2
    captured = capfd.readouterr()
    document = json.loads(captured.out)
    assert document["exit_code"] == 2
    assert message in document["error"]["message"]
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
def test_check_in_a_process_of_its_own(tree, tmp_path):
    """The real command: its output streams, exit codes, and ledger."""
    broken = tmp_path / "clips" / "left" / "broken.mp4"
    cut(tree / "left" / "s0.mp4", broken)
    for number in range(4):
        (tmp_path / "clips" / "left" / f"{number}.mp4").symlink_to(tree / "left" / f"s{number}.mp4")
    manifest, ledger = tmp_path / "m.parquet", tmp_path / "ledger.parquet"
    assert main(["data", "import", "folder", str(tmp_path / "clips"), "--out", str(manifest)]) == 0
    script = "import sys; from w3ray.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["data", "check", str(manifest), "--exact", "--ledger", str(ledger), "--strict", "--json"]
    run = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=180,
    )
    assert run.returncode == 1, run.stderr
    document = json.loads(run.stdout)
    assert (document["clips"], document["readable"], document["unreadable"]) == (5, 4, 1)
    assert document["exact"] is True
    assert document["reasons"] == {"truncated": 1}
    assert document["failures"][0]["clip_id"] == "left/broken.mp4"
    rows = pq.read_table(ledger).to_pylist()
    assert [row["clip_id"] for row in rows if not row["ok"]] == ["left/broken.mp4"]
    assert "Traceback" not in run.stderr
    assert "Dataset dataset_" not in run.stderr  # Ray Data's own messages stay in its log files


def test_ledger_of_another_kind_is_refused_before_anything_is_read(tree, tmp_path, capfd):
    manifest = tmp_path / "m.parquet"
    assert main(["data", "import", "folder", str(tree), "--out", str(manifest)]) == 0
    assert main(["data", "check", str(manifest), "--ledger", str(tmp_path / "ledger.csv")]) == 2
    assert "must end in .parquet" in capfd.readouterr().err
    assert not (tmp_path / "ledger.csv").exists()


def test_synth(tmp_path, capfd):
    code, document = run_json(
        capfd, "synth", tmp_path / "motion", "--clips", 8, "--val-clips", 8, "--test-clips", 8, "--size", 32
    )
    assert code == 0
    manifest = read_manifest(document["manifest"])
    assert document["clips"] == manifest.table.num_rows == 24
    assert all(Path(uri).is_file() for uri in manifest.resolved_uris())

"""`w3ray ... | head`: if nobody reads the output, commands, work and training continue and print no error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

COMMAND = "import sys; from w3ray.cli import main; sys.exit(main())"
NOISY = """
import subprocess, sys, warnings
from w3ray.cli import COMMANDS, main
from w3ray.cli._common import finish, run_command

@run_command
def noisy(as_json: bool = False) -> None:
    for _ in range(3):
        print("a library prints")
        print("a library complains", file=sys.stderr)
        warnings.warn("a warning")
        sys.stdout.flush()
    subprocess.run(["echo", "a child"], check=False)
    open("done", "w").close()
    finish({"a": 1}, as_json, ["text " * 20] * 5_000)

sys.modules["noisy"] = sys.modules["__main__"]
COMMANDS["noisy"] = ("noisy:noisy", "")
sys.exit(main())
"""


def run(
    words: list[str], folder: Path, *, closed: tuple[str, ...], code: str = COMMAND
) -> "subprocess.CompletedProcess":
    """Run the command with pipes that nobody reads. They are closed before it writes."""
    ends = {name: os.pipe() for name in closed}
    streams = {name: ends[name][1] if name in closed else subprocess.PIPE for name in ("stdout", "stderr")}
    process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=folder, **streams)
    for reads, writes in ends.values():
        os.close(reads)
        os.close(writes)
    out, err = process.communicate(timeout=500)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["lint", "quickstart"], ["lint", "quickstart", "--json"]],
    ids=" ".join,
)
def test_output(words, tmp_path):
    done = run(words, tmp_path, closed=("stdout",))
    assert (done.returncode, done.stderr) == (0, b"")


def test_errors(tmp_path):
    assert run(["lint"], tmp_path, closed=("stderr",)).returncode == 2
    done = run(["lint", "quickstrat", "--json"], tmp_path, closed=("stdout",))
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: unknown recipe 'quickstrat'")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "closed"),
    [([], ("stdout",)), (["--as-json"], ("stdout",)), (["--as-json"], ("stdout", "stderr"))],
    ids=str,
)
def test_libraries_and_children(options, closed, tmp_path):
    done = run(["noisy", *options], tmp_path, closed=closed, code=NOISY)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").is_file(), "the work was finished"
    assert b"BrokenPipe" not in (done.stderr or b"")
    assert b"Exception ignored" not in (done.stderr or b"")


def test_a_reader_that_has_enough(tmp_path):
    """The output is much larger than a pipe's buffer, so the reader ends while the command writes."""
    script = tmp_path / "noisy.py"
    script.write_text(NOISY)
    line = f'set -o pipefail; "{sys.executable}" "{script}" noisy 2>errors | head -n 1'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert "BrokenPipe" not in (tmp_path / "errors").read_text()


def test_a_closed_descriptor(tmp_path):
    line = f"\"{sys.executable}\" -c '{COMMAND}' lint quickstart >&- 2>&-"
    assert subprocess.run(["bash", "-c", line], cwd=tmp_path, timeout=100).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only on Linux")
def test_a_full_disk_is_one_line(tmp_path):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "lint", "quickstart", "--json"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: standard output cannot be written (No space left on device)\n"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_training_goes_on_without_its_readers(motion_manifest, tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    recipe = {
        "name": "tiny",
        "storage": str(tmp_path / "runs"),
        "data": {"manifest": str(motion_manifest), "num_frames": 2, "size": 32},
        "model": {"backbone": "resnet_small"},
        "train": {"epochs": 2, "batch_size": 8, "microbatch_size": 4},
        "stages": [{"name": "teacher"}],
        "resources": {"workers": 1},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    done = run(["run", "tiny.yaml", "--json"], tmp_path, closed=("stdout", "stderr"))
    assert done.returncode == 0
    (result,) = (tmp_path / "runs").glob("stages/teacher-*/result.json")
    assert "finished" in json.loads(result.read_text())
    again = run(["run", "tiny.yaml", "--json"], tmp_path, closed=("stderr",))
    assert again.returncode == 0
    document = json.loads(again.stdout)
    assert document["stages"][0]["state"] == "reuse"
    assert document["model"]["version"] == "1"

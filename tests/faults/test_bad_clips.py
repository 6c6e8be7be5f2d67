"""Videos that hang a decoder, crash its process or use all memory only lose their own place in a batch."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_harness import Outcome, faulty_recipe, note

from w3ray.data.decode_watch import MAX_CRASHES
from w3ray.data.manifest import Manifest, read_manifest, write_manifest
from w3ray.pipeline import run

BAD = {
    "hangs": "took longer than 20 s, 2 times",
    "crashes": "process ended 3 times while reading it",
    "killed": "a crash, or out of memory",
    "starves": "out of memory while reading it",
}

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]


def manifest_with(manifest_path: Path, target: Path, *, readable: bool) -> Path:
    """The manifest with the first training clips under names for `bad_decoders`: whole videos, or empty files."""
    target.mkdir()
    manifest = read_manifest(manifest_path)
    rows = [{**row, "uri": manifest.resolve(row["uri"])} for row in manifest.table.to_pylist()]
    train = [row for row in rows if row["split"] == "train"]
    for name, row in zip(BAD, train, strict=False):
        bad = target / f"{name}.mp4"
        shutil.copy(row["uri"], bad) if readable else bad.touch()
        row["uri"] = str(bad)
    table = manifest.table.schema.empty_table().from_pylist(rows, schema=manifest.table.schema)
    path = target / "manifest.parquet"
    write_manifest(Manifest(table, manifest.classes, manifest.flip_map, str(path)), path)
    return path


def short(manifest: Path, storage: Path):
    return faulty_recipe(
        manifest,
        storage,
        data={"max_failed_share": 0.2},
        train={"epochs": 3, "validate_every_epochs": 1},
        resources={"clip_timeout_s": 20.0},  # a clip that is fine takes seconds beside other load
    )


@pytest.fixture
def memory_group() -> Iterator[Path | None]:
    """A control group of 256 MiB; the kernel kills its processes. None if none can be made (needs root)."""
    name, limit = f"w3ray-test-{os.getpid()}", str(256 << 20)
    for root, file in (("memory", "memory.limit_in_bytes"), (".", "memory.max")):
        group = Path("/sys/fs/cgroup") / root / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(limit)
            yield group
            return
        except OSError:
            continue  # this controller is absent
        finally:
            group.rmdir()
    yield None


def kills(group: Path) -> int:
    """The number of processes of a control group that the kernel killed."""
    name = "memory.oom_control" if (group / "memory.oom_control").exists() else "memory.events"
    counts = dict(line.split() for line in (group / name).read_text().splitlines())
    return int(counts["oom_kill"])


@pytest.mark.parametrize("how", ["", "in-process"])
def test_clips_that_end_their_decoder_are_masked_as_unreadable_ones_are(
    ray_session, memory_group, motion_manifest, tmp_path, how
):
    """Decoders are actors, or tasks if a stage trains in the process of a sweep's trial."""
    recipe = short(manifest_with(motion_manifest, tmp_path / "bad", readable=True), tmp_path / "runs")
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    script = Path(__file__).with_name("run_with_bad_decoders.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "recipe.json"), str(tmp_path / "told.json"), *how.split()],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            "W3RAY_MEMORY_GROUP": str(memory_group or ""),
        },
    )
    assert done.returncode == 0, done.stderr
    if memory_group is not None:
        assert kills(memory_group) == MAX_CRASHES
    outcome = Outcome(tmp_path / "runs")
    ledger = (outcome.folders["teacher"] / "failures.jsonl").read_text().splitlines()
    reasons = {Path(row["uri"]).stem: row["reason"] for row in map(json.loads, ledger)}
    assert set(reasons) == set(BAD)
    for name, reason in BAD.items():
        assert reason in reasons[name]
    assert len(ledger) == len(BAD), "each once"
    told = json.loads((tmp_path / "told.json").read_text())
    assert any("cannot be read and is left out" in line for line in told), told

    plain = short(manifest_with(motion_manifest, tmp_path / "plain", readable=False), tmp_path / "plain-runs")
    run(plain)
    by = " by the kernel" if memory_group else ""
    cost = outcome.cost(
        f"decoder hung, crashed, killed for memory{by}, out of memory{how and f', {how}'}",
        Outcome(tmp_path / "plain-runs"),
        None,
    )
    note(cost)
    assert (cost.steps_again, cost.lost, cost.doubled, cost.identical) == (0, 0, 0, True)

"""`benchmarks/gpu.py` runs on a machine with little more than torch, measures what it says, and ends in time."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from w3ray.recipe import load_recipe

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

WITHOUT = """
import runpy, sys
from importlib import util
absent = {"ray", "mlflow", "decord", "av", "pyarrow", "psutil", "pydantic"}
for name in absent:
    sys.modules[name] = None  # an import of it raises
there = util.find_spec
util.find_spec = lambda name: None if name in absent else there(name)
script, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, script.rpartition("/")[0])
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("gpu")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.slow
def test_the_first_half_runs_where_there_is_no_ray(gpu: ModuleType, tmp_path: Path) -> None:
    script = str(BENCHMARKS / "gpu.py")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, script, "--tiny", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "gpu.json").read_text())["figures"]
    assert figures["tiny"]
    assert set(figures["checks"]) == {"gpu_against_cpu", "fp16", "one_rank"}
    assert all(check["ok"] for check in figures["checks"].values())
    assert len(figures["throughput"]) == len([*gpu.cells(gpu.TINY)])
    assert all(row["clips_per_s"] > 0 for row in figures["throughput"])
    assert len(figures["share_of_w3"]) == sum(row["network"] == "tsm_w3" for row in figures["throughput"])
    assert set(figures["transfer"]) == {"on_the_gpu", "ordinary_memory", "pinned_memory"}
    assert figures["left_out"] == ["stage"]


def test_all_that_was_asked_for_is_measured(gpu: ModuleType) -> None:
    names = {cell.name for cell in gpu.cells(gpu.LARGE)}
    for network in ("tsm", "tsm_w3"):
        for frames in (8, 16):
            for arithmetic in ("fp32", "tf32", "bf16"):
                name = f"{network} {frames}f {arithmetic}"
                assert {name, f"{name} compiled"} <= names
                assert (f"{name} triton" in names) == (network == "tsm_w3"), "plain TSM has no attention"


def test_cells_that_compile_come_last_and_are_left_out_when_time_is_short(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "CHECKS", {})
    monkeypatch.setattr(gpu, "travel", lambda size, device: {})
    seen: list[Any] = []

    def measured(size: Any, cell: Any, device: torch.device) -> dict[str, Any]:
        seen.append(cell)
        names = ("network", "frames", "arithmetic", "compiled", "channels_last", "triton")
        rate = 80.0 if cell.network == "tsm" else 60.0
        return {"clips_per_s": rate, **{name: getattr(cell, name) for name in names}}

    monkeypatch.setattr(gpu, "measured", measured)
    figures = gpu.first_half(gpu.LARGE, torch.device("cpu"), gpu.Clock(1.0))
    assert len(seen) == 20
    assert not any(cell.compiled for cell in seen)
    assert len(figures["left_out"]) == 12
    assert figures["left_out"][0] == "tsm 8f bf16 compiled"
    assert [row["share"] for row in figures["share_of_w3"]] == [0.25] * 13
    seen.clear()
    assert len(gpu.first_half(gpu.LARGE, torch.device("cpu"), gpu.Clock(0.0))["left_out"]) == 32


@pytest.mark.parametrize("size", ["LARGE", "TINY"])
def test_the_second_half_is_a_recipe(gpu: ModuleType, size: str) -> None:
    recipe = load_recipe("quickstart", [*getattr(gpu, size).stage])
    assert recipe.train.precision == "auto"


def test_a_failed_check_is_an_error(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = {"checks": {"fp16": {"ok": False}, "one_rank": {"ok": True}}, "left_out": []}
    monkeypatch.setattr(gpu, "first_half", lambda size, device, clock: bad)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--first-half", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="checks failed: fp16"):
        gpu.main()
    assert json.loads((tmp_path / "gpu.json").read_text())["figures"]["checks"]["fp16"] == {"ok": False}


def test_a_wrong_gradient_is_found(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu.compiled

    def wrong(model: Any, backend: str) -> Any:
        with torch.no_grad():
            model.classifier.weight.mul_(1.01)
        return right(model, backend)

    monkeypatch.setattr(gpu, "compiled", wrong)
    found = gpu.against_cpu(gpu.TINY, torch.device("cpu"))
    assert found["distance"]["gpu"] < 1e-9
    assert found["distance"]["gpu_compiled"] > 1e-4
    assert not found["ok"]

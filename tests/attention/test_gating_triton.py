"""The Triton kernels equal the plain formulas, in Triton's interpreter and on a GPU; and they compile without one."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from w3ray.attention import gating
from w3ray.attention.gating import triton_kernels
from w3ray.errors import InputError
from w3ray.recipe import Train
from w3ray.runtime import worker

CASES = Path(__file__).with_name("triton_cases.py")
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

COMPILE = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from w3ray.attention import gating_triton

def compile(kernel, features, sums, inner):
    blocks = {"BLOCK_K": 32, "BLOCK_R": 64, "SUM": getattr(tl, sums), inner: 1}
    types = {"fp32": "*fp32", "fp64": "*fp64", "bf16": "*bf16"}
    pointers = {"count_ptr": "*fp64" if sums == "float64" else "*fp32"}
    signature = {
        name: "constexpr" if name in blocks else pointers.get(name, types[features]) if name.endswith("_ptr") else "i32"
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constexprs=blocks)
    return triton.compile(source, target=GPUTarget("cuda", 80, 32))

for kernel in (gating_triton._pool, gating_triton._pool_gradient, gating_triton._gate_gradient):
    for features, sums, inner in (("bf16", "float32", "stride_r"), ("fp64", "float64", "stride_k")):
        assert compile(kernel, features, sums, inner).asm["cubin"]
        print("compiled")
"""


def run(command: list[str], **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={**os.environ, **variables}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cases(**variables: str) -> None:
    out = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(CASES)], **variables)
    assert " passed" in out
    assert "skipped" not in out


def test_in_the_interpreter() -> None:
    cases(TRITON_INTERPRET="1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    cases()


def test_they_compile_without_a_gpu(tmp_path: Path) -> None:
    assert run(["-c", COMPILE], TRITON_CACHE_DIR=str(tmp_path)).count("compiled") == 6


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gating, "find_spec", lambda name: None)
    with triton_kernels(True):
        pass  # no GPU, no effect
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with triton_kernels(False):
        pass
    with pytest.raises(InputError, match=r"triton is not installed; install it, or set train\.triton=false"):
        triton_kernels(True).__enter__()


def test_a_stage_turns_them_on_for_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen:
        def __init__(self, *arguments: object) -> None:
            pass

        def run(self) -> dict[str, bool]:
            return {"outcome": gating._use_triton}

    monkeypatch.setattr(worker, "StageWorker", Seen)
    for wanted in (True, False):
        plugins = SimpleNamespace(load=lambda: None)
        stage: Any = SimpleNamespace(train=Train(triton=wanted), stream=SimpleNamespace(plugins=plugins))
        events: Any = SimpleNamespace(flush=lambda: None)
        assert worker.run_worker(stage, events, iter(())) == {"outcome": wanted}
        assert not gating._use_triton

"""README.md for operators: each command is valid shell, and the files and recipes that it names exist."""

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from patience import PATIENCE_S

from w3ray.recipe import Resources, load_recipe

REPO = Path(__file__).resolve().parents[2]
TEXT = (REPO / "cluster" / "README.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
RUNS = [line for line in LINES if "w3ray run" in line or "slurm.sbatch" in line]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_shell(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def test_every_file_is_named_and_there() -> None:
    named = set(re.findall(r"\bcluster/[\w./-]*\w", "\n".join(LINES))) - {"cluster/mlflow.env"}
    for name in named:
        assert (REPO / name).exists(), name
    for path in (REPO / "cluster").rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert path.name in TEXT, f"{path.name} is not explained"


@pytest.mark.parametrize("line", RUNS)
def test_every_run_is_a_recipe(line: str) -> None:
    _, _, command = line.partition("w3ray run " if "w3ray run" in line else "slurm.sbatch ")
    recipe, *options = shlex.split(command)
    changes = [value for word, value in pairwise(options) if word == "--set"]
    if "decoder_resources" not in Resources.model_fields:
        changes = [change for change in changes if "decoder_resources" not in change]
    load_recipe(recipe, changes)


def test_runs_were_found() -> None:
    assert len(RUNS) >= 2


def test_what_is_said_of_stopping_is_so() -> None:
    for name in ("aws.yaml", "gcp.yaml", "kuberay/raycluster.yaml"):
        text = (REPO / "cluster" / name).read_text()
        assert re.search(r'RAY_JOB_STOP_WAIT_TIME_S(=|, value: ")120', text), name

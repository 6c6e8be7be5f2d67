"""Every file of `cluster/` has a check, all versions agree, and nothing private is in the files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S

REPO = Path(__file__).resolve().parents[2]
CLUSTER = REPO / "cluster"
BIN = Path(sys.executable).parent

# File for operators -> the test that reads it with the operators' tool.
CHECKED_BY = {
    "Containerfile": "test_containers.py",
    "Containerfile.dockerignore": "test_containers.py",
    "README.md": "test_readme.py",
    "aws.yaml": "test_launcher.py",
    "drain-on-notice.sh": "test_drain.py",
    "gcp.yaml": "test_launcher.py",
    "kuberay/network.yaml": "test_kuberay.py",
    "kuberay/raycluster.yaml": "test_kuberay.py",
    "kuberay/rayjob.yaml": "test_kuberay.py",
    "mlflow.compose.yaml": "test_mlflow_server.py",
    "slurm.sbatch": "test_slurm.py",
}

FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
SHELL = [path for path in FILES if path.read_text().startswith("#!")]


def test_every_file_has_a_check() -> None:
    assert {str(path.relative_to(CLUSTER)) for path in FILES} == set(CHECKED_BY)
    for test in CHECKED_BY.values():
        assert (Path(__file__).parent / test).exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_private(path: Path) -> None:
    text = path.read_text()
    # A home folder, a key, or an account number.
    assert not re.search(r"/home/(?!w3ray)|/Users/|/root/|AKIA[0-9A-Z]{16}|-----BEGIN|\b\d{12}\b", text)
    # Only one invented image and one invented account, so that a search finds what must be changed.
    assert set(re.findall(r"[\w.-]+/w3ray:[\w.]+", text)) <= {f"registry.example.com/w3ray:{version('w3ray')}"}


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(path: Path) -> None:
    done = subprocess.run([BIN / "shellcheck", "--norc", path], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout


def test_which_files_are_shell_scripts() -> None:
    assert {path.name for path in SHELL} == {"drain-on-notice.sh", "slurm.sbatch"}


def test_one_ray_version() -> None:
    """A node with another Ray cannot join. The image's Ray is from constraints.txt; KubeRay needs the version, too."""
    for path in (CLUSTER / "kuberay").glob("ray*.yaml"):
        assert re.findall(r"rayVersion: (\S+)", path.read_text()) == [pinned("ray")]
    assert "constraints.txt" in (CLUSTER / "Containerfile").read_text()
    assert f"python:{python_version()}-" in (CLUSTER / "Containerfile").read_text()


def version(name: str) -> str:
    import w3ray

    assert name == "w3ray"
    return w3ray.__version__


def pinned(name: str) -> str:
    found = re.search(rf"^{name}==(\S+)$", (REPO / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert found is not None, name
    return found.group(1)


def python_version() -> str:
    """The Python version of constraints.txt, from its first line."""
    found = re.search(r"Python (\d+\.\d+)", (REPO / "constraints.txt").read_text())
    assert found is not None
    return found.group(1)

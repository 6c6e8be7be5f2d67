"""The package works without the repository: sdist and wheel are built, and the wheel runs in a fresh environment.

The environment has w3ray from the wheel alone. Its dependencies are those of the environment that runs the tests (a
`.pth` file names their folder), because torch and Ray would have to be downloaded again.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from environment_lowest import requirements

import w3ray

REPO = Path(__file__).resolve().parent.parent
RECIPES = sorted(path.name for path in (REPO / "pipelines").glob("*.yaml"))
SPACES = sorted(path.name for path in (REPO / "tune_spaces").glob("*.yaml"))


def run(*words: str | Path, folder: Path) -> str:
    """Run a command outside of the repository. Returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist, and of a wheel that was made from that sdist."""
    folder = tmp_path_factory.mktemp("built")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    source = folder / "source"  # a build writes next to its source
    for name in filter(None, tracked.split("\0")):
        if name.startswith((".", "benchmarks/", "docs/", "tests/")) or not os.path.lexists(REPO / name):
            continue
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPO / name).is_symlink():
            target.symlink_to((REPO / name).readlink())
        else:
            target.write_bytes((REPO / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source, folder=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel. Returns its folder of commands."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    commands = folder / "venv" / "bin"
    (wheel,) = built.glob("*.whl")
    run(commands / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, folder=folder)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # Python runs no `.pth` files of that folder, so an editable installation of w3ray there does not count.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return commands


@pytest.mark.slow
def test_wheel_and_sdist_hold_what_they_should(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    assert wheel.name.startswith(f"w3ray-{w3ray.__version__}-")
    assert sdist.name == f"w3ray-{w3ray.__version__}.tar.gz"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        described = archive.read(metadata).decode()
    assert {name.partition("/")[0] for name in names} == {"w3ray", f"w3ray-{w3ray.__version__}.dist-info"}
    assert sorted(Path(name).name for name in names if name.startswith("w3ray/_pipelines/")) == RECIPES
    assert sorted(Path(name).name for name in names if name.startswith("w3ray/_tune_spaces/")) == SPACES
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in described
    with tarfile.open(sdist) as archive:
        packed = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= packed


@pytest.mark.slow
def test_the_wheel_runs_without_the_repository(environment: Path, tmp_path: Path) -> None:
    where = run(environment / "python", "-c", "import w3ray; print(w3ray.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parent)
    assert run(environment / "w3ray", "--version", folder=tmp_path).strip() == f"w3ray {w3ray.__version__}"
    plan = run(environment / "w3ray", "run", "quickstart", "--dry-run", folder=tmp_path)
    assert yaml.safe_load(plan)["name"] == "quickstart"
    assert "# stage student" in plan
    space = run(environment / "w3ray", "tune", "smoke", "--pipeline", "quickstart", "--dry-run", folder=tmp_path)
    assert "model.attention.reduction" in space


def test_the_version_stands_in_one_place() -> None:
    import tomllib

    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "w3ray._version.__version__"}
    cited = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert cited["version"] == w3ray.__version__
    assert f"## {w3ray.__version__}" in (REPO / "CHANGELOG.md").read_text()


def test_the_environment_of_the_lowest_versions_has_what_users_need() -> None:
    wanted = requirements()
    names = {re.split(r"[<>=!;]", one)[0] for one in wanted}
    assert {"torch", "onnx", "boto3", "moto[s3,server]", "pytest"} <= names
    assert not any(one.startswith(("mypy", "sphinx", "w3ray")) for one in wanted), "only for work on w3ray"

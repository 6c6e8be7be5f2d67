"""Make an environment with the lowest versions that pyproject.toml allows: `python tests/environment_lowest.py FOLDER`.

The dependencies, and those of all extras for users, have the lowest versions with a package for this system. What they
need in turn has the newest version that fits, and the tests' tools have those of constraints.txt. FOLDER.txt lists all
of them. It takes minutes the first time, and some gigabytes.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPO = Path(__file__).parents[1]
NOT_FOR_USERS = ("dev", "docs")
TOOLS = {
    "flask-wtf": "",
    "hypothesis": "",
    "moto": "[s3,server]",
    "pytest": "",
    "pytest-timeout": "",
    "pytest-xdist": "",
}


def requirements() -> list[str]:
    """What the environment must have, as pip writes it."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = [*project["dependencies"], *(one for name in extras if name not in NOT_FOR_USERS for one in extras[name])]
    exact = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPO / "constraints.txt").read_text().lower(), re.MULTILINE))
    return [*found, *(f"{name}{extra}=={exact[name]}" for name, extra in TOOLS.items())]


def uv(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "uv", *words, "--quiet"], check=True, cwd=REPO)


def make_environment(folder: Path) -> None:
    """Make the environment in `folder`, which is replaced."""
    asked, chosen = folder.with_suffix(".in"), folder.with_suffix(".txt")
    folder.parent.mkdir(parents=True, exist_ok=True)
    asked.write_text("".join(f"{one}\n" for one in requirements()))
    python = ["--python", folder / "bin" / "python"]
    uv("venv", "--clear", "--python", sys.executable, folder)
    uv(
        "pip",
        "compile",
        "--resolution",
        "lowest-direct",
        "--only-binary",
        ":all:",
        *python,
        asked,
        "--output-file",
        chosen,
    )
    uv("pip", "install", *python, "--requirement", chosen)
    uv("pip", "install", *python, "--no-deps", "--editable", REPO)


if __name__ == "__main__":
    make_environment(Path(sys.argv[1]).absolute())

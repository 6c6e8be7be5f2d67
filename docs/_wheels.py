"""Which Pythons and platforms have wheels of everything that w3ray needs? `python docs/_wheels.py [--system NAME]`

Asks pip for the newest version of each dependency in pyproject.toml that has a wheel, without a download. It prints a
Markdown table: a cell holds that version, "none", or "not needed" where the dependency's marker leaves it out. The
state is in docs/start/install.md.
"""

import argparse
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
_MANYLINUX = ["manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 40))]
SYSTEMS = {
    "linux-x86_64": ({"sys_platform": "linux", "platform_machine": "x86_64"}, [f"{tag}_x86_64" for tag in _MANYLINUX]),
    "linux-arm": ({"sys_platform": "linux", "platform_machine": "aarch64"}, [f"{tag}_aarch64" for tag in _MANYLINUX]),
    "macos-arm": ({"sys_platform": "darwin", "platform_machine": "arm64"}, ["macosx_14_0_arm64"]),
}
"""Name -> what markers see there, and the platform tags of wheels that run there."""


def requirements() -> list[Requirement]:
    """What w3ray needs, and the optional decoder."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["torchcodec"]]


def newest_wheel(requirement: Requirement, python: str, tags: list[str]) -> str:
    """The newest version that fits and has a wheel, or "none"."""
    wanted = [option for tag in tags for option in ("--platform", tag)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", requirement.name, "--only-binary=:all:",
         "--implementation", "cp", "--python-version", python, *wanted],
        capture_output=True, text=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )  # fmt: skip
    if done.returncode and "No matching distribution" not in done.stderr:
        raise SystemExit(f"pip cannot ask for {requirement.name}: {done.stderr.strip().splitlines()[-1]}")
    listed = re.search(r"Available versions: (.*)", done.stdout)
    return next(requirement.specifier.filter(listed[1].split(", ") if listed else []), "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=SYSTEMS, default="linux-x86_64")
    parser.add_argument("--python", choices=PYTHONS, action="append", help="can be repeated; default: all")
    options = parser.parse_args()
    pythons = options.python or PYTHONS
    marks, tags = SYSTEMS[options.system]
    print(f"| {options.system} | {' | '.join(pythons)} |", "| --- " * (len(pythons) + 1) + "|", sep="\n")
    for requirement in requirements():
        cells = []
        for python in pythons:
            environment = {**marks, "python_version": python}
            needed = requirement.marker is None or requirement.marker.evaluate(environment)
            cells.append(newest_wheel(requirement, python, tags) if needed else "not needed")
        print(f"| {requirement.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

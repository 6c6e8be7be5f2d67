"""Make an environment without some packages: `python tests/environment_without.py FOLDER decord ...`, in seconds.

A package without wheels for a platform is absent there. This is the same on a machine that has it: a new environment
links to everything in this one except the packages. Processes that its tests start, Ray's too, run in it.
"""

import re
import shutil
import sys
import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path


def _files_of(package: str, site: Path) -> set[Path]:
    """What a package put into the folder of packages, at its top."""
    installed = distribution(package).files or ()
    return {site / file.parts[0] for file in installed if ".." not in file.parts}


def make_environment(folder: Path, without: list[str]) -> None:
    """Make the environment in `folder`, which is replaced."""
    here, site = Path(sys.prefix), Path(sysconfig.get_path("purelib"))
    left_out = set().union(*(_files_of(package, site) for package in without))
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    its_site = folder / site.relative_to(here)
    for file in site.iterdir():
        if file not in left_out:
            (its_site / file.name).symlink_to(file)
    for command in (here / "bin").iterdir():
        place = folder / "bin" / command.name
        if place.exists() or not command.is_file():
            continue
        content = command.read_bytes()
        if re.match(rb"#!.*/bin/python", content):  # it must start this environment's Python
            place.write_bytes(re.sub(rb".*", f"#!{folder}/bin/python".encode(), content, count=1))
            place.chmod(0o755)
        else:
            place.symlink_to(command)


if __name__ == "__main__":
    make_environment(Path(sys.argv[1]).absolute(), sys.argv[2:])

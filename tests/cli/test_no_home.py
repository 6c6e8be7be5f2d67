"""Commands work without a warning if the user's home folder is not writable."""

import os
import subprocess
import sys


def test_pictures_are_drawn_without_a_word(tmp_path) -> None:
    code = """
from w3ray.cli import main
assert main(["run", "--help"]) == 0
from matplotlib import font_manager
from matplotlib.figure import Figure
Figure().savefig("x.png")
"""
    environment = {name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"HOME": "/dev/null/x"}, cwd=tmp_path, capture_output=True,
        text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x.png").is_file()

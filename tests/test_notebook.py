"""The notebook: it is its script, and the script runs from a folder of clips to a film."""

import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_the_notebook_is_the_script() -> None:
    notebook, script = (jupytext.read(EXAMPLES / name) for name in ("quickstart.ipynb", "quickstart.py"))
    cells = [[(cell.cell_type, cell.source) for cell in one.cells] for one in (notebook, script)]
    assert cells[0] == cells[1], "run: jupytext --to ipynb examples/quickstart.py"
    assert len(cells[0]) > 8
    assert not any(cell.get("outputs") for cell in notebook.cells), "a committed notebook has no output"


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "quickstart.py"], cwd=tmp_path, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "student" in done.stdout
    assert len(list((tmp_path / "explained").glob("*.film.mp4"))) == 1

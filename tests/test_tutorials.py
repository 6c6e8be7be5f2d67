"""Each tutorial works: its blocks are run as they stand, from top to bottom, in an empty folder.

A block without a language is shell. A Python or YAML block whose first line is `# NAME.py` or `# NAME.yaml` is a file
of that name; another Python block is run. Blocks of `text` show what is printed. Each page is one shell script, so
variables and background processes live from block to block.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
TUTORIALS = sorted(path for path in (REPO / "docs" / "tutorials").glob("*.md") if path.stem != "index")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.-]+\.(?:py|yaml))\n")

EXPECTED = {
    "explain": ["explained/*.strip.png", "explained/*.stages.png", "explained/*.film.mp4", "both/*.strip.png"],
    "fine-tune": ["runs/evaluations/test-*", "runs/stages/teacher-*/report"],
    "local-cluster": ["runs/stages/teacher-*/result.json"],
    "long-video": ["timelines/long.json", "timelines/long.csv", "timelines/long.srt", "timelines/long.png"],
    "own-attention": ["runs/stages/squeeze-*/model", "runs/stages/w3-*/model"],
    "several-labels": ["runs/evaluations/val-*", "runs/evaluations/test-*"],
    "sweep": ["best.yaml", "runs/sweeps/rates"],
    "uneven-classes": ["runs/stages/teacher-*/report/per_class.csv"],
}
"""Tutorial -> files that must be there at its end. A pattern may name several."""

SAID = {
    "explain": "gates over these videos",
    "fine-tune": "left out: classifier.weight, classifier.bias",
    "local-cluster": "teacher",
    "long-video": "segment",
    "own-attention": "my_squeeze",
    "several-labels": "multi-label",
    "sweep": "# stage student  reuse",
    "uneven-classes": "opens",
}
"""Tutorial -> words that its commands must print."""


def script_of(page: Path) -> str:
    """The shell script that does what a reader of the page does."""
    parts = []
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        name = FILE.match(text)
        if language in ("python", "yaml") and name:
            parts.append(f"cat > {name[1]} <<'END_OF_FILE'\n{text}END_OF_FILE\n")
        elif language == "python":
            parts.append(f"python - <<'END_OF_FILE'\n{text}END_OF_FILE\n")
        elif not language:
            parts.append(text)
        else:
            assert language == "text", f"{page.name}: what should a test do with a block of {language!r}?"
    return "\n".join(parts)


def test_every_tutorial_is_known() -> None:
    names = [page.stem for page in TUTORIALS]
    assert names == sorted(EXPECTED) == sorted(SAID)
    assert all(script_of(page).count("w3ray ") >= 2 for page in TUTORIALS)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_works_as_it_stands(page: Path, tmp_path: Path) -> None:
    commands = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "COLUMNS": "200",
    }
    for name in ("RAY_ADDRESS", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"):  # a local cluster of this process set them
        environment.pop(name, None)
    log = tmp_path.parent / f"{page.stem}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-euxo", "pipefail", "-c", script_of(page)],
            cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait()
        finally:  # nodes of a cluster that a failed page left behind
            if _group_lives(process.pid):
                os.killpg(process.pid, signal.SIGTERM)
    said = log.read_text(errors="replace")
    assert code == 0, said[-4000:]
    assert SAID[page.stem] in said
    for pattern in EXPECTED[page.stem]:
        assert list(tmp_path.glob(pattern)), f"no {pattern}"


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True

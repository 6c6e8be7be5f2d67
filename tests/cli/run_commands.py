"""Runs commands of w3ray in sequence in one process: `run_commands.py FILE.json`.

The file holds a list of commands, each a list of words. Next to it, `N.out` and `N.err` get the output of command
number N, and `codes.json` gets all exit codes.
"""

import json
import os
import sys
from pathlib import Path

from w3ray.cli import main


def into(path: Path, descriptor: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, descriptor)
    os.close(file)


if __name__ == "__main__":
    asked = Path(sys.argv[1])
    codes = []
    for number, words in enumerate(json.loads(asked.read_text(encoding="utf-8"))):
        into(asked.with_name(f"{number}.out"), 1)
        into(asked.with_name(f"{number}.err"), 2)
        codes.append(main(words))
    asked.with_name("codes.json").write_text(json.dumps(codes))

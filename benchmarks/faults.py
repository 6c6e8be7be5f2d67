"""The cost of each fault for a run. Runs the tests in tests/faults, which cause the faults, and keeps their rows.

    python benchmarks/faults.py [arguments of pytest, such as -k "controller or decoder"]

A row says: did the run end; how many optimiser steps were repeated; how many samples are missing, or occur twice, in
the history that counts; seconds from the fault to the end of the longest pause after it; whether the final weights are
bit-identical to those of the undisturbed run (null: the number of workers changed); and the measured commit. Rows of
faults that were not requested are kept.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import REPO, RESULTS, commit, write_result


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.touch()
        tests = subprocess.run(
            [sys.executable, "-m", "pytest", "tests/faults", "-q", "-p", "no:warnings", *arguments],
            cwd=REPO,
            env={**os.environ, "W3RAY_FAULT_ROWS": str(rows), "OMP_NUM_THREADS": "1"},
        )
        now = commit()
        fresh = {row["fault"]: {**row, "commit": now} for row in map(json.loads, rows.read_text().splitlines())}
    path = RESULTS / "faults.json"
    kept = json.loads(path.read_text())["figures"] if arguments and path.exists() else []
    merged = {row["fault"]: row for row in kept} | fresh
    path = write_result("faults", list(merged.values()), " ".join(["python benchmarks/faults.py", *arguments]))
    print(f"{path}: {len(fresh)} rows measured, {len(merged) - len(fresh)} kept")
    for row in merged.values():
        seconds = "-" if row["recovery_s"] is None else f"{row['recovery_s']:.1f} s"
        print(
            f"{row['fault']:<75} again {row['steps_again']}  lost {row['lost']}  doubled {row['doubled']}  "
            f"identical {row['identical']}  {seconds}"
        )
    sys.exit(tests.returncode)


if __name__ == "__main__":
    main(sys.argv[1:])

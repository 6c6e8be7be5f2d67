"""Seconds and memory of an import of a CSV file with 12 million rows.

    python benchmarks/imports.py [--rows 12000000] [--work FOLDER]

Writes the file (path, label, split, group) to a temporary folder. Imports it with the command `w3ray data import csv
--missing-ok`, once with splits from the column and once with random splits, each in its own process. The comparison is
a process that only reads the file with `csv.DictReader` and keeps nothing. Ratios are of processor time, because other
work on the machine changes it less than wall-clock time. Memory is the peak of resident memory of the process; the same
command with two rows is measured, too. Writes `results/imports.json`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from _common import W3RAY, write_result

MIB = 2**20
SPLITS = ("column", "random")
_LOOP = "import csv, sys\nfor row in csv.DictReader(open(sys.argv[1], newline='')): pass"


def write_rows(path: Path, rows: int) -> Path:
    """Write the rows: a thousand videos per folder, 400 classes, 5,000 groups."""
    with path.open("w") as file:
        file.write("path,label,split,group\n")
        for i in range(rows):
            split = "val" if i % 10 == 7 else "train"
            file.write(
                f"videos/{i // 1000:05d}/{i:08d}.mp4,action {i * 7919 % 400:03d},{split},subject {i // 977 % 5000}\n"
            )
    return path


def measured(command: list[str], log: Path) -> dict[str, float]:
    """Seconds, processor time and peak resident memory of a process."""
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)}: failed, see {log}\n{log.read_text()[-2000:]}")
    return {
        "seconds": time.monotonic() - began,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_memory_mib": usage.ru_maxrss / 1024,
    }


def imported(source: Path, work: Path, split: str) -> dict[str, Any]:
    out = work / f"{split}.parquet"
    words = ["data", "import", "csv", str(source), "--missing-ok", "--split", split, "--out", str(out), "--json"]
    found = measured([str(W3RAY), *words], work / "import.log")
    document = json.loads((work / "import.log").read_text())
    table = sum(pq.read_table(out, columns=[name]).nbytes for name in pq.read_schema(out).names)
    return {
        **found,
        "clips": document["clips"],
        "splits": document["splits"],
        "table_mib": table / MIB,
        "manifest_file_mib": out.stat().st_size / MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_000_000)
    parser.add_argument(
        "--work", type=Path, default=None, help="where the temporary folder is made (else the system's)"
    )
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="w3ray-imports-", dir=options.work))
    try:
        source = write_rows(work / "list.csv", options.rows)
        two = imported(write_rows(work / "two.csv", 2), work, "column")
        loop = measured([sys.executable, "-c", _LOOP, str(source)], work / "loop.log")
        figures: dict[str, Any] = {
            "rows": options.rows,
            "csv_mib": source.stat().st_size / MIB,
            "load_before": os.getloadavg()[0],
            "dict_reader": loop,
            "two_rows": {name: two[name] for name in loop},
        }
        for split in SPLITS:
            found = imported(source, work, split)
            found["cpu_to_dict_reader"] = found["cpu_s"] / loop["cpu_s"]
            found["memory_to_table"] = (found["peak_memory_mib"] - two["peak_memory_mib"]) / found["table_mib"]
            figures[split] = found
            print(split, json.dumps(found), flush=True)
        print(json.dumps(figures, indent=1))
        if options.rows >= 12_000_000:  # a smaller run is only a trial
            print(write_result("imports", figures, "python benchmarks/imports.py"))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()

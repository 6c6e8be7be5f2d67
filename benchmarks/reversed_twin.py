"""Forwards or backwards? Real clips in both directions, models with and without time, pairs in one batch and apart.

    python benchmarks/reversed_twin.py DATA/ut-interaction/list.csv

Imports the set with w3ray's own command, runs the shipped recipe for each arm and seed, and writes
`results/reversed-twin.json`: top-1 on the training clips and on the held-out clips.
"""

import argparse
import subprocess
from pathlib import Path
from typing import Any

from _common import W3RAY, run_recipe, spread, write_result

ARMS = {
    "tsm": [],
    "tsm_pairs_apart": ["--set", "train.rows_together=1"],
    "tsm_w3": ["--set", "model.attention={kind: w3, reduction: 16}"],
    "tsn": ["--set", "model.name=tsn"],
}


def run_arm(manifest: Path, work: Path, arm: str, seed: int) -> dict[str, Any]:
    settings = ["--storage", str(work), "--set", f"data.manifest={manifest}", "--set", f"seed={seed}"]
    document = run_recipe(["reversed-twin", *settings, *ARMS[arm]], work / "log")
    stage = document["stages"][0]
    row = {
        "arm": arm,
        "seed": seed,
        "top1_trained": stage["validation"]["top1"],
        "top1_held_out": stage["metrics"]["top1"],
        "wall_s": document["wall_s"],
    }
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list_csv", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/reversed-twin"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    manifest = work / "reversed-twin.parquet"
    importing = [str(W3RAY), "data", "import", "csv", str(options.list_csv), "--reversed-twin", "--out", str(manifest)]
    subprocess.run(importing, check=True)
    figures: dict[str, Any] = {}
    for arm in ARMS:
        rows = [run_arm(manifest, work, arm, seed) for seed in options.seeds]
        summary = {name: spread([row[name] for row in rows]) for name in ("top1_trained", "top1_held_out")}
        figures[arm] = {"summary": summary, "runs": rows}
    seeds = " ".join(map(str, options.seeds))
    command = f"python benchmarks/reversed_twin.py DATA/ut-interaction/list.csv --seeds {seeds}"
    print(write_result("reversed-twin", figures, command))


if __name__ == "__main__":
    main()

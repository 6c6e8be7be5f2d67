"""The chain on the two real labelled sets, with W3 and without attention: same seeds, same schedule, same clips.

    python benchmarks/real_data.py ut-interaction DATA/ut-interaction/list.csv
    python benchmarks/real_data.py tank-state DATA/tank-state/list.csv

Imports the set with the product's own command, runs the shipped recipe for each arm (and each fold, where the recipe
has folds) and writes `results/<recipe>.json`.
"""

import argparse
import subprocess
from pathlib import Path
from typing import Any

from _common import W3RAY, run_recipe, spread, write_result

IMPORT_OPTIONS = {
    "ut-interaction": [
        "--classes",
        "hand shaking,hugging,kicking,pointing,punching,pushing",
        "--flip-map",
        "identity",
    ],
    "tank-state": [],
}
FOLDS = {"ut-interaction": 5, "tank-state": None}
ARMS = {"w3": [], "plain": ["--set", "model.attention=null"]}
METRICS = ("top1", "mean_class_accuracy", "loss")


def run_arm(recipe: str, manifest: Path, work: Path, arm: str, seed: int) -> list[dict[str, Any]]:
    """One row a fold: the metrics of each stage and the seconds of the run."""
    rows = []
    folds = FOLDS[recipe]
    for fold in range(folds or 1):
        arguments = [recipe, "--storage", str(work), "--set", f"data.manifest={manifest}", "--set", f"seed={seed}"]
        if folds:
            arguments += ["--set", f"data.fold={fold}", "--set", f"data.folds={folds}"]
        document = run_recipe([*arguments, *ARMS[arm]], work / f"{recipe}.log")
        stages = {stage["name"]: {m: stage["metrics"][m] for m in METRICS} for stage in document["stages"]}
        rows.append({"fold": fold if folds else None, "seed": seed, "stages": stages, "wall_s": document["wall_s"]})
        print(recipe, arm, rows[-1], flush=True)
    return rows


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over folds (clips of a fold count alike: folds differ by a clip or two)."""
    return {
        stage: {metric: spread([row["stages"][stage][metric] for row in rows]) for metric in METRICS}
        for stage in rows[0]["stages"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=sorted(IMPORT_OPTIONS))
    parser.add_argument("list_csv", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/real-data"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    manifest = work / f"{options.recipe}.parquet"
    importing = [str(W3RAY), "data", "import", "csv", str(options.list_csv), "--out", str(manifest)]
    subprocess.run([*importing, *IMPORT_OPTIONS[options.recipe]], check=True)
    arms = {arm: run_arm(options.recipe, manifest, work, arm, options.seed) for arm in ARMS}
    figures = {arm: {"summary": summarise(rows), "runs": rows} for arm, rows in arms.items()}
    print(write_result(options.recipe, figures, f"python benchmarks/real_data.py {options.recipe} DATA/list.csv"))


if __name__ == "__main__":
    main()

"""The complete workflow on the two real labelled sets, with W3 and without attention, everything else equal.

    python benchmarks/real_data.py ut-interaction DATA/ut-interaction/list.csv
    python benchmarks/real_data.py tank-state DATA/tank-state/list.csv

    import -> for each fold: (run -> evaluate by each protocol) of each arm -> compare the arms

Everything runs with w3ray's own commands and the shipped recipe. `results/<recipe>.json` is written after every fold
and lists its folds. The arms are the inner loop, so a subset of the folds is a paired result, too. If it is killed, the
same command resumes: existing stages and scores are reused.

The clips of all folds are pooled. Each clip is scored by the model that never saw its group. Intervals are by clip and
by group. Clips of a sequence or a camera resemble each other, so intervals by clip are too narrow.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from _common import W3RAY, run_recipe, spread, write_result

from w3ray.data.manifest import Manifest, read_manifest
from w3ray.evaluation.uncertainty import bootstrap_interval, calibration, paired_difference
from w3ray.scoring.clip_scores import read_scores
from w3ray.scoring.measure import right

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
# The second arm is compared with the first.
ARMS = {"plain": ["model.attention=null"], "w3": []}
PROTOCOLS = ("1clip-center", "3crop-2clip")
STAGE_METRICS = ("top1", "mean_class_accuracy", "loss")
EVALUATED = ("top1", "top1_interval", "mean_class_accuracy", "loss", "calibration_error")


def command(log: Path, *arguments: str) -> dict[str, Any]:
    """Run a command of w3ray with `--json`, and return its document."""
    with log.open("a") as errors:
        done = subprocess.run([str(W3RAY), *arguments, "--json"], stdout=subprocess.PIPE, stderr=errors, text=True)
    if done.returncode != 0:
        raise SystemExit(f"w3ray {' '.join(arguments)}: exit code {done.returncode}, see {log}\n{done.stdout}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def run_arm(recipe: str, manifest: Path, work: Path, settings: Sequence[str], fold: int | None) -> dict[str, Any]:
    """Run the chain, and score its last model with each protocol. `evaluations` are folders until they are compared."""
    log, folds = work / f"{recipe}.log", FOLDS[recipe]
    settings = [f"data.manifest={manifest}", *settings]
    if folds:
        settings += [f"data.fold={fold}", f"data.folds={folds}"]
    document = run_recipe([recipe, "--storage", str(work), *(x for one in settings for x in ("--set", one))], log)
    stages = {
        stage["name"]: {"state": stage["state"], **{metric: stage["metrics"][metric] for metric in STAGE_METRICS}}
        for stage in document["stages"]
    }
    dealt = ["--fold", str(fold), "--folds", str(folds)] if folds else []
    asked = [document["stages"][-1]["model"], "--manifest", str(manifest), "--split", "val", *dealt]
    evaluations = {
        protocol: command(log, "evaluate", *asked, "--protocol", protocol, "--storage", str(work))
        for protocol in PROTOCOLS
    }
    # The seconds of a run that reused finished stages mean nothing.
    wall_s = document["wall_s"] if all(stage["state"] == "run" for stage in document["stages"]) else None
    return {"fold": fold, "stages": stages, "wall_s": wall_s, "evaluations": evaluations}


def compared(rows: dict[str, dict[str, Any]], log: Path) -> dict[str, Any]:
    """The result of `w3ray compare` for the arms on one fold, by protocol."""
    answers = {}
    for protocol in PROTOCOLS:
        folders = [row["evaluations"][protocol]["directory"] for row in rows.values()]
        *_, answer = command(log, "compare", *folders)["compared"]
        answers[protocol] = {name: value for name, value in answer.items() if name not in ("directory", "models")}
    return answers


class Pooled:
    """The clips of all folds for one arm and one protocol."""

    def __init__(self, rows: Sequence[dict[str, Any]], protocol: str, manifest: Manifest) -> None:
        parts = [read_scores(row["evaluations"][protocol]["directory"])[1] for row in rows]
        self.clip_ids = [clip for part in parts for clip in part.clip_ids]
        if len(set(self.clip_ids)) != len(self.clip_ids):
            raise SystemExit("a clip was scored in two folds")
        self.right_N = np.concatenate([right(part, manifest.heads) for part in parts])
        self.labels_N = np.concatenate([part.labels for part in parts])
        self.scores_NK = np.concatenate([part.scores for part in parts])
        groups = dict(zip(*(manifest.table[column].to_pylist() for column in ("clip_id", "group")), strict=True))
        self.groups_N = [groups[clip] for clip in self.clip_ids]

    def figures(self) -> dict[str, Any]:
        of_class = {int(label): self.right_N[self.labels_N == label] for label in np.unique(self.labels_N)}
        return {
            "clips": len(self.clip_ids),
            "groups": len(set(self.groups_N)),
            "top1": float(self.right_N.mean()),
            "top1_interval_by_clip": bootstrap_interval(self.right_N),
            "top1_interval_by_group": bootstrap_interval(self.right_N, self.groups_N),
            "majority_share": max(map(len, of_class.values())) / len(self.clip_ids),
            "mean_class_accuracy": float(np.mean([hits.mean() for hits in of_class.values()])),
            "calibration_error": calibration(self.scores_NK, self.labels_N).expected_error,
        }


def pooled_difference(first: Pooled, second: Pooled) -> dict[str, Any]:
    """The second arm minus the first one, over the clips of all folds. The p value is by clip."""
    if first.clip_ids != second.clip_ids:
        raise SystemExit("the arms scored different clips")
    by_clip = paired_difference(first.right_N, second.right_N)
    by_group = paired_difference(first.right_N, second.right_N, first.groups_N)
    answer = asdict(by_clip)
    answer["interval_by_clip"] = answer.pop("interval")
    return {**answer, "interval_by_group": by_group.interval}


def figures(done: Sequence[dict[str, Any]], recipe: str, manifest: Manifest, seed: int) -> dict[str, Any]:
    """The figures of all folds that are done."""
    rows = {arm: [fold["arms"][arm] for fold in done] for arm in ARMS}
    pooled = {protocol: {arm: Pooled(rows[arm], protocol, manifest) for arm in ARMS} for protocol in PROTOCOLS}
    return {
        "seed": seed,
        "folds": FOLDS[recipe],
        "folds_done": [fold["fold"] for fold in done],
        "arms": {arm: {"summary": summarise(rows[arm]), "runs": [shown(row) for row in rows[arm]]} for arm in ARMS},
        "pooled": {
            protocol: {
                **{arm: one.figures() for arm, one in arms.items()},
                "difference": {"of": "w3 minus plain", **pooled_difference(arms["plain"], arms["w3"])},
            }
            for protocol, arms in pooled.items()
        },
        "compared": [{"fold": fold["fold"], **fold["compared"]} for fold in done],
    }


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over folds. Folds count equally, because their sizes differ by only a clip or two."""
    return {
        stage: {metric: spread([row["stages"][stage][metric] for row in rows]) for metric in STAGE_METRICS}
        for stage in rows[0]["stages"]
    }


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """The stored form of a row: only the figures of each evaluation."""
    evaluations = {
        protocol: {name: found["metrics"][name] for name in EVALUATED} for protocol, found in row["evaluations"].items()
    }
    return {**row, "evaluations": evaluations}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=sorted(IMPORT_OPTIONS))
    parser.add_argument("list_csv", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/real-data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="as for `w3ray run`; the result's command names it")
    parser.add_argument("--result", help="name of the file in results/; default: the recipe's")
    options = parser.parse_args()
    recipe, work, folds = options.recipe, options.work.absolute(), FOLDS[options.recipe]
    work.mkdir(parents=True, exist_ok=True)
    made, log = work / f"{recipe}.parquet", work / f"{recipe}.log"
    importing = [str(W3RAY), "data", "import", "csv", str(options.list_csv), "--out", str(made)]
    subprocess.run([*importing, *IMPORT_OPTIONS[recipe]], check=True)
    manifest = read_manifest(made)
    shared = [f"seed={options.seed}", *options.set]
    typed = "".join(f" --set {setting}" for setting in options.set)
    done = []
    for fold in range(folds) if folds else [None]:
        arms = {}
        for arm, settings in ARMS.items():
            arms[arm] = run_arm(recipe, made, work, [*shared, *settings], fold)
            print(recipe, arm, json.dumps(shown(arms[arm])), flush=True)
        done.append({"fold": fold, "arms": arms, "compared": compared(arms, log)})
        found = figures(done, recipe, manifest, options.seed)
        where = f"python benchmarks/real_data.py {recipe} DATA/{recipe}/list.csv{typed}"
        print(write_result(options.result or recipe, found, where), flush=True)


if __name__ == "__main__":
    main()

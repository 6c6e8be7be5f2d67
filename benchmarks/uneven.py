"""Does anything that training can do about uneven classes help the rare ones?

    python benchmarks/uneven.py DATA

DATA is the folder of the real sets. The set is `tank-state`: four classes, 0.69 of the held-out clips are of one. Plain
TSM is trained from scratch on 56 pixels for ten epochs, as in `attention_study.py`, with seven settings and five seeds.
All settings of a seed see the same clips with the same crops, as far as their sampling allows it.

The rule, written before the first run: a setting helps if its mean class accuracy on the held-out clips is above that
of the setting "plain" with p < 0.05 in a paired t-test over the seeds, after Holm's correction over the six settings.
Top-1 and the recall of each class are described and decide nothing.

Writes `results/uneven.json`.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from _attention_figures import holm
from _common import W3RAY, rounded, spread, write_result

SEEDS = range(60, 65)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "sampling-balanced": {"train.sampling": "balanced"},
    "sampling-sqrt": {"train.sampling": "sqrt"},
    "weights-balanced": {"train.class_weights": "balanced"},
    "weights-effective": {"train.class_weights": "effective"},
    "focal": {"train.focal_gamma": 2.0},
    "logit-adjustment": {"train.logit_adjustment": 1.0},
}
SETTINGS: dict[str, Any] = {
    "data.size": 56,
    "train.epochs": 10,
    "train.best_metric": "last",
    "train.validate_every_epochs": 1000,
    "train.checkpoint_every_epochs": 1000,
    "model.attention": None,
    "stages": [{"name": "teacher"}],
    "tracking.enabled": False,
    "seed": SEEDS.start,
}
WORK = Path("runs/uneven").absolute()


def trained(data: Path) -> list[dict[str, Any]]:
    """One record for each setting and seed."""
    import w3ray
    from w3ray.sweep.records import SweepFolder
    from w3ray.sweep.space import Space

    WORK.mkdir(parents=True, exist_ok=True)
    manifest = WORK / "tank-state.parquet"
    command = [str(W3RAY), "data", "import", "csv", str(data / "tank-state" / "list.csv"), "--out", str(manifest)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    space = Space.model_validate(
        {
            "name": "uneven",
            # A grid has every case; a value of the base recipe has to be written out in each of them.
            "cases": {name: {"train.focal_gamma": 0.0, **values} for name, values in CASES.items()},
            "search": {"searcher": "grid", "repeats": len(SEEDS)},
        }
    )
    settings = {**SETTINGS, "storage": str(WORK), "data.manifest": str(manifest)}
    ended = {"n": 0}

    def tell(status: Any) -> None:
        done = sum(trial.ended for trial in status.book.trials)
        if done != ended["n"]:
            ended["n"] = done
            print(f"{time.strftime('%H:%M:%S')} {done} of {len(CASES) * len(SEEDS)}", flush=True)

    w3ray.tune(space, "tank-state", overrides=[f"{key}={json.dumps(value)}" for key, value in settings.items()],
               on_status=tell)  # fmt: skip
    records = []
    for trial in SweepFolder(str(WORK), space.name).trials():
        if trial.state != "finished":
            raise SystemExit(f"trial {trial.id}: {trial.state}: {trial.reason}")
        (stage,) = trial.stages
        report = WORK / "stages" / f"{stage.name}-{stage.identity[:12]}" / "report" / "per_class.json"
        found = json.loads(report.read_text())
        records.append(
            {
                "case": trial.point["case"],
                "seed": SEEDS.start + trial.repeat,
                "top1": found["result"]["top1"],
                "mean_class_accuracy": found["result"]["mean_class_accuracy"],
                "recall": {row["class"]: row["top1"] for row in found["classes"]},
            }
        )
    return records


def figures_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Each setting's figures, and its difference from "plain"."""
    from scipy.stats import ttest_rel

    by_case = {name: sorted((one for one in records if one["case"] == name), key=lambda one: one["seed"])
               for name in CASES}  # fmt: skip
    plain = [one["mean_class_accuracy"] for one in by_case["plain"]]
    rows: dict[str, Any] = {}
    for name, ours in by_case.items():
        values = [one["mean_class_accuracy"] for one in ours]
        rows[name] = {
            "mean_class_accuracy": spread(values),
            "top1": spread([one["top1"] for one in ours]),
            "recall": {label: spread([one["recall"][label] for one in ours])["mean"] for label in ours[0]["recall"]},
        }
        if name != "plain":
            difference = [a - b for a, b in zip(values, plain, strict=True)]
            rows[name] |= {"difference": spread(difference), "p": float(ttest_rel(values, plain).pvalue)}
    corrected = holm({name: row["p"] for name, row in rows.items() if "p" in row}, len(CASES) - 1)
    for name, p in corrected.items():
        rows[name] |= {"p_corrected": p, "helps": p < 0.05 and rows[name]["difference"]["mean"] > 0}
    return {"settings": rows, "helps": [name for name, row in rows.items() if row.get("helps")], "records": records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    figures = figures_of(trained(options.data.absolute()))
    print(f"wrote {write_result('uneven', rounded(figures), 'python benchmarks/uneven.py DATA')}")
    for name, row in figures["settings"].items():
        print(f"{name:<20}{row['mean_class_accuracy']['mean']:.3f}  top-1 {row['top1']['mean']:.3f}", end="")
        print(f"  {row['difference']['mean']:+.3f} p {row['p_corrected']:.3g}" if "p" in row else "")


if __name__ == "__main__":
    main()

"""What does a sweep cost beside its training, and what does it save?

    python benchmarks/sweep.py [--only PART ...]

Parts:
  overhead   16 trials of a student that trains for about five seconds: wall-clock of the search against the bare sum of
             training seconds spread over the slots, and where the rest goes
  sharing    `mfr_only` (8 values): optimiser steps against those of the naive sweep (8 teachers and 8 students),
             without and with ASHA, and whether ASHA finds a value within noise of the best

Parts that are not named keep the figures they have in `results/sweep.json`. Each sweep is the command itself, with a
Ray and a storage of its own.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from _common import RESULTS, W3RAY, write_result

from w3ray.sweep.records import SweepFolder, Trial
from w3ray.sweep.space import load_space

MFR = "stages.student.loss_weights.mfr"
OVERHEAD_TRIALS = 16


def sweep(work: Path, name: str, space: dict[str, Any], *settings: str) -> tuple[dict[str, Any], list[Trial]]:
    """One `w3ray tune` of the quickstart recipe; its document with `wall_s`, and its trials."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(space))
    options = [option for setting in settings for option in ("--set", setting)]
    command = [str(W3RAY), "tune", str(path), "--pipeline", "quickstart", "--storage", str(work / "runs"), *options]
    started = time.monotonic()
    with (work / f"{name}.log").open("w") as log:
        done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, stderr=log, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    document = json.loads(done.stdout)
    return {**document, "wall_s": time.monotonic() - started}, SweepFolder(str(work / "runs"), name).trials()


def overhead(work: Path) -> dict[str, Any]:
    values = [round(0.05 * number, 2) for number in range(1, OVERHEAD_TRIALS + 1)]
    short = {"name": "teacher", "parameters": {MFR: {"choice": [0.01]}}, "search": {"searcher": "grid"}}
    clips = "data.synthetic={clips: 160, val_clips: 32, test_clips: 32, seed: 0, size: 56}"
    # The teacher is there before the clock starts: it is no part of the question.
    sweep(work, "teacher", short, clips, "train.epochs=2")
    space = {"name": "sixteen", "parameters": {MFR: {"choice": values}}, "search": {"searcher": "grid"}}
    document, trials = sweep(work, "sixteen", space, clips, "train.epochs=2")
    slots = 2
    training = [trial.overhead["total_s"] - trial.overhead["outside_steps_s"] for trial in trials]
    bare_s = sum(training) / slots
    search_s = document["seconds"]
    first = [trial.overhead["to_first_step_s"] for trial in trials]
    total = [trial.overhead["total_s"] for trial in trials]
    return {
        "trials": len(trials),
        "slots": slots,
        "training_s_a_trial": statistics.fmean(training),
        "bare_s": bare_s,
        "wall_s": document["wall_s"],
        "ratio": search_s / bare_s,
        "of_a_trial_s": {
            "whole": statistics.fmean(total),
            "to_first_step": statistics.fmean(first),
            "training_steps": statistics.fmean(training),
            "after_and_between_steps": statistics.fmean(total) - statistics.fmean(first) - statistics.fmean(training),
        },
        "before_and_after_the_trials_s": document["wall_s"] - sum(total) / slots,
    }


def sharing(work: Path) -> dict[str, Any]:
    clips = "data.synthetic={clips: 160, val_clips: 64, test_clips: 64, seed: 0, size: 56}"
    figures: dict[str, Any] = {}
    space = load_space("mfr_only").to_dict()
    for name, scheduling in (("alone", {}), ("asha", {"scheduler": "asha", "grace_epochs": 1, "reduction_factor": 3})):
        document, trials = sweep(
            work / name, name, {**space, "name": name, "scheduling": scheduling}, clips, "train.epochs=9"
        )
        stages = {stage.name: stage.total_steps for trial in trials for stage in trial.stages if stage.total_steps}
        naive = len(trials) * sum(stages.values())
        trained = sum(stage.steps for trial in trials for stage in trial.stages)
        figures[name] = {
            "naive_steps": naive,
            "steps": trained,
            "share_of_naive": trained / naive,
            "teachers": sum(stage.name == "teacher" and stage.steps > 0 for trial in trials for stage in trial.stages),
            "best_mfr": document["points"][0]["point"][MFR],
            "best_top1": document["points"][0]["values"][0],
            "top1_by_mfr": {str(trial.point[MFR]): (trial.values or (None,))[0] for trial in trials},
            "stopped": sum(trial.state == "stopped" for trial in trials),
            "wall_s": document["wall_s"],
        }
        figures[name]["bound_share"] = (stages["teacher"] + 8 * stages["student"]) / naive
    reached = figures["alone"]["top1_by_mfr"]
    figures["asha_value_without_stopping"] = reached[str(figures["asha"]["best_mfr"])]
    figures["gap_to_best"] = figures["alone"]["best_top1"] - figures["asha_value_without_stopping"]
    return figures


PARTS = {"overhead": overhead, "sharing": sharing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    only = parser.parse_args().only
    path = RESULTS / "sweep.json"
    figures = json.loads(path.read_text())["figures"] if path.exists() else {}
    for name in only:
        with tempfile.TemporaryDirectory(prefix="w3ray-benchmark-") as folder:
            figures[name] = PARTS[name](Path(folder))
        print(name, json.dumps(figures[name], indent=1), flush=True)
        write_result("sweep", figures, f"python benchmarks/sweep.py --only {' '.join(only)}")


if __name__ == "__main__":
    main()

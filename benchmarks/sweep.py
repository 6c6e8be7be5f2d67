"""The cost of a sweep in addition to its training, and what it saves.

    python benchmarks/sweep.py [--only PART ...]

Parts:
  overhead   16 trials on two slots, of a student that trains for about five seconds: wall-clock of the whole command,
             compared with bare training (plain loops, `_plain_trial.py`, in as many processes at once, spread over the
             slots); and where the rest goes. Once with shared clips, and once with trials that each decode their own
             clips, like the plain loops
  sharing    `mfr_only` (8 values): optimiser steps compared with those of the naive sweep (8 teachers and 8 students),
             without and with ASHA, and whether ASHA finds a value within noise of the best one
  trackers   32 processes record what a tiny trial records, in one SQLite file and on one MLflow server on PostgreSQL.
             They do not train, because so many would not fit the machine. Points lost; points and runs recorded twice

Parts that are not named keep their figures in `results/sweep.json`. Each sweep is the real command, with its own Ray
and storage.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from _common import REPO, RESULTS, W3RAY, spread, write_result

from w3ray.sweep.records import SweepFolder, Trial
from w3ray.sweep.space import load_space

MFR = "stages.student.loss_weights.mfr"
OVERHEAD_TRIALS = 16
SLOTS = 2


def sweep(work: Path, name: str, space: dict[str, Any], *settings: str) -> tuple[dict[str, Any], list[Trial]]:
    """Run `w3ray tune` once with the quickstart recipe. Returns its document with `wall_s`, and its trials."""
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


def plain_training(work: Path, *settings: str) -> list[float]:
    """Seconds that a plain loop takes for the training of a trial, several times, in one process per slot."""
    command = [sys.executable, str(Path(__file__).with_name("_plain_trial.py")), "4", str(work / "runs"), *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(SLOTS)]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{' '.join(command)}: failed")
    return [seconds for output in outputs for seconds in json.loads(output)[1:]]  # the first one warms up


def overhead(work: Path) -> dict[str, Any]:
    values = [round(0.05 * number, 2) for number in range(1, OVERHEAD_TRIALS + 1)]
    short = {"name": "teacher", "parameters": {MFR: {"choice": [0.01]}}, "search": {"searcher": "grid"}}
    settings = ("data.synthetic={clips: 128, val_clips: 32, test_clips: 32, seed: 0, size: 56}", "train.epochs=2")
    # The teacher is trained before the clock starts, because it is not part of the question.
    sweep(work, "teacher", short, *settings)
    plain = plain_training(work, *settings)
    each = ("data.shared_clips_gib=0",)
    grid = {"parameters": {MFR: {"choice": values}}, "search": {"searcher": "grid"}}
    sweeps = {
        "as_it_is": sweep(work, "sixteen", {"name": "sixteen", **grid}, *settings),
        # In another storage: here the trials would find the students.
        "each_decodes_for_itself": _apart(work / "apart", short, {"name": "sixteen", **grid}, *settings, *each),
    }
    plain += plain_training(work, *settings)
    bare_s = OVERHEAD_TRIALS * statistics.fmean(plain) / SLOTS
    figures: dict[str, Any] = {
        "trials": OVERHEAD_TRIALS,
        "slots": SLOTS,
        "plain_training_s": spread(plain),
        "bare_s": bare_s,
    }
    return figures | {name: _shares(document, trials, bare_s) for name, (document, trials) in sweeps.items()}


def _apart(
    work: Path, teacher: dict[str, Any], space: dict[str, Any], *settings: str
) -> tuple[dict[str, Any], list[Trial]]:
    sweep(work, "teacher", teacher, *settings)
    return sweep(work, "sixteen", space, *settings)


def _shares(document: dict[str, Any], trials: list[Trial], bare_s: float) -> dict[str, Any]:
    total = [trial.overhead["total_s"] for trial in trials]
    inside = [trial.overhead["total_s"] - trial.overhead["outside_steps_s"] for trial in trials]
    first = [trial.overhead["to_first_step_s"] for trial in trials]
    return {
        "wall_s": document["wall_s"],
        "ratio": document["wall_s"] / bare_s,
        "ratio_while_trials_run": sum(total) / SLOTS / bare_s,
        "of_a_trial_s": {
            "whole": spread(total),
            "first_ones": statistics.fmean(total[:SLOTS]),
            "later_ones": statistics.fmean(total[SLOTS:]),
            "to_first_step": statistics.fmean(first),
            "inside_training_steps": statistics.fmean(inside),
            "waits_for_clips_validations_test_and_end": statistics.fmean(total)
            - statistics.fmean(first)
            - statistics.fmean(inside),
        },
        "before_and_after_the_trials_s": document["wall_s"] - sum(total) / SLOTS,
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


def trackers(work: Path) -> dict[str, Any]:
    """The figures of `tests/sweep/test_many_trackers.py`, which checks them."""
    figures = work / "figures.json"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "tests/sweep/test_many_trackers.py"]
    subprocess.run(command, cwd=REPO, check=True, env={**os.environ, "W3RAY_FIGURES": str(figures)})
    lines = map(json.loads, figures.read_text().splitlines())
    return {line.pop("store"): line for line in lines}


PARTS = {"overhead": overhead, "sharing": sharing, "trackers": trackers}


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

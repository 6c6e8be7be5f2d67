"""What many trials send to one tracking store at the same time, and whether all of it arrives exactly once.

    python tests/sweep/many_trackers.py URI FOLDER NUMBER PARENT     one trial's part, in its own process

The trials do not train, because 32 trainings would need too much memory. Only the store is tested.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

STAGES, STEPS = ("teacher", "student"), 60
POINTS = ("train/loss", "train/top1")


def tell(uri: str, folder: Path, number: int, parent: str) -> None:
    from w3ray.tracking import Tracker

    refused: list[str] = []
    tracker = Tracker.open(
        uri, "many", run_name=f"trial {number}", buffer_dir=folder / "tracking", notify=refused.append
    )
    with tracker:
        trial = tracker.start_run({"number": number}, identity=f"trial-{number}", parent_run_id=parent)
        for stage in STAGES:
            run = tracker.stage_run(stage, f"{stage}-{number}", {"lr": 0.1})
            for step in range(STEPS):
                run.log_metrics(dict.fromkeys(POINTS, number + step / STEPS), step)
                time.sleep(0.02)
            run.finish()
        trial.log_metrics({"best/top1": float(number)}, 0)
        trial.set_tags({"w3ray.trial": str(number)})
        if not tracker.flush(1200.0):
            raise SystemExit(f"trial {number}: not delivered within its time")
    if refused:
        print(json.dumps(refused))


def run_many(uri: str, folder: Path, count: int) -> dict[str, Any]:
    """Run them, and compare the content of the store with what was sent.

    Returns: `lost` points, `doubled` runs and points, `errors` (lines of trials that were refused or failed).
    """
    from mlflow import MlflowClient

    from w3ray.tracking import Tracker

    with Tracker.open(uri, "many", run_name="sweep", buffer_dir=folder / "tracking") as tracker:
        parent = tracker.start_run({}, identity="sweep").wait_run_id(240.0)
        started = time.monotonic()
        command = [sys.executable, __file__, uri, str(folder)]
        processes = [
            subprocess.Popen(
                [*command, str(number), str(parent)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            for number in range(count)
        ]
        said = [process.communicate()[0].strip() for process in processes]
        seconds = time.monotonic() - started
    errors = [text[-500:] for text, process in zip(said, processes, strict=True) if text or process.returncode]
    client = MlflowClient(uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "many"]
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    names = Counter((run.info.run_name, run.data.tags.get("mlflow.parentRunId")) for run in runs)
    trials = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent}
    lost = doubled = 0
    for number in range(count):
        trial = trials.get(f"trial {number}")
        for stage in STAGES:
            (found,) = [
                run for run in runs if trial is not None and run.info.run_name == stage
                and run.data.tags.get("mlflow.parentRunId") == trial.info.run_id
            ] or [None]  # fmt: skip
            for name in POINTS:
                history = [] if found is None else client.get_metric_history(found.info.run_id, name)
                steps = Counter(point.step for point in history)
                lost += STEPS - len(steps)
                doubled += sum(steps.values()) - len(steps)
    return {
        "trials": count,
        "points": count * len(STAGES) * len(POINTS) * STEPS,
        "lost": lost,
        "doubled": doubled + sum(times - 1 for times in names.values()),
        "unfinished": sum(run.info.status != "FINISHED" for run in runs),
        "errors": errors,
        "seconds": seconds,
    }


if __name__ == "__main__":
    os.nice(5)
    tell(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

"""The effect of r, the kernels and the MFR weight on a real set: `w3_paper` with ASHA on UT-Interaction.

    python benchmarks/real_sweep.py DATA/ut-interaction/list.csv [--work FOLDER]

The clips are copied once with a short side of 80 pixels, so that two cores train instead of reading full-size video.
They are split as the list says (by sequence). Then `w3ray tune` runs two sweeps: the five dimensions of `w3_paper` with
24 points, and the values of the recipe with four seeds, which shows how much a seed alone moves the result. Writes
`results/real-sweep.json`, and the report to `results/real-sweep/`. Called again, it resumes with what is in FOLDER.
"""

import argparse
import csv
import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import yaml
from _common import RESULTS, W3RAY, write_result
from real_data import IMPORT_OPTIONS

from w3ray.sweep.analysis import complete_values, effect, importances, noise, savings, values_at_common_epoch
from w3ray.sweep.records import SweepFolder, by_point
from w3ray.sweep.space import Space, load_space

SHORT_SIDE = 80
EPOCHS = 24
SETTINGS = (
    "data.fold=null",
    "data.folds=null",
    f"train.epochs={EPOCHS}",
    "train.validate_every_epochs=2",
    "train.checkpoint_every_epochs=4",
    "resources.decoders=auto",
)


def small_copy(source: Path, target: Path) -> None:
    """A copy with smaller frames: MPEG-4 like the original, at a quality without visible blocks."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial.avi")
    with av.open(str(source)) as video, av.open(str(partial), "w", format="avi") as copy:
        width, height = video.streams.video[0].width, video.streams.video[0].height
        scale = SHORT_SIDE / min(width, height)
        stream = copy.add_stream("mpeg4", rate=Fraction(30), options={"qscale": "2"})
        stream.width, stream.height = (2 * round(side * scale / 2) for side in (width, height))
        stream.bit_rate = 2_000_000
        for number, frame in enumerate(video.decode(video=0)):
            smaller = frame.reformat(width=stream.width, height=stream.height, format="yuv420p")
            smaller.pts, smaller.time_base = number, Fraction(1, 30)
            copy.mux(stream.encode(smaller))
        copy.mux(stream.encode())
    partial.rename(target)


def manifest_of(list_csv: Path, work: Path) -> Path:
    with list_csv.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        small_copy(list_csv.parent / row["path"], work / "clips" / row["path"])
    copied, manifest = work / "clips" / "list.csv", work / "ut-interaction.parquet"
    shutil.copy(list_csv, copied)
    subprocess.run(
        [str(W3RAY), "data", "import", "csv", str(copied), "--out", str(manifest), *IMPORT_OPTIONS["ut-interaction"]],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return manifest


def sweep(space: dict[str, Any], manifest: Path, work: Path) -> dict[str, Any]:
    path = work / f"{space['name']}.yaml"
    path.write_text(yaml.safe_dump(space))
    settings = [f"data.manifest={manifest}", *SETTINGS]
    command = [str(W3RAY), "tune", str(path), "--pipeline", "ut-interaction", "--storage", str(work / "runs")]
    for setting in settings:
        command += ["--set", setting]
    with (work / f"{space['name']}.log").open("a") as log:
        done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, stderr=log, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list_csv", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/real-sweep"))
    options = parser.parse_args()
    work = options.work.absolute()
    manifest = manifest_of(options.list_csv.absolute(), work)
    scheduling = {"scheduler": "asha", "grace_epochs": 4, "reduction_factor": 3}
    space = {**load_space("w3_paper").to_dict(), "name": "w3-paper-ut", "scheduling": scheduling}
    document = sweep(space, manifest, work)
    seeds = {
        "name": "seeds-ut",
        "parameters": {"stages.student.loss_weights.mfr": {"choice": [0.1]}},
        "search": {"searcher": "grid", "repeats": 4},
    }
    sweep(seeds, manifest, work)
    trials = SweepFolder(str(work / "runs"), space["name"]).trials()
    points = by_point(trials)
    typed = Space.model_validate(space)
    deviation = noise(by_point(SweepFolder(str(work / "runs"), "seeds-ut").trials()))
    early = values_at_common_epoch(points)
    assert early is not None, "ASHA stopped none"
    saved = savings(trials)
    figures = {
        "epochs": EPOCHS,
        "validation_clips": 37,
        "points": len(points),
        "finished": sum(trial.state == "finished" for trial in trials),
        "stopped": sum(trial.state == "stopped" for trial in trials),
        "seconds_of_all_trials": sum(trial.seconds for trial in trials),
        "best": {key: document["points"][0][key] for key in ("number", "point", "values")},
        "top1_of_seeds": [list(trial.values or ()) for trial in SweepFolder(str(work / "runs"), "seeds-ut").trials()],
        "deviation_of_seeds": deviation,
        "importance": importances(typed, points),
        "effects_on_finished": {name: effect(name, complete_values(points)).verdict for name in typed.parameters},
        "effects_when_all_were_there": {
            "epoch": early[0],
            **{name: effect(name, early[1]).verdict for name in typed.parameters},
        },
        "steps": {"naive": saved.naive, "trained": saved.trained, "shared": saved.shared, "stopped": saved.stopped},
        "trials": [
            {"point": trial.point, "state": trial.state, "top1": trial.values, "epochs": len(trial.reports)}
            for trial in trials
        ],
    }
    report = RESULTS / "real-sweep"
    shutil.rmtree(report, ignore_errors=True)
    shutil.copytree(work / "runs" / "sweeps" / space["name"] / "report", report)
    print(json.dumps(figures, indent=1))
    write_result("real-sweep", figures, "python benchmarks/real_sweep.py DATA/ut-interaction/list.csv")


if __name__ == "__main__":
    main()

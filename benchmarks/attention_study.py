"""Does W3 help, how must its gates start, and what do its parts and its student add? A small study.

    python benchmarks/attention_study.py DATA                         all parts, in order
    python benchmarks/attention_study.py DATA --only screen confirm-hard
    python benchmarks/attention_study.py DATA --analyse               figures and docs, only from the records

Each part is a sweep (`w3ray.tune`): named cases times seeds on one data set, all else equal. So the arms of a seed see
the same clips in the same order with the same crops. Every finished model is scored once on the held-out clips of the
set. After each part the records (one per run: hits by clip, accuracy by stage, what the gates do) are written to
`results/attention-study/<part>.json`. `--analyse` reads only these. A part that is there is not run again. A part that
was interrupted resumes where it stopped. The parts from weights keep each finished seed in `pieces/` until the last.

DATA is the folder of the real sets (`ut-interaction/list.csv`, `tank-state/list.csv`, `egogestar/list.csv`).

The rule, committed before the first run (`docs/attention.md` repeats it with its reasons):

1. Screening: arms on generated clips "hard", seeds 0 to 2. The default is `start: unit` with all other options as they
   are, unless a variant beats it by at least 0.02 in the mean AND with each seed; of several the best.
2. Confirmation: the default against plain TSM with seeds that took no part in the screening (10 and up). One test for
   each data set: D is the mean difference in top-1 over seeds and clips; its p value is the LARGER of that of a paired
   t-test over seeds and that of a bootstrap over clips (over groups of clips where the set has groups). So a difference
   counts only where it holds for other seeds and for other clips.
3. Holm's correction over the sets of the confirmation (easy, medium, hard, ut-interaction, tank-state, egogestar: six,
   whether they were run or not).
   AMENDED after the screening, both sets of the confirmation that were run first (hard, medium: no difference) and the
   two exploring parts: 240 steps measure how fast a network finds motion at all, and seeds differ too much. So three
   sets "few" join: 96 clips, 40 epochs, ten seeds from 20 on, which took part in nothing before. Nine sets in all.
   AMENDED before the runs it concerns: tables, MFR and SGD run on hard-few too, because 240 steps rank nothing.
4. W3 is worth its name if it is better with corrected p < 0.05 on two of the three generated sets (of either length)
   and on no real set significantly worse. Everything else (tables, MFR, other arms) is described with intervals and
   decides nothing.
5. ADDED before the runs it concerns: from ImageNet weights (EfficientNet-Lite0, 80 pixels, seeds 50 to 54), as the
   paper trains. One test for each real set: the teacher with W3 minus plain TSM's, p as in rule 2, Holm's correction
   over the three sets. W3 helps from weights if it is better on one set and worse on none. TSN, CBAM, the students and
   Table 8 in small are described with intervals. Runs of plain TSM with seed 100 (the parts `trial-*`) choose epochs
   and learning rate, by top-1; within 0.01 the fewer epochs, then the smaller rate. They are no part of the study.
   AMENDED before any of these runs: 80 pixels, not 112. On two cores, 112 pixels would take at least twice as long.
   AMENDED after the first trials (egogestar): nearly all were at chance, so the further trials try higher rates.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from _attention_figures import FOLDER, analyse, write_tables
from _attention_parts import PARTS, SETS, Part, cases_of
from _common import RESULTS, W3RAY, commit, machine, versions
from av.video.frame import PictureType

from w3ray.attention.meter import GateMeter
from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.manifest import read_manifest
from w3ray.evaluation.normalize import normalize_clips
from w3ray.models.bundle import load_model

WORK = Path("runs/attention-study").absolute()


def run_part(name: str, part: Part, data: Path) -> None:
    """Run one sweep for each fold, and make a record of each of its runs. A long part goes seed by seed."""
    if not part.seed_by_seed:
        return write(FOLDER / f"{name}.json", run_seeds(name, name, part, data))
    pieces = [FOLDER / "pieces" / f"{name}-seed-{seed}.json" for seed in part.seeds]
    for seed, piece in zip(part.seeds, pieces, strict=True):
        if not piece.exists():
            one = replace(part, seeds=range(seed, seed + 1))
            write(piece, run_seeds(name, f"{name}-seed-{seed}", one, data))
    documents = [json.loads(piece.read_text()) for piece in pieces]
    whole = documents[0] | {
        "wall_s": sum(document["wall_s"] for document in documents),
        "runs": [{key: document[key] for key in ("commit", "machine", "date", "wall_s")} for document in documents],
        "records": [record for document in documents for record in document["records"]],
    }
    write(FOLDER / f"{name}.json", whole)
    for piece in pieces:
        piece.unlink()


def run_seeds(name: str, sweep_name: str, part: Part, data: Path) -> dict[str, Any]:
    about, records, started = SETS[part.data], [], time.monotonic()
    manifest = None if about["recipe"] == "quickstart" else imported(part.data, data)
    for fold in range(about["folds"]) if "folds" in about else [None]:
        records += sweep(sweep_name, part, manifest, fold)
    return {
        "command": f"python benchmarks/attention_study.py DATA --only {name}",
        "commit": commit(),
        "machine": machine() | {"load": round(os.getloadavg()[1], 1)},
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
        "wall_s": round(time.monotonic() - started),
        "data": part.data,
        "records": records,
    }


def write(file: Path, document: Mapping[str, Any]) -> None:
    """Write at once, because an existing record is not made again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(file)


def imported(name: str, data: Path) -> Path:
    of = SETS[name].get("of", name)
    manifest, folder = WORK / f"{name}.parquet", data / of
    WORK.mkdir(parents=True, exist_ok=True)
    if short_side := SETS[name].get("short_side"):
        folder = small_copy(folder, WORK / "small" / of, short_side)
    command = [str(W3RAY), "data", "import", "csv", str(folder / "list.csv"), "--out", str(manifest)]
    subprocess.run([*command, *SETS[name]["import"]], check=True, stdout=subprocess.DEVNULL)
    return manifest


def small_copy(source: Path, target: Path, short_side: int) -> Path:
    """A copy of the set with each video at `short_side` pixels: the same frames, evenly timed, each one a key frame."""
    for path in sorted(path for path in source.rglob("*") if path.suffix in (".avi", ".mp4")):
        small = (target / path.relative_to(source)).with_suffix(".mp4")
        if small.exists():
            continue
        small.parent.mkdir(parents=True, exist_ok=True)
        partial = small.with_suffix(".partial.mp4")
        with av.open(path) as read, av.open(partial, "w") as write:
            video, rate = read.streams.video[0], read.streams.video[0].average_rate
            assert rate is not None, path
            out = write.add_stream("libx264", rate=rate, options={"g": "1", "qp": "10", "bf": "0"})
            factor = short_side / min(video.width, video.height)
            out.width, out.height = (2 * round(side * factor / 2) for side in (video.width, video.height))
            out.pix_fmt = "yuv420p"
            for i, frame in enumerate(read.decode(video)):
                again = frame.reformat(out.width, out.height, "yuv420p", interpolation="AREA")
                again.pict_type, again.pts, again.time_base = PictureType.NONE, i, 1 / rate
                write.mux(out.encode(again))
            write.mux(out.encode(None))
        partial.replace(small)
    rows = (source / "list.csv").read_text()
    (target / "list.csv").write_text(rows.replace(".avi,", ".mp4,"))
    return target


def sweep(name: str, part: Part, manifest: Path | None, fold: int | None) -> list[dict[str, Any]]:
    import w3ray
    from w3ray.sweep.records import SweepFolder
    from w3ray.sweep.space import Space

    about = SETS[part.data]
    settings = {"storage": str(WORK), "seed": part.seeds.start, "tracking.enabled": False, "stages": part.stages}
    settings |= {**about["set"], **part.extra}
    if manifest is not None:
        settings |= {"data.manifest": str(manifest), "data.fold": fold, "data.folds": about.get("folds")}
    cases = cases_of(part)
    space = Space.model_validate(
        {
            "name": name if fold is None else f"{name}-{fold}",
            "cases": {case: values for case, (_, _, values) in cases.items()},
            "search": {"searcher": "grid", "repeats": len(part.seeds)},
        }
    )
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    ended = {"n": 0}

    def tell(status: Any) -> None:
        done = sum(trial.ended for trial in status.book.trials)
        if done != ended["n"]:
            ended["n"] = done
            print(f"{time.strftime('%H:%M:%S')} {space.name}: {done} of {len(cases) * len(part.seeds)}", flush=True)

    w3ray.tune(space, about["recipe"], overrides=overrides, on_status=tell)
    scorers: dict[int | None, Scorer] = {}
    records = []
    for trial in SweepFolder(str(WORK), space.name).trials():
        if trial.state != "finished":
            raise SystemExit(f"{space.name}, trial {trial.id}: {trial.state}: {trial.reason}")
        arm, draw, _ = cases[trial.point["case"]]
        stages: dict[str, Any] = {}
        for stage in trial.stages:
            folder = WORK / "stages" / f"{stage.name}-{stage.identity[:12]}" / "model"
            model, description = load_model(folder)
            if draw not in scorers:
                scorers = {draw: Scorer(about, manifest or generated_manifest(about, draw), fold, description)}
            stages[stage.name] = scorers[draw].score(model) | {"steps": stage.total_steps}
        seed = part.seeds.start + trial.repeat if draw is None else draw
        record = {"arm": arm, "seed": seed, "fold": fold, "stages": stages}
        if about["set"].get("train.validate_every_epochs", 1000) < 1000:
            # for the last stage, by epoch
            record["curve"] = [[report.epoch, round(report.metrics["top1"], 4)] for report in trial.reports]
        records.append(record)
    return records


class Scorer:
    """Scores models of one set and fold on its held-out clips. The clips are decoded once."""

    def __init__(self, about: Mapping[str, Any], manifest: Path, fold: int | None, description: Any) -> None:
        read = read_manifest(str(manifest))
        if fold is not None:
            read = read.with_fold(fold, about["folds"])
        rows = read.split(read.split_named(about["split"]))
        spec = ClipSpec(**{**description.clip, "scales": tuple(description.clip["scales"])})
        table = rows.to_pylist()
        clips = [
            load_clip(
                uri,
                label=row["label"],
                spec=spec,
                rng=None,
                start_s=row["start_s"],
                end_s=row["end_s"],
                reversed=row["reversed"],
            )
            for row, uri in zip(table, read.resolved_uris(rows), strict=True)
        ]
        self.clips = torch.from_numpy(np.stack([clip for clip, _ in clips]))
        self.labels = torch.tensor([row["label"] for row in table])
        self.groups = [row["group"] for row in table]
        self.description = description

    @torch.no_grad()
    def score(self, model: Any) -> dict[str, Any]:
        meter = GateMeter(model)
        with meter.watching():
            logits = [
                model(normalize_clips(part, mean=self.description.mean, std=self.description.std)).logits_BK
                for part in self.clips.split(32)
            ]
        hits = torch.cat(logits).argmax(1) == self.labels
        by_class = [hits[self.labels == label].float().mean().item() for label in self.labels.unique()]
        groups = self.groups if len(set(self.groups)) > 1 and any(self.groups) else None
        return {
            "top1": hits.float().mean().item(),
            "mean_class_accuracy": float(np.mean(by_class)),
            "hits": np.packbits(hits.numpy()).tobytes().hex(),
            "clips": len(hits),
            "gates": gate_figures(meter),
            **({} if groups is None else {"groups": "|".join(map(str, groups))}),
        }


def gate_figures(meter: GateMeter) -> dict[str, dict[str, float]]:
    """Mean and deviations of the gates of each stage, under names such as `stage1.channel`."""
    return {
        f"stage{stage.stage}.{kind}": {
            "mean": round(gate.mean, 4),
            "std": round(gate.std, 4),
            "std_over_time": round(gate.std_time, 4),
        }
        for stage in meter.stages()
        for kind, gate in stage.gates().items()
    }


def generated_manifest(about: Mapping[str, Any], draw: int | None) -> Path:
    from w3ray.pipeline.prepare import synthetic_root
    from w3ray.recipe import load_recipe

    drawn = about["set"].get("data.synthetic", {}) | ({} if draw is None else {"seed": draw})
    overrides = [f"storage={WORK}", *(f"data.synthetic.{key}={json.dumps(value)}" for key, value in drawn.items())]
    return Path(str(synthetic_root(load_recipe(about["recipe"], overrides)))) / "manifest.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--analyse", action="store_true", help="run nothing")
    options = parser.parse_args()
    for name in () if options.analyse else options.only:
        if not (FOLDER / f"{name}.json").exists():
            run_part(name, PARTS[name], options.data.absolute())
    figures = analyse()
    document = {"command": "python benchmarks/attention_study.py DATA", "commit": commit(), "figures": figures}
    (RESULTS / "attention-study.json").write_text(json.dumps(document, indent=1) + "\n")
    write_tables(figures)
    for part, rows in figures["parts"].items():
        for name, row in rows.items():
            versus = next((row[key] for key in row if key.startswith("minus_")), None)
            text = "" if versus is None else f"  {versus['difference']:+.3f}  p {versus['p']:.3g}"
            print(f"{part:<24}{name:<34}{row['top1']:.3f} +- {row['std_over_seeds']:.3f}{text}")
    print(json.dumps({key: figures.get(key) for key in ("chosen", "verdict", "from_weights")}, indent=1))


if __name__ == "__main__":
    main()

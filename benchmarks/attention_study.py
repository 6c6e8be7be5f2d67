"""Does W3 help, how must its gates start, and what do its parts and its student add? A study in small.

    python benchmarks/attention_study.py DATA                         all parts, in their order
    python benchmarks/attention_study.py DATA --only screen confirm-hard
    python benchmarks/attention_study.py DATA --analyse               figures and docs from the records alone

Each part is a sweep of the product (`w3ray.tune`): named cases times seeds on one data set, all else equal, so the arms
of a seed see the same clips in the same order with the same crops. Every finished model is scored once on the set's
held-out clips. Records (one a run: hits by clip, accuracy by stage, what the gates do) are written to
`results/attention-study/<part>.json` after each part and are all that `--analyse` reads; a part that is there is not
run again, and a part that was interrupted goes on where it stopped.

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
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from _common import REPO, RESULTS, W3RAY, commit, machine, versions
from av.video.frame import PictureType
from scipy.stats import t as student_t

from w3ray.attention.meter import GateMeter
from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.manifest import read_manifest
from w3ray.evaluation.normalize import normalize_clips
from w3ray.evaluation.uncertainty import bootstrap_interval
from w3ray.models.bundle import load_model

FOLDER = RESULTS / "attention-study"
WORK = Path("runs/attention-study").absolute()

PAGE = REPO / "docs" / "attention.md"
MARKS = ("<!-- figures: made by benchmarks/attention_study.py -->", "<!-- end of figures -->")

PLAIN: dict[str, Any] = {"model.attention": None}
ARMS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "plain-wide": {**PLAIN, "model.backbone": "resnet_small_wide"},
    "w3-near-open": {"model.attention": {"kind": "w3", "start": "near_open"}},
    "w3-plain-start": {"model.attention": {"kind": "w3", "start": "plain"}},
    "w3-unit": {"model.attention": {"kind": "w3", "start": "unit"}},
    "w3-unit-norm-gain": {"model.attention": {"kind": "w3", "start": "unit", "gain": "norm"}},
    "w3-unit-replicate": {"model.attention": {"kind": "w3", "start": "unit", "borders": "replicate"}},
    "w3-unit-lr3": {
        "model.attention": {"kind": "w3", "start": "unit"},
        "train.attention_lr_multiplier": 3.0,
    },
    "w3-unit-lr10": {
        "model.attention": {"kind": "w3", "start": "unit"},
        "train.attention_lr_multiplier": 10.0,
    },
    "w3-unit-after": {"model.attention": {"kind": "w3", "start": "unit", "placement": "after"}},
    "w3-unit-dense": {"model.attention": {"kind": "w3", "start": "unit", "depthwise": False}},
    "w3-unit-hidden4": {"model.attention": {"kind": "w3", "start": "unit", "hidden": 4}},
    "w3-unit-batch-norm": {"model.attention": {"kind": "w3", "start": "unit", "temporal_norm": "batch"}},
    "w3-unit-no-afr": {"model.attention": {"kind": "w3", "start": "unit"}, "model.refinement": False},
    "cbam-plain-start": {"model.attention": {"kind": "cbam", "start": "plain"}},
    "cbam-unit": {"model.attention": {"kind": "cbam", "start": "unit"}},
    "nonlocal": {"model.attention": {"kind": "nonlocal"}},
    # Steps of a teacher and its student together, without a teacher.
    "plain-twice": {**PLAIN, "train.epochs": 80},
    "w3-twice": {"model.attention": {"kind": "w3", "start": "unit"}, "train.epochs": 80},
    # Table 5 and 6 in small; what they hold is the start "unit".
    "without-spatial": {"model.attention": {"kind": "w3", "start": "unit", "spatial": False}},
    "without-temporal": {"model.attention": {"kind": "w3", "start": "unit", "temporal": False}},
}
"""Arm -> what differs from the base recipe."""

SGD = {"train.optimizer": "sgd", "train.lr": 0.02, "train.weight_decay": 5e-4}
"""The paper's optimiser, at a rate for batches of 8 from scratch."""

TEACHER = [{"name": "teacher"}]
CHAIN = [*TEACHER, {"name": "student", "teacher": "teacher", "loss_weights": {"cross_entropy": 1.0, "mfr": 0.1}}]
ONCE = {"train.best_metric": "last", "train.validate_every_epochs": 1000, "train.checkpoint_every_epochs": 1000}
"""No held-out clip chooses a checkpoint, so no set has to be split again for it."""


def generated(
    difficulty: str, clips: int = 160, epochs: int = 12, batch: int = 8, val_clips: int = 32, **train: Any
) -> dict[str, Any]:
    """Clips and epochs were chosen by trial runs of plain TSM alone (seed 100), so that it is wrong on some of them."""
    drawn = {"clips": clips, "val_clips": val_clips, "test_clips": 800, "seed": 0, "size": 56, "difficulty": difficulty}
    batches = dict.fromkeys(("train.batch_size", "train.microbatch_size", "train.lr_batch_size"), batch)
    return {
        "recipe": "quickstart",
        "set": {
            "data.synthetic": drawn,
            "train.epochs": epochs,
            **batches,
            "evaluation.split": "val",
            "data.test_split": None,
            **ONCE,
            **{f"train.{name}": value for name, value in train.items()},
        },
        "split": "test",
    }


SETS: dict[str, dict[str, Any]] = {
    **{difficulty: generated(difficulty) for difficulty in ("easy", "medium", "hard")},
    # What decides? The number of clips, of steps, and the size of a batch.
    "hard-320-b16": generated("hard", clips=320, batch=16),
    "hard-96-long": generated("hard", clips=96, epochs=40),
    **{f"{difficulty}-few": generated(difficulty, clips=96, epochs=40) for difficulty in ("easy", "medium", "hard")},
    # Validated now and then, for the steps to an accuracy.
    "hard-few-watched": generated("hard", clips=96, epochs=40, val_clips=160, validate_every_epochs=2),
    "reversed-twins": {
        "recipe": "reversed-twin",
        "import": ["--reversed-twin"],
        "set": {"train.validate_every_epochs": 1000, "train.checkpoint_every_epochs": 1000},
        "split": "test",
        "of": "ut-interaction",
        "short_side": 120,
    },
    "quickstart": {"recipe": "quickstart", "set": {}, "split": "test"},
    "ut-interaction": {
        "recipe": "ut-interaction",
        "import": ["--classes", "hand shaking,hugging,kicking,pointing,punching,pushing", "--flip-map", "identity"],
        "set": {"data.size": 56, "train.epochs": 40, **ONCE},
        "split": "val",
        "folds": 5,
        "short_side": 120,
    },
    "tank-state": {
        "recipe": "tank-state",
        "import": [],
        "set": {"data.size": 56, "train.epochs": 10, **ONCE},
        "split": "val",
    },
    "egogestar": {
        "recipe": "tank-state",
        "import": [],
        "set": {
            "data.size": 80,
            "data.scales": [1.0, 0.875],
            "data.shared_clips_gib": 8,
            "train.epochs": 40,
            **ONCE,
        },
        "split": "val",
        "short_side": 120,
    },
}
"""`of`: whose videos, where the name is another. `short_side`: copies of that height whose frames stand alone, as they
decode far faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One question: arms x seeds on one set."""

    data: str
    arms: tuple[str, ...]
    seeds: range
    stages: Sequence[Mapping[str, Any]] = field(default_factory=lambda: TEACHER)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Settings of all arms."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further cases: name -> all of its settings."""
    draws: range | None = None
    """Seeds of the generated clips: each arm is run once on each of these sets, and they take the place of seeds."""
    beside: tuple[str, ...] = ()
    """Parts of the same set whose rows are shown, too."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Rows to be compared: the first minus the second."""


SCREENED = (
    "plain", "plain-wide", "w3-near-open", "w3-plain-start", "w3-unit", "w3-unit-norm-gain", "w3-unit-replicate",
    "w3-unit-lr3", "w3-unit-lr10", "w3-unit-after", "w3-unit-dense", "w3-unit-hidden4", "w3-unit-batch-norm",
    "w3-unit-no-afr", "cbam-plain-start", "cbam-unit",
)  # fmt: skip
TABLE_ROWS = (
    "plain", "cbam-unit", "nonlocal", "w3-unit", "w3-unit-no-afr", "without-spatial", "without-temporal",
)  # fmt: skip
PAPER = {
    ("w3-unit, student", "w3-unit, teacher"): "5, without MFR: 52.6 - 50.3",
    ("w3-unit, student", "w3-unit-no-afr, student"): "5, without AFR: 52.6 - 50.1",
    ("w3-unit, student", "without-spatial, student"): "5, without spatial: 52.6 - 49.8",
    ("w3-unit, student", "without-temporal, student"): "5, without temporal: 52.6 - 47.2",
    ("cbam-unit, teacher", "plain, teacher"): "6, CBAM for none: 49.1 - 47.2",
    ("nonlocal, teacher", "plain, teacher"): "6, NL for none: 49.8 - 47.2",
    ("w3-unit, student", "cbam-unit, teacher"): "6, W3 for CBAM: 52.6 - 49.1",
    ("w3-unit, student", "nonlocal, teacher"): "6, W3 for NL: 52.6 - 49.8",
    ("w3-unit, teacher", "cbam-unit, teacher"): "7, W3 for CBAM, both without MFR: 50.2 - 49.1",
    ("cbam-unit, student", "cbam-unit, teacher"): "7, CBAM with MFR: 50.5 - 49.1",
    ("w3-unit, student", "cbam-unit, student"): "7, W3 for CBAM, both with MFR: 52.6 - 50.5",
}
"""What the paper's tables compare, and found (Something-Something V1, 16 frames, top-1 in percent)."""

TWICE = (
    ("plain, student", "plain, teacher"), ("plain-twice, teacher", "plain, teacher"),
    ("plain, student", "plain-twice, teacher"), ("w3-twice, teacher", "w3-unit, teacher"),
    ("w3-unit, student", "w3-twice, teacher"), ("w3-twice, teacher", "plain-twice, teacher"),
)  # fmt: skip
MFR_WEIGHTS = {"w3-unit": (0.0, 0.03, 0.1, 0.3, 0.8), "plain": (0.0, 0.1)}
"""0.8 is the sum over the eight frames at 0.1."""
MFR_FORMS = {
    # Its gradient is as long as that of the norm at 0.1 where the norm is 25.
    "mfr-squared-0.002": {"mfr": 0.0, "mfr_squared": 0.002},
    # A change of the 25 places by the same amount moves it as much as the norm at 0.1.
    "mfr-pooled-0.5": {"mfr": 0.0, "mfr_pooled": 0.5},
}


def mfr_cases() -> dict[str, dict[str, Any]]:
    """Each weight for both networks, each form for W3."""
    cases = {
        f"{arm}-mfr-{weight:g}": {**ARMS[arm], "stages.student.loss_weights.mfr": weight}
        for arm, weights in MFR_WEIGHTS.items()
        for weight in weights
    }
    for name, losses_of_form in MFR_FORMS.items():
        losses = {f"stages.student.loss_weights.{loss}": weight for loss, weight in losses_of_form.items()}
        cases[f"w3-unit-{name}"] = {**ARMS["w3-unit"], **losses}
    return cases


PARTS: dict[str, Part] = {
    "screen": Part(data="hard", arms=SCREENED, seeds=range(3)),
    "explore-batch-16": Part(
        data="hard-320-b16", arms=("plain", "w3-near-open", "w3-unit", "w3-unit-replicate"), seeds=range(3)
    ),
    "explore-few-clips": Part(
        data="hard-96-long", arms=("plain", "w3-near-open", "w3-unit", "w3-unit-replicate"), seeds=range(3)
    ),
    "confirm-hard": Part(data="hard", arms=("plain", "w3-unit"), seeds=range(10, 20)),
    "confirm-medium": Part(data="medium", arms=("plain", "w3-unit"), seeds=range(10, 20)),
    "confirm-hard-few": Part(data="hard-few", arms=("plain", "w3-unit"), seeds=range(20, 30)),
    "confirm-medium-few": Part(data="medium-few", arms=("plain", "w3-unit"), seeds=range(20, 30)),
    "confirm-tank-state": Part(data="tank-state", arms=("plain", "w3-unit"), seeds=range(10, 15)),
    "confirm-ut-interaction": Part(data="ut-interaction", arms=("plain", "w3-unit"), seeds=range(10, 15)),
    "confirm-egogestar": Part(data="egogestar", arms=("plain", "w3-unit"), seeds=range(10, 15)),
    "tables": Part(data="hard-few", arms=TABLE_ROWS, seeds=range(20, 25), stages=CHAIN, pairs=(*PAPER, TWICE[0])),
    "twice": Part(
        data="hard-few", arms=("plain-twice", "w3-twice"), seeds=range(20, 25), beside=("tables",), pairs=TWICE
    ),
    "quickstart": Part(
        data="quickstart",
        arms=("plain", "w3-unit"),
        seeds=range(5),
        stages=CHAIN,
        pairs=(("w3-unit, student", "w3-unit, teacher"), ("plain, student", "plain, teacher")),
    ),
    "wide": Part(
        data="hard-few",
        arms=("plain-wide",),
        seeds=range(20, 30),
        beside=("confirm-hard-few",),
        pairs=(("plain-wide, teacher", "plain, teacher"), ("w3-unit, teacher", "plain-wide, teacher")),
    ),
    "mfr": Part(data="hard-few-watched", arms=(), variants=mfr_cases(), seeds=range(20, 23), stages=CHAIN),
    "sgd": Part(data="hard-few", arms=("plain", "w3-near-open", "w3-unit"), seeds=range(20, 23), extra=SGD),
    "confirm-easy-few": Part(data="easy-few", arms=("plain", "w3-unit"), seeds=range(20, 30)),
    "reversed-twins": Part(data="reversed-twins", arms=("plain", "w3-unit"), seeds=range(10, 15)),
    "confirm-easy": Part(data="easy", arms=("plain", "w3-unit"), seeds=range(10, 15)),
    "other-clips": Part(data="hard-few", arms=("plain", "w3-unit"), seeds=range(40, 41), draws=range(1, 11)),
}
"""In the order in which they run."""

FAST, FEW = ("easy", "medium", "hard"), ("easy-few", "medium-few", "hard-few")
REAL = ("ut-interaction", "tank-state", "egogestar")
CONFIRMED = (*FAST, *FEW, *REAL)
LEVELS = (0.5, 0.8, 0.9)
"""Validation accuracies to which steps are counted."""
ADOPT_FROM = 0.02
"""Rule 1: least mean difference for which a variant becomes the default."""


# Running.


def run_part(name: str, part: Part, data: Path) -> None:
    """One sweep for each fold, then a record for each of its runs."""
    about, records, started = SETS[part.data], [], time.monotonic()
    manifest = None if about["recipe"] == "quickstart" else imported(part.data, data)
    for fold in range(about["folds"]) if "folds" in about else [None]:
        records += sweep(name, part, manifest, fold)
    document = {
        "command": f"python benchmarks/attention_study.py DATA --only {name}",
        "commit": commit(),
        "machine": machine() | {"load": round(os.getloadavg()[1], 1)},
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
        "wall_s": round(time.monotonic() - started),
        "data": part.data,
        "records": records,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    # At once: a record that is there is not made again.
    partial = FOLDER / f".{name}.partial"
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(FOLDER / f"{name}.json")


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
    """The set with each video at `short_side` pixels, every frame a key frame; the same frames, evenly timed."""
    for path in sorted(path for path in source.rglob("*") if path.suffix in (".avi", ".mp4")):
        small = (target / path.relative_to(source)).with_suffix(".mp4")
        if small.exists():
            continue
        small.parent.mkdir(parents=True, exist_ok=True)
        partial = small.with_suffix(".partial.mp4")
        with av.open(path) as read, av.open(partial, "w") as write:
            video = read.streams.video[0]
            out = write.add_stream("libx264", rate=video.average_rate, options={"g": "1", "qp": "10", "bf": "0"})
            factor = short_side / min(video.width, video.height)
            out.width, out.height = (2 * round(side * factor / 2) for side in (video.width, video.height))
            out.pix_fmt = "yuv420p"
            for i, frame in enumerate(read.decode(video)):
                again = frame.reformat(out.width, out.height, "yuv420p", interpolation="AREA")
                again.pict_type, again.pts, again.time_base = PictureType.NONE, i, 1 / video.average_rate
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
            # Of the last stage, by epoch.
            record["curve"] = [[report.epoch, round(report.metrics["top1"], 4)] for report in trial.reports]
        records.append(record)
    return records


def cases_of(part: Part) -> dict[str, tuple[str, int | None, dict[str, Any]]]:
    """Case of the sweep -> arm, seed of its clips where the part draws them anew, settings."""
    arms = {arm: ARMS[arm] for arm in part.arms} | {arm: dict(values) for arm, values in part.variants.items()}
    if part.draws is None:
        return {arm: (arm, None, values) for arm, values in arms.items()}
    return {
        f"{arm}-clips-{draw}": (arm, draw, {**values, "data.synthetic.seed": draw})
        for draw in part.draws
        for arm, values in arms.items()
    }


class Scorer:
    """Scores models of one set and fold on its held-out clips, decoded once."""

    def __init__(self, about: Mapping[str, Any], manifest: Path, fold: int | None, description: Any) -> None:
        read = read_manifest(str(manifest))
        if fold is not None:
            read = read.with_fold(fold, about["folds"])
        rows = read.split(read.split_named(about["split"]))
        spec = ClipSpec(**{**description.clip, "scales": tuple(description.clip["scales"])})
        table = rows.to_pylist()
        clips = [
            load_clip(uri, label=row["label"], spec=spec, rng=None, start_s=row["start_s"], end_s=row["end_s"])
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
    """Mean and deviations of the gates of each stage, by `stage1.channel` and the like."""
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


# Analysis: from the records alone.


def hits_of(records: Sequence[Mapping[str, Any]], arm: str, stage: str) -> tuple[np.ndarray, list[str] | None]:
    """Hits [S seeds, N clips], folds side by side, and the group of each clip."""
    by_seed: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["arm"] == arm and stage in record["stages"]:
            by_seed.setdefault(record["seed"], []).append(record)
    rows: list[np.ndarray] = []
    groups: list[list[str]] = []
    for seed in sorted(by_seed):
        parts = [record["stages"][stage] for record in sorted(by_seed[seed], key=lambda one: one["fold"] or 0)]
        bits = [np.unpackbits(np.frombuffer(bytes.fromhex(p["hits"]), np.uint8))[: p["clips"]] for p in parts]
        rows.append(np.concatenate(bits))
        if "groups" in parts[0]:
            groups.append([group for p in parts for group in p["groups"].split("|")])
    # Clips that are drawn anew for each seed have no group over the seeds.
    same = bool(groups) and all(its == groups[0] for its in groups)
    return np.array(rows, dtype=np.float64), groups[0] if same else None


def compare(first: np.ndarray, second: np.ndarray, groups: Sequence[str] | None) -> dict[str, Any]:
    """Second minus first, [S seeds, N clips] each, of the same seeds and clips (rule 2)."""
    if first.shape != second.shape:
        raise ValueError(f"compare: {first.shape} and {second.shape}: need the same seeds and clips")
    by_seed = (second - first).mean(axis=1)
    by_clip = (second - first).mean(axis=0)
    return {
        "difference": float(by_clip.mean()),
        "by_seed": [round(float(value), 4) for value in by_seed],
        "interval_by_seed": seed_interval(by_seed),
        "interval_by_clip": bootstrap_interval(by_clip, groups),
        "p_seeds": p_of_seeds(by_seed),
        "p_clips": p_of_clips(by_clip, groups),
        "p": max(p_of_seeds(by_seed), p_of_clips(by_clip, groups)),
        "seeds": len(by_seed),
        "clips": len(by_clip),
    }


def p_of_seeds(by_seed: np.ndarray) -> float:
    """Two-sided p of a paired t-test over seeds."""
    deviation = by_seed.std(ddof=1)
    if deviation == 0:
        return 1.0 if by_seed.mean() == 0 else 0.0
    value = by_seed.mean() / (deviation / np.sqrt(len(by_seed)))
    return float(2 * student_t.sf(abs(value), len(by_seed) - 1))


def seed_interval(by_seed: np.ndarray) -> tuple[float, float]:
    reach = student_t.ppf(0.975, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed))
    return float(by_seed.mean() - reach), float(by_seed.mean() + reach)


def p_of_clips(by_clip: np.ndarray, groups: Sequence[str] | None) -> float:
    """Two-sided p of a mean of 0, by the bootstrap: twice the smaller share of means on one side of 0."""
    drawn = np.arange(len(by_clip)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(drawn, by_clip), np.bincount(drawn)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(100):
        again = rng.integers(len(sums), size=(100, len(sums)))
        means.append(sums[again].sum(1) / counts[again].sum(1))
    all_means = np.concatenate(means)
    low, high = (all_means <= 0).mean(), (all_means >= 0).mean()
    return float(min(1.0, 2 * max(min(low, high), 1 / len(all_means))))


def holm(p_values: Mapping[str, float], family: int) -> dict[str, float]:
    """Holm's corrected p values; `family` counts all tests of the family, also those not run (taken as p = 1)."""
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (family - place) * p_values[name]))
        corrected[name] = largest
    return corrected


def arm_rows(records: Sequence[Mapping[str, Any]], against: str) -> dict[str, Any]:
    """Each arm and stage: top-1 by seed, interval, gates, and its difference from `against`."""
    rows: dict[str, Any] = {}
    for arm in dict.fromkeys(record["arm"] for record in records):
        mine = [record for record in records if record["arm"] == arm]
        for stage in mine[0]["stages"]:
            hits, groups = hits_of(records, arm, stage)
            row: dict[str, Any] = {
                "top1": float(hits.mean()),
                "top1_by_seed": [round(float(value), 4) for value in hits.mean(axis=1)],
                "std_over_seeds": float(hits.mean(axis=1).std(ddof=1)) if len(hits) > 1 else 0.0,
                "mean_class_accuracy": float(np.mean([r["stages"][stage]["mean_class_accuracy"] for r in mine])),
                "gates": mean_gates([r["stages"][stage]["gates"] for r in mine]),
            }
            base, _ = hits_of(records, against, stage)
            if arm != against and base.shape == hits.shape:
                row["minus_" + against] = compare(base, hits, groups)
            rows[f"{arm}, {stage}"] = row
    return rows


def pair_rows(records: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The first minus the second of each pair, over the seeds that both have."""
    rows = []
    for first, second in pairs:
        (arm, stage), (other, other_stage) = first.split(", "), second.split(", ")
        common = {r["seed"] for r in records if r["arm"] == arm} & {r["seed"] for r in records if r["arm"] == other}
        shared = [record for record in records if record["seed"] in common]
        hits, groups = hits_of(shared, arm, stage)
        rows.append(
            {"pair": [first, second], **compare(hits_of(shared, other, other_stage)[0], hits, groups)}
            | ({"paper": PAPER[first, second]} if (first, second) in PAPER else {})
        )
    return rows


def steps_to(records: Sequence[Mapping[str, Any]], arm: str, accuracy: float) -> list[int | None]:
    """Steps of the last stage until a validation first reached `accuracy`, by seed; None: never."""
    found = []
    for record in sorted((r for r in records if r["arm"] == arm), key=lambda r: r["seed"]):
        steps_an_epoch = list(record["stages"].values())[-1]["steps"] / record["curve"][-1][0]
        reached = (round(epoch * steps_an_epoch) for epoch, top1 in record["curve"] if top1 >= accuracy)
        found.append(next(reached, None))
    return found


def mean_gates(found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: round(float(np.mean([one[name][key] for one in found])), 4) for key in values}
        for name, values in found[0].items()
    }


def chosen_default(screen: Mapping[str, Any]) -> str:
    """Rule 1."""
    unit = np.array(screen["w3-unit, teacher"]["top1_by_seed"])
    best, best_mean = "w3-unit", unit.mean() + ADOPT_FROM
    for name, row in screen.items():
        arm = name.split(",")[0]
        values = np.array(row["top1_by_seed"])
        if arm.startswith("w3-") and (values > unit).all() and values.mean() >= best_mean:
            best, best_mean = arm, values.mean()
    return best


def verdict(differences: Mapping[str, float], corrected: Mapping[str, float]) -> dict[str, Any]:
    """Rule 4, of the sets that were run."""
    significant = [data for data in differences if corrected[data] < 0.05]
    better = [data for data in significant if data not in REAL and differences[data] > 0]
    worse = [data for data in significant if data in REAL and differences[data] < 0]
    return {
        "better_on": better,
        "worse_on": worse,
        "worth_its_name": any(len(set(better) & set(sets)) >= 2 for sets in (FAST, FEW)) and not worse,
        "complete": all(data in differences for data in CONFIRMED),
    }


def analyse() -> dict[str, Any]:
    """All that the records say."""
    parts = {path.stem: json.loads(path.read_text())["records"] for path in sorted(FOLDER.glob("*.json"))}
    missing = [name for name in PARTS if name not in parts]
    figures: dict[str, Any] = {"parts": {}, "pairs": {}, "steps_to": {}, "not_run": missing}
    for name in (name for name in PARTS if name in parts):
        records = [record for part in (*PARTS[name].beside, name) for record in parts.get(part, [])]
        arms = [record["arm"] for record in records]
        against = next(arm for arm in ("plain", "plain-twice", "plain-mfr-0") if arm in arms)
        figures["parts"][name] = arm_rows(records, against)
        pairs = [pair for pair in PARTS[name].pairs if figures["parts"][name].keys() >= set(pair)]
        if pairs:
            figures["pairs"][name] = pair_rows(records, pairs)
        if "curve" in records[0]:
            figures["steps_to"][name] = {
                arm: {str(level): steps_to(records, arm, level) for level in LEVELS} for arm in dict.fromkeys(arms)
            }
    if "screen" in parts:
        figures["chosen"] = chosen_default(figures["parts"]["screen"])
    tests = {}
    for data in CONFIRMED:
        if rows := figures["parts"].get(f"confirm-{data}"):
            tests[data] = next(row["minus_plain"] for row in rows.values() if "minus_plain" in row)
    corrected = holm({data: test["p"] for data, test in tests.items()}, len(CONFIRMED))
    figures["confirmation"] = {data: {**test, "p_corrected": corrected[data]} for data, test in tests.items()}
    figures["verdict"] = verdict({data: test["difference"] for data, test in tests.items()}, corrected)
    return figures


def tables(figures: Mapping[str, Any]) -> str:
    """What `docs/attention.md` shows, as Markdown."""
    lines = ["### Confirmation: `w3-unit` minus plain TSM", ""]
    lines += ["| set | seeds x clips | plain | W3 | difference | 95% over seeds | p, seeds / clips | p corrected |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for data in CONFIRMED:
        if data not in figures["confirmation"]:
            lines.append(f"| {data} | not run yet | | | | | | |")
            continue
        test, rows = figures["confirmation"][data], figures["parts"][f"confirm-{data}"]
        low, high = test["interval_by_seed"]
        lines.append(
            f"| {data} | {test['seeds']} x {test['clips']} | {rows['plain, teacher']['top1']:.3f} | "
            f"{rows['w3-unit, teacher']['top1']:.3f} | {test['difference']:+.3f} | {low:+.3f} to {high:+.3f} | "
            f"{test['p_seeds']:.3g} / {test['p_clips']:.3g} | {test['p_corrected']:.3g} |"
        )
    for part, rows in figures["parts"].items():
        if part.startswith("confirm-"):
            continue
        about = PARTS[part]
        lines += ["", f"### {part}: set `{about.data}`, seeds {about.seeds.start} to {about.seeds.stop - 1}", ""]
        lines += ["| arm | top-1 by seed | mean | minus plain | channel gates deviate by | spatial gates |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, row in rows.items():
            versus = next((row[key] for key in row if key.startswith("minus_")), None)
            by_seed = " ".join(f"{value:.3f}" for value in row["top1_by_seed"])
            gates = {
                kind: " ".join(f"{one['std']:.3f}" for key, one in row["gates"].items() if key.endswith(kind))
                for kind in ("channel", "spatial")
            }
            difference = "" if versus is None else f"{versus['difference']:+.3f} (p {versus['p']:.2g})"
            arm = name.removesuffix(", teacher")
            lines.append(
                f"| {arm} | {by_seed} | {row['top1']:.3f} | {difference} | {gates['channel']} | {gates['spatial']} |"
            )
        lines += pair_lines(figures["pairs"].get(part, []))
        lines += step_lines(figures["steps_to"].get(part, {}))
    lines += ["", "Gates: standard deviation in stages 1 to 4 over all held-out clips, mean of the seeds. p is not"]
    lines += ["corrected here."]
    if figures["not_run"]:
        lines += ["", f"Not run yet: {', '.join(figures['not_run'])}."]
    return "\n".join(lines)


def pair_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["", "| minuend | subtrahend | difference | 95% over seeds | p, seeds / clips | table of the paper |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows:
        first, second = (name.removesuffix(", teacher") for name in row["pair"])
        low, high = row["interval_by_seed"]
        lines.append(
            f"| {first} | {second} | {row['difference']:+.3f} | {low:+.3f} to {high:+.3f} | "
            f"{row['p_seeds']:.2g} / {row['p_clips']:.2g} | {row.get('paper', '')} |"
        )
    return lines


def step_lines(by_arm: Mapping[str, Mapping[str, Sequence[int | None]]]) -> list[str]:
    if not by_arm:
        return []
    lines = ["", "Steps of the student until a validation reaches an accuracy, by seed (-: never):", ""]
    lines += ["| arm | " + " | ".join(f"{level:.0%}" for level in LEVELS) + " |", "|---|" + "---|" * len(LEVELS)]
    for arm, levels in by_arm.items():
        cells = (" ".join("-" if steps is None else str(steps) for steps in found) for found in levels.values())
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def write_tables(figures: Mapping[str, Any]) -> None:
    before, after = PAGE.read_text().split(MARKS[0])[0], PAGE.read_text().split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{tables(figures)}\n\n{MARKS[1]}{after}")


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
    print(json.dumps({"chosen": figures.get("chosen"), "verdict": figures["verdict"]}, indent=1))


if __name__ == "__main__":
    main()

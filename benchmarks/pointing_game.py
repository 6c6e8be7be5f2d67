"""How much of the attention falls on what moves? W3, CBAM, and Grad-CAM of both and of plain TSM; five seeds each.

    python benchmarks/pointing_game.py [--study RUNS/attention-study] [--count 128]
    python benchmarks/pointing_game.py --clips RUNS/data/motion-... w3=RUNS/stages/student-... tsm=... w3=...

Scores the students of part `tables` of `attention_study.py` (W3 with and without AFR, CBAM, plain TSM; all else equal)
on the held-out clips "hard", and writes `results/pointing_game.json`. `w3ray.explaining.pointing` defines the measures.
Given models are scored instead. A repeated name is another seed.

Each model is compared with two maps that do not look at the picture: an even map, and the middle of the picture (Zhang
et al.; a cone for the mass), because the moving thing is nearer to the middle than to the borders.

A mask that is "turned round" is inverted: greatest where the gate is most closed.

`excess` is a map's value above that of an even map, in points of the share. Its standard error is over seeds.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import attention_study
import numpy as np
import torch
from _common import write_result

from w3ray.data.manifest import read_manifest
from w3ray.data.synthetic import ACTIONS, acting_cover
from w3ray.evaluation.normalize import normalize_clips
from w3ray.explaining.gradcam import grad_cam
from w3ray.explaining.maps import last_of_stages, stretch, to_frames
from w3ray.explaining.pointing import TOLERANCE, Pointing, cover_in_clip, pointing
from w3ray.explaining.videos import Explainer

ARMS = ("w3-unit", "w3-unit-no-afr", "cbam-unit", "plain")
"""Arms of the study's tables."""
PART, SET = "tables", "hard-few"
PAIRS = [" / ".join(pair) for pair in ACTIONS]


def students(work: Path) -> dict[str, list[str]]:
    """The model folders of the students of each arm, by seed."""
    from w3ray.sweep.records import SweepFolder

    folders: dict[str, list[str]] = {arm: [] for arm in ARMS}
    for trial in sorted(SweepFolder(str(work), PART).trials(), key=lambda trial: trial.repeat):
        arm, student = trial.point["case"], trial.stages[-1]
        if arm in folders:
            folders[arm].append(str(work / "stages" / f"{student.name}-{student.identity[:12]}"))
    return folders


def maps_of(explainer: Explainer, frames_THWC: np.ndarray) -> tuple[int, dict[str, np.ndarray]]:
    """The predicted class, and all maps to score: unchanged masks, the map of the picture, Grad-CAM."""
    one = explainer.explain(frames_THWC)
    num_frames, size = frames_THWC.shape[:2]
    maps = {}
    if one.source == "attention":
        maps["mean of the stages, stretched"] = one.map_TSS
        for look in last_of_stages(one.looks):
            assert look.mask_THW is not None  # these have one
            mask_TSS = to_frames(look.mask_THW, num_frames, size)
            maps[f"stage {look.stage}, as it is"] = mask_TSS
            maps[f"stage {look.stage}, stretched"] = stretch(mask_TSS)
            # A gate may mark a thing by closing over it.
            maps[f"stage {look.stage}, turned round"] = stretch(-mask_TSS)
    about = explainer.description
    device = next(explainer.model.parameters()).device
    clip_BTHWC = torch.from_numpy(frames_THWC)[None].to(device)
    x_BTCHW = normalize_clips(clip_BTHWC, mean=about.mean, std=about.std)
    maps["Grad-CAM"] = to_frames(grad_cam(explainer.model, x_BTCHW, one.predicted), num_frames, size)
    return one.predicted, maps


def middle(num_frames: int, size: int) -> np.ndarray:
    """A map that is greatest in the middle of the picture and 0 in its corners."""
    away_S = np.abs(np.arange(size, dtype=np.float32) - (size - 1) / 2)
    distance_SS = np.hypot(away_S[:, None], away_S[None, :])
    return np.repeat(1 - distance_SS[None] / distance_SS.max(), num_frames, axis=0)


def figures_of(scores: Sequence[Pointing]) -> dict[str, float]:
    """Means over clips. Each clip counts once, no matter how many of its frames show the thing."""
    seen = [score for score in scores if len(score.mass_F)]
    return {
        "mass_share": float(np.mean([score.mass_F.mean() for score in seen])),
        "mass_excess": float(np.mean([(score.mass_F - score.area_F).mean() for score in seen])),
        "hit_rate": float(np.mean([score.hit_F.mean() for score in seen])),
        "hit_excess": float(np.mean([(score.hit_F - score.hit_area_F).mean() for score in seen])),
    }


def over_seeds(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, standard error over seeds, and values by seed of the figures of each map."""
    found: dict[str, Any] = {}
    for name in models[0]["maps"]:
        found[name] = {}
        for figure in ("mass_share", "mass_excess", "hit_rate", "hit_excess"):
            values = np.array([model["maps"][name][figure] for model in models])
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
            found[name][figure] = {
                "mean": round(float(values.mean()), 4),
                "standard_error": None if error is None else round(float(error), 4),
                "by_seed": [round(float(value), 4) for value in values],
            }
    return found


def score_model(folder: str, clips: Path, split: str, count: int) -> dict[str, Any]:
    explainer = Explainer(folder)
    manifest = read_manifest(str(clips / "manifest.parquet"))
    rows = manifest.split(split)
    scores: dict[str, list[Pointing]] = {}
    pairs, hits = [], 0
    for row, video in islice(zip(rows.to_pylist(), manifest.resolved_uris(rows), strict=True), count):
        cover_TSS = cover_in_clip(acting_cover(clips, row["clip_id"]), explainer.spec)
        predicted, maps = maps_of(explainer, explainer.load(video).frames_TSSC)
        hits += predicted == row["label"]
        pairs.append(row["label"] // 2)
        for name, map_TSS in {**maps, "the middle": middle(*cover_TSS.shape[:2])}.items():
            scores.setdefault(name, []).append(pointing(map_TSS, cover_TSS))
    of_any_map = [score for score in next(iter(scores.values())) if len(score.mass_F)]
    return {
        "model": explainer.name,
        "clips": len(pairs),
        "frames": int(sum(len(score.mass_F) for score in of_any_map)),
        "top1": hits / len(pairs),
        "even_map": {
            "mass_share": float(np.mean([score.area_F.mean() for score in of_any_map])),
            "hit_rate": float(np.mean([score.hit_area_F.mean() for score in of_any_map])),
        },
        "maps": {
            name: figures_of(values)
            | {
                "by_pair": {
                    pair: figures_of([values[i] for i in np.flatnonzero(np.equal(pairs, number))])
                    for number, pair in enumerate(PAIRS)
                }
            }
            for name, values in scores.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME=FOLDER", help="models to score in place of the study's")
    parser.add_argument("--study", type=Path, default=Path("runs/attention-study"), help="the runs of the study")
    parser.add_argument("--clips", type=Path, help="folder of a generated set, where models are given")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=128, help="clips, from the first one on")
    options = parser.parse_args()
    if wrong := [model for model in options.models if "=" not in model]:
        parser.error(f"{wrong[0]}: a model is NAME=FOLDER; the folder of the study's runs is --study")
    if options.models and options.clips is None:
        parser.error("models need --clips: the set that was drawn for them")
    folders: dict[str, list[str]] = {}
    for model in options.models:
        name, folder = model.split("=", 1)
        folders.setdefault(name, []).append(folder)
    clips = options.clips
    if not options.models:
        attention_study.WORK = options.study.absolute()
        folders = students(attention_study.WORK)
        clips = attention_study.generated_manifest(attention_study.SETS[SET], None).parent
    figures: dict[str, Any] = {"tolerance": TOLERANCE, "split": options.split, "models": {}}
    for name, seeds in folders.items():
        models = [score_model(folder, clips, options.split, options.count) for folder in seeds]
        top1 = [round(model["top1"], 4) for model in models]
        common = {key: models[0][key] for key in ("model", "clips", "frames", "even_map")}
        by_pair = [{key: maps["by_pair"] for key, maps in model["maps"].items()} for model in models]
        figures["models"][name] = common | {"top1_by_seed": top1, "maps": over_seeds(models), "by_pair": by_pair}
        print(f"{name:<16}{'an even map':<30}hits {models[0]['even_map']['hit_rate']:.3f}")
        for map_name, row in figures["models"][name]["maps"].items():
            by_seed = " ".join(f"{value:.3f}" for value in row["hit_rate"]["by_seed"])
            mass = row["mass_excess"]["mean"]
            print(
                f"{name:<16}{map_name:<30}hits {row['hit_rate']['mean']:.3f} ({by_seed})  mass {mass:+.3f}", flush=True
            )
    asked = "--clips FOLDER NAME=FOLDER ..." if options.models else "--study RUNS/attention-study"
    print(write_result("pointing_game", figures, f"python benchmarks/pointing_game.py {asked}", compact=True))


if __name__ == "__main__":
    main()

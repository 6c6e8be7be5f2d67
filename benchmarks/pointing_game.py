"""How much of the attention falls on what moves? W3, CBAM, and Grad-CAM of both and of plain TSM.

    python benchmarks/pointing_game.py [--epochs 9] [--work FOLDER]
    python benchmarks/pointing_game.py --clips RUNS/clips w3=RUNS/stages/student-... tsm=...

Draws the quickstart's clips, trains the quickstart's chain four times (with W3, with W3 whose gates start as torch's
layers do, with CBAM, without attention; all else equal, one seed) and scores each student on the test clips:
`w3ray.explain.pointing` says what is counted. With models given nothing is trained. Writes
`results/pointing_game.json`.

Beside each model: an even map, and Zhang et al.'s other rival that looks at nothing, the middle of the picture (a cone
for the mass), because the thing is drawn nearer to it than to the borders.

`excess` is what a map gets above an even map, in points of the share; its standard error is over clips, of one model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import write_result

from w3ray.data.manifest import read_manifest
from w3ray.data.synthetic import ACTIONS, acting_cover, write_motion_dataset
from w3ray.evaluation.normalize import normalize_clips
from w3ray.explain.gradcam import grad_cam
from w3ray.explain.maps import last_of_stages, stretch, to_frames
from w3ray.explain.pointing import TOLERANCE, Pointing, cover_in_clip, pointing
from w3ray.explain.videos import Explainer

ARMS = {
    "w3": "{kind: w3, reduction: 16}",
    "w3_fresh": "{kind: w3, reduction: 16, identity_start: false}",
    "cbam": "{kind: cbam, reduction: 16}",
    "tsm": "null",
}
PAIRS = [" / ".join(pair) for pair in ACTIONS]


def train(work: Path, clips: Path, epochs: int) -> dict[str, str]:
    """The student of each arm, as the folder of its model."""
    import w3ray

    folders = {}
    for arm, attention in ARMS.items():
        overrides = [
            f"storage={work}",
            "data.synthetic=null",
            f"data.manifest={clips / 'manifest.parquet'}",
            f"model.attention={attention}",
            f"train.epochs={epochs}",
            "tracking.enabled=false",
        ]
        folders[arm] = w3ray.run("quickstart", overrides=overrides).stages[-1].model
        print(arm, folders[arm], flush=True)
    return folders


def maps_of(explainer: Explainer, frames_THWC: np.ndarray) -> tuple[int, dict[str, np.ndarray]]:
    """The predicted class, and every map that is scored: masks as they are, the picture's map, Grad-CAM."""
    one = explainer.explain(frames_THWC)
    num_frames, size = frames_THWC.shape[:2]
    maps = {}
    if one.source == "attention":
        maps["mean of the stages, stretched"] = one.map_TSS
        for look in last_of_stages(one.looks):
            mask_TSS = to_frames(look.mask_THW, num_frames, size)
            maps[f"stage {look.stage}, as it is"] = mask_TSS
            maps[f"stage {look.stage}, stretched"] = stretch(mask_TSS)
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


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "standard_error": float(np.std(values, ddof=1) / np.sqrt(len(values)))}


def figures_of(scores: Sequence[Pointing]) -> dict[str, Any]:
    """Means over clips; a clip counts once, however many of its frames show the thing."""
    seen = [score for score in scores if len(score.mass_F)]
    return {
        "mass_share": float(np.mean([score.mass_F.mean() for score in seen])),
        "mass_excess": mean_and_error([float((score.mass_F - score.area_F).mean()) for score in seen]),
        "hit_rate": float(np.mean([score.hit_F.mean() for score in seen])),
        "hit_excess": mean_and_error([float((score.hit_F - score.hit_area_F).mean()) for score in seen]),
    }


def score_model(folder: str, clips: Path, split: str) -> dict[str, Any]:
    explainer = Explainer(folder)
    manifest = read_manifest(str(clips / "manifest.parquet"))
    rows = manifest.split(split)
    scores: dict[str, list[Pointing]] = {}
    pairs, hits = [], 0
    for row, video in zip(rows.to_pylist(), manifest.resolved_uris(rows), strict=True):
        cover_TSS = cover_in_clip(acting_cover(clips, row["clip_id"]), explainer.spec)
        predicted, maps = maps_of(explainer, explainer.load(video))
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
    parser.add_argument("models", nargs="*", metavar="NAME=FOLDER", help="models to score in place of trained ones")
    parser.add_argument("--clips", type=Path, help="folder of a generated set; else one is drawn")
    parser.add_argument("--split", default="test")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--work", type=Path, default=Path("runs/pointing-game"))
    options = parser.parse_args()
    work = options.work.absolute()
    clips = work / "clips" if options.clips is None else options.clips.absolute()
    if options.clips is None:
        write_motion_dataset(clips, clips=480, val_clips=64, test_clips=128, seed=0, size=56)
    folders = dict(model.split("=", 1) for model in options.models) or train(work, clips, options.epochs)
    figures: dict[str, Any] = {"tolerance": TOLERANCE, "split": options.split, "models": {}}
    for name, folder in folders.items():
        figures["models"][name] = score_model(folder, clips, options.split)
        rows = {"an even map": figures["models"][name]["even_map"], **figures["models"][name]["maps"]}
        for map_name, row in rows.items():
            print(f"{name:<10}{map_name:<30}mass {row['mass_share']:.3f}  hits {row['hit_rate']:.3f}")
    command = "python benchmarks/pointing_game.py" + (f" --epochs {options.epochs}" if options.epochs != 9 else "")
    print(write_result("pointing_game", figures, command if not options.models else f"{command} NAME=FOLDER ..."))


if __name__ == "__main__":
    main()

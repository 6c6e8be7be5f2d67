"""What does packing (`w3ray data pack`) cost, and what does it save?

    python benchmarks/packing.py DATA [--clips 30] [--rounds 5]     # in DATA: ut-interaction, egogestar
    python benchmarks/packing.py DATA --accuracy [--seeds 5]        # hours on two cores

Sets: the two real ones, whose files are small already, and `egogestar-720`: the same gestures scaled up to 720 pixels
and coded by x264 as it comes, with a key frame every 250 frames. It stands for what cameras and the web deliver.

- Price of a training clip: `read_clip` as a decoder process calls it (8 frames of random segments, a random crop), in
  processor time. In each round every clip is read before and after packing, one after the other, with the same draws.
  The ratio is after / before in the same round: below 1, packing saves. Two sizes: 224 pixels from a short side of 256,
  and 112 from 128.
- Price of packing: processor time for each clip, and in how many epochs it is earned back (null: never).
- Bytes of the files before and after.

Accuracy: the recipe `ut-interaction` with plain TSM alone, all five folds, once on the files as they are and once on
packed ones (short side 256, the default), with the same seeds. The rule, written before the first run: the accuracy is
UNCHANGED WITHIN ITS NOISE if the 90% interval (t, over seeds) of the difference of top-1, pooled over the folds, lies
within -0.05 and 0.05, six clips of 120. These are two one-sided tests at 5%. Fewer than five seeds decide nothing.

Writes `results/packing.json`. Each part keeps the figures of the other part, with the commit that it was measured at.
"""

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, W3RAY, commit, rounded, spread, write_result

from w3ray.data.clip import ClipSpec, read_clip
from w3ray.data.decoders import open_video
from w3ray.data.decoders.in_order import frames_in_order
from w3ray.data.pack import PackSettings, pack_clip

SETS = ("ut-interaction", "egogestar", "egogestar-720")
SIZES = {256: 224, 128: 112}
"""Short side of packed frames -> side of the training clip, pixels."""
MARGIN, FEWEST_SEEDS, FIRST_SEED, FOLDS = 0.05, 5, 70, 5
WORK = Path("runs/packing").absolute()


def clips_of(data: Path, name: str, count: int, work: Path) -> list[str]:
    source = data / name.removesuffix("-720")
    with (source / "list.csv").open() as lines:
        paths = [str(source / row["path"]) for row in csv.DictReader(lines)]
    random.Random(0).shuffle(paths)
    paths = paths[:count]
    if name.endswith("-720"):
        return [scaled_up(path, work / f"large-{number}.mp4") for number, path in enumerate(paths)]
    return paths


def scaled_up(path: str, target: Path) -> str:
    """The video at a height of 720 pixels, coded with x264's default settings."""
    import av

    with open_video(path) as video, av.open(str(target), "w") as container:
        rate = Fraction(video.info.fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"threads": "1"})
        stream.codec_context.gop_size = 250
        for number, image in enumerate(frames_in_order(video, np.arange(video.info.num_frames))):
            if number == 0:
                height, width = image.shape[:2]
                stream.height, stream.width, stream.pix_fmt = 720, round(width * 360 / height) * 2, "yuv420p"
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame.reformat(stream.width, 720, "yuv420p", interpolation="BICUBIC")))
        container.mux(stream.encode())
    return str(target)


def price(before: Sequence[str], after: Sequence[str], spec: ClipSpec, rounds: int) -> dict[str, Any]:
    """Processor milliseconds of a training clip, and the ratios of the rounds."""
    kinds = {"before": before, "after": after}
    for paths in kinds.values():
        read_clip(paths[0], label=0, spec=spec, rng=np.random.default_rng(0))  # imports what reading needs
    ms: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        total = dict.fromkeys(kinds, 0.0)
        for place in range(len(before)):
            for kind in list(kinds)[:: 1 if (number + place) % 2 else -1]:
                rng = np.random.default_rng((number, place))
                began_s = time.process_time()
                read_clip(kinds[kind][place], label=0, spec=spec, rng=rng)
                total[kind] += time.process_time() - began_s
        for kind, seconds in total.items():
            ms[kind].append(seconds / len(before) * 1e3)
    ratios = sorted(after / before for before, after in zip(ms["before"], ms["after"], strict=True))
    ratio = {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}
    return {"cpu_ms_a_clip": {kind: spread(values) for kind, values in ms.items()}, "ratio": ratio}


def packing(paths: Sequence[str], settings: PackSettings, size: int, rounds: int, work: Path) -> dict[str, Any]:
    targets = [work / f"packed-{settings.short_side}-{number}.mp4" for number in range(len(paths))]
    began_s = time.process_time()
    frames = [pack_clip(path, None, None, target, settings) for path, target in zip(paths, targets, strict=True)]
    pack_ms = (time.process_time() - began_s) / len(paths) * 1e3
    read = price(paths, list(map(str, targets)), ClipSpec(num_frames=8, size=size), rounds)
    saved_ms = read["cpu_ms_a_clip"]["before"]["mean"] - read["cpu_ms_a_clip"]["after"]["mean"]
    return {
        "clip_pixels": size,
        **read,
        "pack_cpu_ms_a_clip": pack_ms,
        "epochs_until_earned_back": pack_ms / saved_ms if saved_ms > 0 else None,
        "frames_a_clip": statistics.fmean(frames),
        "bytes_a_clip": {
            "before": statistics.fmean(Path(path).stat().st_size for path in paths),
            "after": statistics.fmean(target.stat().st_size for target in targets),
        },
    }


def prices(data: Path, count: int, rounds: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name in SETS:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            paths = clips_of(data, name, count, work)
            figures[name] = {"clips": len(paths)} | {
                f"short side {short_side}": packing(paths, PackSettings(short_side=short_side), size, rounds, work)
                for short_side, size in SIZES.items()
            }
        for arm, row in figures[name].items():
            if arm != "clips":
                print(f"{name}, {arm}: {row['ratio']['median']:.2f} of the processor time", flush=True)
    return figures


def accuracy(data: Path, seeds: int, epochs: int | None) -> dict[str, Any]:
    """Both arms on all folds as one sweep; a second call continues it."""
    import w3ray
    from w3ray.sweep.records import SweepFolder
    from w3ray.sweep.space import Space

    WORK.mkdir(parents=True, exist_ok=True)
    manifests = {"before": WORK / "before.parquet", "after": WORK / "packed" / "manifest.parquet"}
    source = str(data / "ut-interaction" / "list.csv")
    imported = ["import", "csv", source, "--flip-map", "identity", "--out", str(manifests["before"])]
    for command in (imported, ["pack", str(manifests["before"]), "--out", str(WORK / "packed")]):
        subprocess.run([str(W3RAY), "data", *command], check=True, stdout=subprocess.DEVNULL)
    cases = {
        f"{arm}-{fold}": {"data.manifest": str(path), "data.fold": fold}
        for arm, path in manifests.items()
        for fold in range(FOLDS)
    }
    name = "packing" if epochs is None else f"packing-{epochs}-epochs"
    space = Space.model_validate({"name": name, "cases": cases, "search": {"searcher": "grid", "repeats": seeds}})
    settings: dict[str, Any] = {
        "storage": str(WORK), "data.manifest": str(manifests["before"]), "stages": [{"name": "teacher"}],
        "model.attention": None, "model.refinement": False, "tracking.enabled": False, "seed": FIRST_SEED,
        "train.validate_every_epochs": 1000, "train.checkpoint_every_epochs": 1000,
        **({} if epochs is None else {"train.epochs": epochs}),
    }  # fmt: skip
    w3ray.tune(space, "ut-interaction", overrides=[f"{key}={json.dumps(value)}" for key, value in settings.items()])
    right: dict[tuple[str, int], list[float]] = {}
    clips: dict[tuple[str, int], int] = {}
    for trial in SweepFolder(str(WORK), space.name).trials():
        if trial.state != "finished":
            raise SystemExit(f"trial {trial.id}: {trial.state}: {trial.reason}")
        (stage,) = trial.stages
        report = WORK / "stages" / f"{stage.name}-{stage.identity[:12]}" / "report" / "per_class.json"
        result = json.loads(report.read_text())["result"]
        key = (trial.point["case"].partition("-")[0], FIRST_SEED + trial.repeat)
        right.setdefault(key, []).append(result["top1"] * result["rows"])
        clips[key] = clips.get(key, 0) + result["rows"]
    top1 = {key: sum(values) / clips[key] for key, values in right.items()}
    return {"epochs": epochs or "of the recipe", **verdict(top1)}


def verdict(top1: dict[tuple[str, int], float]) -> dict[str, Any]:
    """By the rule above. `top1`: (arm, seed) -> share of the clips of all folds."""
    from scipy.stats import t

    seeds = sorted({seed for _, seed in top1})
    values = {arm: [top1[arm, seed] for seed in seeds] for arm in ("before", "after")}
    difference = spread([after - before for before, after in zip(values["before"], values["after"], strict=True)])
    half = float(t.ppf(0.95, len(seeds) - 1)) * difference["std"] / len(seeds) ** 0.5 if len(seeds) > 1 else None
    interval = None if half is None else [difference["mean"] - half, difference["mean"] + half]
    decided = interval is not None and len(seeds) >= FEWEST_SEEDS
    return {
        "seeds": seeds,
        "top1": {arm: spread(of_arm) for arm, of_arm in values.items()},
        "by_seed": values,
        "difference": difference,
        "interval_90": interval,
        "unchanged": (interval[0] > -MARGIN and interval[1] < MARGIN) if decided and interval else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--clips", type=int, default=30, help="clips of each set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--accuracy", action="store_true", help="train before and after packing, instead")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="a short trial of the study; default: as the recipe says")
    options = parser.parse_args()
    data = options.data.absolute()
    path = RESULTS / "packing.json"
    kept = json.loads(path.read_text())["figures"] if path.exists() else {}
    if options.accuracy:
        part = {"accuracy": {**accuracy(data, options.seeds, options.epochs), "commit": commit()}}
    else:
        part = {"price": {**prices(data, options.clips, options.rounds), "commit": commit()}}
    command = "python benchmarks/packing.py DATA " + " ".join(sys.argv[2:])
    print(f"wrote {write_result('packing', rounded({**kept, **part}), command.rstrip(), compact=True)}")


if __name__ == "__main__":
    main()

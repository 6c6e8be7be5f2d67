"""What does the quickstart cost, and what does it reach, on this machine?

    python benchmarks/quickstart.py [--seeds 0 1 2]

For each seed: `w3ray run quickstart --compare` from an empty storage (wall-clock; seconds to the first step, between
stages and outside steps; peak memory; held-out top-1 of plain TSM, teacher and student). Then a second time, when all
stages are reused. Then once the teacher with TSN, which does not see time and must fail on the reversed pairs. Writes
`results/quickstart.json`. Part `quickstart` of `attention_study.py` has accuracies of more seeds.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from _common import run_recipe, spread, write_result

LIMITS = {"wall_s": 300, "peak_memory_gib": 6, "to_first_step_s": 30, "between_stages_s": 15}


def figures_of(document: dict[str, Any]) -> dict[str, Any]:
    overhead = document["overhead"]
    return {
        "wall_s": document["wall_s"],
        "peak_memory_gib": document["peak_memory_gib"],
        "to_first_step_s": overhead["to_first_step_s"],
        "between_stages_s": overhead["between_stages_s"],
        "outside_steps_s": overhead["outside_steps_s"],
        "top1": {stage["name"]: stage["metrics"]["top1"] for stage in document["stages"]},
        "states": {stage["name"]: stage["state"] for stage in document["stages"]},
    }


def run(storage: Path, *arguments: str) -> dict[str, Any]:
    figures = figures_of(
        run_recipe(["quickstart", "--storage", str(storage), *arguments], storage.parent / "quickstart.log")
    )
    print(arguments, figures, flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark"))
    options = parser.parse_args()
    work = options.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    first, again = {}, {}
    for seed in options.seeds:
        storage = work / f"seed-{seed}"
        first[seed] = run(storage, "--compare", "--set", f"seed={seed}")
        again[seed] = run(storage, "--compare", "--set", f"seed={seed}")
    storage = work / f"seed-{options.seeds[0]}"
    seed = ("--set", f"seed={options.seeds[0]}")
    teacher_only = ("--set", "stages=[{name: teacher}]")
    no_time = run(storage, *seed, "--set", "model.name=tsn", *teacher_only)
    figures = {
        "limits": LIMITS,
        "top1": {
            name: spread([row["top1"][name] for row in first.values()]) for name in ("plain", "teacher", "student")
        },
        "wall_s": spread([row["wall_s"] for row in first.values()]),
        "second_run_wall_s": spread([row["wall_s"] for row in again.values()]),
        "tsn_top1": no_time["top1"]["teacher"],
        "runs": {"first": first, "second": again, "tsn": no_time},
    }
    seeds = " ".join(map(str, options.seeds))
    print(write_result("quickstart", figures, f"python benchmarks/quickstart.py --seeds {seeds}"))


if __name__ == "__main__":
    main()

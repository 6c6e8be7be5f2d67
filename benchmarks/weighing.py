"""What do three parts of the runtime save, compared with the same run without the part?

    python benchmarks/weighing.py [--pairs 3] [--work FOLDER]

Each part has code of its own, which a simpler runtime would not need:

    ahead       the next stage's processes start before the current stage has ended (`w3ray.pipeline.ahead`)
    loopback    the workers of one machine meet at its loopback address (`w3ray.runtime.rendezvous`, for TorchConfig)
    in process  a trial of a sweep trains in the trial's own process (`w3ray.runtime.in_process_stage`)

Each pair runs once with the part and once with the public behaviour of Ray Train in its place, in turns, from an empty
storage. The first two are seen on the quickstart with few clips, the last on the sweep `smoke`. Both arms must end with
the same accuracies. Writes `results/weighing.json`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import spread, write_result

CLIPS = {"clips": 96, "val_clips": 32, "test_clips": 32, "seed": 0, "size": 56}
RECIPE = ("tracking.enabled=false", f"data.synthetic={json.dumps(CLIPS)}", "train.epochs=4")


def run_quickstart(storage: str) -> dict[str, Any]:
    import w3ray

    result = w3ray.run("quickstart", overrides=[f"storage={storage}", *RECIPE], on_event=_listening)
    overhead = result.overhead
    return {
        "to_first_step_s": overhead["to_first_step_s"],
        "between_stages_s": sum(overhead["between_stages_s"].values()),
        "top1": [stage.metrics["top1"] for stage in result.stages],
        "open_ports": len(_PORTS),
    }


def run_sweep(storage: str) -> dict[str, Any]:
    import w3ray

    result = w3ray.tune("smoke", "quickstart", overrides=[f"storage={storage}", "tracking.enabled=false"])
    return {"top1": sorted(list(trial.values or ()) for point in result.points for trial in point.trials)}


_PORTS: set[str] = set()


def _listening(event: Any) -> None:
    """Note the ports that any machine may connect to, as the kernel lists them (address 0.0.0.0 or ::)."""
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            place, state = line.split()[1], line.split()[3]
            address, port = place.split(":")
            if state == "0A" and set(address) == {"0"}:
                _PORTS.add(port)


def without_ahead() -> None:
    import w3ray.pipeline.train_stage as module

    module.nearly_done = lambda event, item: False  # type: ignore[attr-defined]


def without_loopback() -> None:
    from ray.train.torch import TorchConfig

    import w3ray.runtime.cluster_stage as module

    module.MeetingConfig = TorchConfig  # type: ignore[assignment, misc]


def without_in_process() -> None:
    import w3ray.sweep.sweep as module

    module.trains_in_process = lambda nodes, plan: False  # type: ignore[attr-defined]


PARTS: dict[str, tuple[Callable[[], None], Callable[[str], dict[str, Any]]]] = {
    "ahead": (without_ahead, run_quickstart),
    "loopback": (without_loopback, run_quickstart),
    "in process": (without_in_process, run_sweep),
}


def run_arm(part: str, has_part: bool, storage: Path) -> dict[str, Any]:
    """Run one arm in a process of its own."""
    shutil.rmtree(storage, ignore_errors=True)
    command = [sys.executable, __file__, "--arm", part, "with" if has_part else "without", "--work", str(storage)]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "wall_s": time.monotonic() - began}


def compared(part: str, pairs: int, work: Path) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {"with": [], "without": []}
    for number in range(pairs):
        for name in ("with", "without") if number % 2 == 0 else ("without", "with"):
            rows[name].append(run_arm(part, name == "with", work))
            print(part, name, rows[name][-1], flush=True)
    answers = {json.dumps(row["top1"]) for arm in rows.values() for row in arm}
    if len(answers) != 1:
        raise SystemExit(f"{part}: the arms end with different accuracies: {answers}")
    seconds = [key for key in rows["with"][0] if key.endswith("_s")]
    ratios = {
        f"{key}, without / with": spread([w[key] / h[key] for h, w in zip(rows["with"], rows["without"], strict=True)])
        for key in seconds
        if all(row[key] for row in rows["with"])
    }
    return {"ratios": ratios, **rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/weighing"))
    parser.add_argument("--arm", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        part, which = options.arm
        remove, job = PARTS[part]
        if which == "without":
            remove()
        print(json.dumps(job(str(options.work))))
        return
    load = os.getloadavg()[0]
    figures = {part: compared(part, options.pairs, options.work.absolute()) for part in PARTS}
    print(
        write_result(
            "weighing", {"load_before": load, **figures}, f"python benchmarks/weighing.py --pairs {options.pairs}"
        )
    )


if __name__ == "__main__":
    main()

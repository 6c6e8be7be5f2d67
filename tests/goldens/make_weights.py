"""Train three small fixed recipes and write their results to `weights.json` beside this file.

    python tests/goldens/make_weights.py           # write the file again, for this processor
    python tests/goldens/make_weights.py --add     # add the sums of one more processor

A change of structure must not change results: `tests/pipeline/test_golden_weights.py` trains the recipes again. The
loss of each step must agree on any machine. The SHA-256 of the final weights must agree if the file has this processor
and this torch. Write the file again only after a change that is meant to change results, and say so in the commit.
Add a processor only with code whose results are known to be those of the file.
"""

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from w3ray.events import Event, StepDone
from w3ray.recipe import Recipe

FILE = Path(__file__).with_name("weights.json")

BASE: dict[str, Any] = {
    "data": {
        "synthetic": {"clips": 24, "val_clips": 8, "test_clips": 8, "size": 40, "difficulty": "hard"},
        "num_frames": 4,
        "size": 32,
    },
    "train": {"epochs": 2, "batch_size": 8, "microbatch_size": 4, "lr": 0.05, "log_every_steps": 1},
    "stages": [{"name": "teacher"}],
    "tracking": {"enabled": False},
    # One thread, because the last digits of a sum depend on how it is split over threads.
    "resources": {"workers": 1, "cpus_per_worker": 1, "decoders": 1, "use_gpu": False},
}
RECIPES: dict[str, dict[str, Any]] = {
    "plain-tsm": {"model": {"name": "tsm", "backbone": "resnet_small", "attention": None}},
    "w3-with-mfr": {
        "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
        "stages": [{"name": "teacher"}, {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.1}}],
    },
    "r3d-18": {
        "model": {"name": "r3d_18", "attention": None},
        "train": {**BASE["train"], "epochs": 1},
    },
}


def processor() -> str:
    """What decides the last digits: the processor's name, and the kernels that torch uses on it."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__.partition('+')[0]}"


def train(name: str, storage: Path, run: Callable[..., Any] | None = None) -> dict[str, Any]:
    """Stage -> SHA-256 of its final weights, and the cross-entropy of each step. `run`: None for `w3ray.run`."""
    import w3ray

    losses: dict[str, dict[int, float]] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, StepDone):
            losses.setdefault(event.stage, {})[event.step] = event.losses["cross_entropy"]

    recipe = Recipe.model_validate({**BASE, **RECIPES[name], "name": name, "storage": str(storage)})
    result = (run or w3ray.run)(recipe, on_event=on_event)
    return {
        stage.name: {
            "sha256": hashlib.sha256((Path(stage.model) / "model.safetensors").read_bytes()).hexdigest(),
            "losses": [round(losses[stage.name][step], 5) for step in sorted(losses[stage.name])],
        }
        for stage in result.stages
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipes = {name: train(name, Path(folder)) for name in RECIPES}
    before = json.loads(FILE.read_text())["recipes"] if "--add" in sys.argv else {}
    for name, stages in recipes.items():
        for stage, found in stages.items():
            known = before[name][stage] if before else {"sha256": {}, "losses": found["losses"]}
            found |= {"losses": known["losses"], "sha256": {**known["sha256"], processor(): found["sha256"]}}
    FILE.write_text(json.dumps({"recipes": recipes}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Why do some spatial gates of W3 stand still? Examines trained models.

    python benchmarks/still_gates.py RUNS/attention-study

Examines each spatial gate with temporal layers, over the first clips of the first generated data set of the study:
the deviation of the finished gate, and the share of places where the one hidden channel of Eq. 6 is at or below 0.
There its ReLU passes neither values nor gradients. Writes `results/still_gates.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _attention_parts import STILL
from _common import write_result
from scipy.stats import spearmanr
from torch import Tensor

from w3ray.attention.gating import mean_max
from w3ray.attention.w3 import SpatioTemporalAttention
from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.manifest import read_manifest
from w3ray.evaluation.normalize import normalize_clips
from w3ray.models.bundle import ModelDescription, load_model

CLIPS = 32


def test_clips(study: Path, description: ModelDescription) -> Tensor:
    """The first held-out clips of the first data set: uint8 [N, T, S, S, 3]."""
    manifest = read_manifest(str(sorted(study.glob("data/*/manifest.parquet"))[0]))
    rows = manifest.split("test").slice(0, CLIPS)
    spec = ClipSpec(**{**description.clip, "scales": tuple(description.clip["scales"])})
    clips = (
        load_clip(uri, label=row["label"], spec=spec, rng=None, start_s=row["start_s"], end_s=row["end_s"])[0]
        for row, uri in zip(rows.to_pylist(), manifest.resolved_uris(rows), strict=True)
    )
    return torch.from_numpy(np.stack(list(clips)))


@torch.no_grad()
def gates_of(folder: Path, clips: Tensor) -> list[dict[str, Any]]:
    """One row for each spatial gate, from the first block to the last."""
    model, description = load_model(folder)
    rows: list[dict[str, Any]] = []

    def look(module: Any, inputs: tuple[Tensor, ...], mask_BTHW: Tensor) -> None:
        pooled_BT2HW = torch.cat(mean_max(inputs[0], (2,)), dim=2)
        frame_BT1HW = module.frame(pooled_BT2HW.flatten(0, 1)).unflatten(0, pooled_BT2HW.shape[:2]).sigmoid()
        hidden_BTMHW = module.time1(frame_BT1HW)
        rows.append(
            {
                "stage": len(rows) + 1,
                "deviation": round(mask_BTHW.std().item(), 4),
                "frame_gate_deviation": round(frame_BT1HW.std().item(), 4),
                "hidden_at_zero": round((hidden_BTMHW <= 0).float().mean().item(), 4),
            }
        )

    gates = [one for one in model.modules() if isinstance(one, SpatioTemporalAttention) and one.temporal]
    hooks = [gate.register_forward_hook(look) for gate in gates]
    model(normalize_clips(clips, mean=description.mean, std=description.std))
    for hook in hooks:
        hook.remove()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    study = parser.parse_args().study
    clips, models = None, {}
    for path in sorted(study.glob("stages/*/model/model.json")):
        attention = json.loads(path.read_text())["model"]["attention"] or {}
        if attention.get("kind") != "w3" or attention.get("start") != "unit":
            continue
        stage = json.loads((path.parent.parent / "stage.json").read_text())["determinants"]
        if stage["data"]["synthetic"] is None or stage["train"]["optimizer"] != "adamw":
            continue
        if clips is None:
            clips = test_clips(study, load_model(path.parent)[1])
        if rows := gates_of(path.parent, clips):
            models[path.parent.parent.name] = {"seed": stage["seed"], "epochs": stage["train"]["epochs"], "gates": rows}
    gates = [row for model in models.values() for row in model["gates"]]
    still = [row for row in gates if row["deviation"] < STILL]
    moving = [row for row in gates if row["deviation"] >= STILL]
    figures = {
        "models": len(models),
        "gates": len(gates),
        "still": len(still),
        "still_by_stage": [sum(row["stage"] == stage for row in still) for stage in (1, 2, 3, 4)],
        "hidden_at_zero": {
            name: {"least": min(values), "median": float(np.median(values)), "most": max(values)}
            for name, rows in (("still", still), ("moving", moving))
            if (values := [row["hidden_at_zero"] for row in rows])
        },
        "frame_gate_deviation_of_still": sorted(row["frame_gate_deviation"] for row in still),
        "rank_correlation": float(
            spearmanr([row["hidden_at_zero"] for row in gates], [row["deviation"] for row in gates])[0]
        ),
        "by_model": models,
    }
    print(json.dumps({name: value for name, value in figures.items() if name != "by_model"}, indent=1))
    print(write_result("still_gates", figures, "python benchmarks/still_gates.py RUNS/attention-study", compact=True))


if __name__ == "__main__":
    main()

"""Rules: will the attention learn, and did it learn in finished stages of the recipe?"""

import json
from collections.abc import Iterator
from pathlib import Path

from w3ray.attention import CBAMConfig, W3Config
from w3ray.attention.health import HEALTH_NAME, faults, read_health
from w3ray.lint._common import Comparison, Finding, Rule
from w3ray.pipeline.identity import completed, stage_determinants
from w3ray.recipe import ResolvedStage
from w3ray.storage import modified_s, storage_path

_SCREENING = "benchmarks/results/attention-study/screen.json (generated clips, 240 steps, mean of 3 seeds)"


def near_open_start(comparison: Comparison) -> Iterator[Finding]:
    """Gates that start near 1, as sigmoids with a large bias. There they learn very slowly."""

    def read(stage: ResolvedStage) -> str | None:
        config = stage.model.attention
        return "near_open" if isinstance(config, W3Config | CBAMConfig) and config.start == "near_open" else None

    for field, start, _ in comparison.differing("model.attention", read, lambda ours, published: ours is None):
        yield Finding(
            severity="note",
            field=f"{field}.start",
            value=start,
            published=None,
            source="the slope of the gate is 0.045 at sigmoid(3) = 0.953, and 0.5 with start: unit; after 240 steps "
            "channel gates deviate by 0.01, and with start: unit by 0.06 to 0.09 (docs/attention.md)",
            cost="57.8 instead of 65.9 with start: unit, and 67.7 without attention (TSM)",
            cost_source=_SCREENING,
        )


def gates_of_finished_stages(comparison: Comparison) -> Iterator[Finding]:
    """Gates that do nothing in the newest finished stages of this recipe. Only storage on a disk is checked."""
    storage = storage_path(comparison.recipe.storage)
    if not isinstance(storage, Path):
        return  # object storage could take minutes to answer
    for stage in comparison.recipe.resolved_stages():
        folders = [path for path in storage.glob(f"stages/{stage.name}-*") if _is_of(path, stage, comparison)]
        if not folders:
            continue
        newest = max(folders, key=lambda path: modified_s(path / "result.json"))
        for fault in faults(read_health(newest / "model")):
            yield Finding(
                severity="warning",
                field=f"stages.{stage.name}.model.attention",
                value=str(newest / "model" / HEALTH_NAME),
                published=None,
                source=f"in the finished stage {fault}",
            )


def _is_of(folder: Path, stage: ResolvedStage, comparison: Comparison) -> bool:
    """Whether a folder is a finished stage with the same network, training and description of the data.

    It does not compare identities: these need the content of manifests and weights, and the videos may have changed.
    """
    recipe = comparison.recipe
    synthetic = None if recipe.data.synthetic is None else recipe.data.synthetic.determinants()
    ours = stage_determinants(
        stage, seed=stage.seed, data={"synthetic": synthetic}, weights=None, teacher_identity=None
    )
    if not (folder / "result.json").is_file():
        return False
    try:
        theirs = completed(json.loads((folder / "stage.json").read_text(encoding="utf-8"))["determinants"])
        theirs["model"]["weights"] = None
        theirs["data"] = {"synthetic": theirs["data"]["synthetic"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    compared = ("seed", "data", "model", "train", "loss_weights")
    return all(theirs.get(name) == json.loads(json.dumps(ours[name])) for name in compared)


RULES: dict[str, Rule] = {
    "near_open_start": near_open_start,
    "gates_of_finished_stages": gates_of_finished_stages,
}
"""Name -> rule."""

"""How do the workers' results become the files that a stage keeps: its model and its report?"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from w3ray.attention.health import HEALTH_NAME, from_document
from w3ray.evaluation.counting import loaded_counts
from w3ray.evaluation.report import PER_CLASS_JSON, write_report
from w3ray.models import build_model
from w3ray.models.bundle import DESCRIPTION_NAME, ModelDescription, write_model
from w3ray.pipeline.planned import PlannedStage, PreparedData
from w3ray.plugins import MODEL_FAMILIES, part_of
from w3ray.storage import fetched, written_whole
from w3ray.training.checkpoint import load_checkpoint
from w3ray.training.checkpoint_files import RAW_FILE


def complete_stage(item: PlannedStage, data: PreparedData, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Write the best checkpoint as a model, with measurements of its gates, and the test split's counts as a report.

    Args:
        outcome: what `RunningStage.outcome` returned.

    Returns:
        `metrics` of the test split; and of the best checkpoint the metrics `validation`, the path `checkpoint` and the
        `step`.
    """
    arguments = item.model_arguments(data)
    model = build_model(**{**arguments, "weights": None})
    checkpoint = item.store.checkpoint(outcome["best_checkpoint"])
    with fetched(checkpoint) as folder:
        meta = load_checkpoint(folder, model=model)
        raw = (folder / RAW_FILE).read_bytes() if (folder / RAW_FILE).is_file() else None
    description = ModelDescription(
        model=arguments,
        clip={**item.clip(data).values(), "augmentations": ()},  # only training uses them, and may need plugins
        classes=data.heads.classes,
        head_sizes=data.heads.sizes,
        multi_label=data.heads.multi_label,
        mean=model.pixels.mean,
        std=model.pixels.std,
        stage=item.stage.name,
        metrics=dict(outcome["test"]),
        bank=None if item.bank is None else asdict(item.bank.about()),
        plugins={part: source for part, source in item.sources.items() if part_of(part)[0] in MODEL_FAMILIES},
    )
    with written_whole(item.store.model, last=DESCRIPTION_NAME) as folder:
        write_model(folder, model, description)
        if raw is not None:
            (folder / RAW_FILE).write_bytes(raw)
        if outcome["attention"]:
            text = json.dumps(outcome["attention"], indent=2, allow_nan=False)
            (folder / HEALTH_NAME).write_text(text + "\n", encoding="utf-8")
    counts = loaded_counts(data.heads, outcome["counts"])
    with written_whole(item.store.report, last=PER_CLASS_JSON) as folder:
        write_report(folder, counts, {item.stage.name: from_document(outcome["attention"])})
    return {
        "metrics": outcome["test"],
        "validation": meta["metrics"],
        "checkpoint": str(checkpoint),
        "step": meta["step"],
    }

"""Which results are the same result? A stage's identity is the hash of everything that determines it.

Left out on purpose: workers, threads, decoder pool, storage and tracking. The samples of every step are the same
whatever they are; only the order in which floating-point numbers are added changes.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from w3ray.attention.options import as_before
from w3ray.data import STREAM_VERSION
from w3ray.models import MODEL_VERSION
from w3ray.recipe import ResolvedStage
from w3ray.training.version import TRAINING_VERSION

_NOT_DETERMINING = {
    "log_every_steps",
    "log_samples",
    "checkpoint_every_steps",
    "checkpoint_every_epochs",
    "keep_checkpoints",
}


def stage_determinants(
    stage: ResolvedStage,
    *,
    seed: int,
    data: Mapping[str, Any],
    weights: str | None,
    teacher_identity: str | None,
) -> dict[str, Any]:
    """Everything that decides a stage's result, as JSON values.

    Args:
        stage: with its model and training merged.
        seed: the stage's own.
        data: fingerprint of the manifest, splits and clip settings.
        weights: what the initial weights are: a hash of the file, a name, or None.
        teacher_identity: of the stage whose best checkpoint is the teacher.
    """
    train = {name: value for name, value in stage.train.model_dump(mode="json").items() if name not in _NOT_DETERMINING}
    if not stage.train.phases:
        del train["phases"]  # a stage without any is what it was before there were phases
    if stage.train.attention_lr_multiplier == 1:
        del train["attention_lr_multiplier"]  # as above
    model = {**stage.model.build_arguments(), "weights": weights}
    if model["attention"] is not None:
        model["attention"] = as_before(model["attention"]["kind"], model["attention"])
    return {
        "versions": {"model": MODEL_VERSION, "training": TRAINING_VERSION, "stream": STREAM_VERSION},
        "seed": seed,
        "data": dict(data),
        "model": model,
        "train": train,
        "loss_weights": dict(stage.loss_weights),
        "teacher": teacher_identity,
    }


def identity_of(determinants: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the determinants."""
    text = json.dumps(determinants, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two stages' determinants, a line each: `train.epochs: 10 -> 3`."""
    before, after = _flatten(old), _flatten(new)
    names = sorted(set(before) | set(after))
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat

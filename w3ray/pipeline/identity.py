"""When are two results the same result? A stage's identity is the hash of everything that determines its result.

Left out on purpose: workers, threads, decoder pool, storage and tracking. They do not change the samples of a step,
only the order in which floating-point numbers are added.

Determinants are written in full: every option has a value, even if the recipe does not give one. The hash is of their
shortest form, which leaves out options that older versions did not know or did not write. So a stage has one identity
however its recipe is written, and keeps its identity when an option is added (`AsBefore`).

For parts that are not built in, the source is a determinant: a loss with changed source is another loss.
"""

import json
from collections.abc import Mapping
from typing import Any

from w3ray._digest import digest_of
from w3ray.attention import attention_config, attention_from_before
from w3ray.data import STREAM_VERSION
from w3ray.data.bank import BANK_VERSION
from w3ray.data.clip import ClipSpec
from w3ray.models import MODEL_VERSION
from w3ray.models.options import model_as_before, model_from_before
from w3ray.pipeline.precision import AUTO
from w3ray.plugins import sources_of
from w3ray.recipe import (
    Phase,
    ResolvedBank,
    ResolvedStage,
    Synthetic,
    Train,
    as_before,
    fields_that_decide,
    without_as_before,
)
from w3ray.training.version import TRAINING_VERSION


def stage_determinants(
    stage: ResolvedStage,
    *,
    seed: int,
    data: Mapping[str, Any],
    weights: str | None,
    teacher_identity: str | None,
    bank: str | None = None,
) -> dict[str, Any]:
    """Everything that decides a stage's result, as JSON values.

    Args:
        stage: with its model and training settings merged.
        seed: of the stage.
        data: fingerprint of the manifest, splits and clip settings.
        weights: the initial weights: a hash of their file, a name, or None.
        teacher_identity: identity of the stage whose best checkpoint is the teacher; None: no teacher.
        bank: identity of the bank that the clips come with; None: they come with none.

    Raises:
        ValueError: the stage's precision is still to be chosen (`w3ray.pipeline.precision`).
    """
    if stage.train.precision == AUTO:
        raise ValueError(f"stage {stage.name}: train.precision must be chosen before the stage has an identity")
    train = stage.train.model_dump(mode="json")
    parts = sources_of(stage.parts())
    more = ({"plugins": parts} if parts else {}) | ({} if bank is None else {"bank": bank})
    return more | {
        "versions": {"model": MODEL_VERSION, "training": TRAINING_VERSION, "stream": STREAM_VERSION},
        "seed": seed,
        "data": dict(data),
        "model": {**stage.model.build_arguments(), "weights": weights},
        "train": {name: train[name] for name in fields_that_decide(Train)},
        "loss_weights": dict(stage.loss_weights),
        "teacher": teacher_identity,
    }


def bank_determinants(stage: ResolvedBank, *, of: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides a bank, as JSON values.

    Args:
        stage: the bank.
        of: identity of the training whose network makes the features.
        data: as in `stage_determinants`.
    """
    return {
        "versions": {"bank": BANK_VERSION}, "of": of, "data": dict(data), "every_s": stage.every_s,
        "span_s": stage.span_s,
    }  # fmt: skip


def bank_identity(determinants: Mapping[str, Any]) -> str:
    """The identity of a bank: the hash of the shortest form of `bank_determinants`."""
    return digest_of({**determinants, "data": _shortest_data(determinants["data"])})


def completed(determinants: Mapping[str, Any]) -> dict[str, Any]:
    """Determinants written by any version, in full: an absent or null option gets the value that it stood for then.

    Raises:
        ValueError, KeyError, TypeError: the determinants are damaged, or of a newer version.
    """
    model, data = model_from_before(determinants["model"]), dict(determinants["data"])
    if model["attention"] is not None:
        model["attention"] = attention_from_before(model["attention"]).written_out()
    if data.get("synthetic") is not None:
        data["synthetic"] = Synthetic.model_validate({**as_before(Synthetic), **data["synthetic"]}).determinants()
    if "clip" in data:
        data["clip"] = resolved_clip({**_clip_as_before(), **data["clip"]})
    train = json.loads(json.dumps(as_before(Train))) | dict(determinants["train"])
    train["phases"] = [{**as_before(Phase), **phase} for phase in train["phases"]]
    return {**determinants, "model": model, "data": data, "train": train}


def shortest(determinants: Mapping[str, Any]) -> dict[str, Any]:
    """The shortest form of full determinants, which is hashed: without options that mean the same when absent."""
    model = model_as_before(determinants["model"])
    if model["attention"] is not None:
        model["attention"] = attention_config(model["attention"]).as_before()
    train = without_as_before(Train, determinants["train"])
    if "phases" in train:
        train["phases"] = [without_as_before(Phase, phase) for phase in train["phases"]]
    return {**determinants, "model": model, "data": _shortest_data(determinants["data"]), "train": train}


def _shortest_data(full: Mapping[str, Any]) -> dict[str, Any]:
    data = dict(full)
    if data.get("synthetic") is not None:
        data["synthetic"] = Synthetic.shortest(data["synthetic"])
    if "clip" in data:
        clip = dict(data["clip"])
        if clip == resolved_clip({**clip, "short_side": None}):
            clip["short_side"] = None
        for name, value in _clip_as_before().items():
            if clip[name] == value:
                del clip[name]
        data["clip"] = clip
    return data


def _clip_as_before() -> dict[str, Any]:
    """`ClipSpec.as_before` as JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in ClipSpec.as_before().items()}


def resolved_clip(clip: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ClipSpec` as JSON values, with the number that a null short side stands for."""
    return {**clip, "short_side": ClipSpec(**clip).resolved_short_side}


def stage_identity(determinants: Mapping[str, Any]) -> str:
    """The identity of full determinants: the hash of their shortest form."""
    return digest_of(shortest(determinants))


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences between two stages' determinants, one line each, such as `train.epochs: 10 -> 3`."""
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

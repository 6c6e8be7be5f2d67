"""What does a finished model reach on any manifest, by any test protocol?

    model + manifest + protocol -> scores of every clip (kept, a part at a time) -> metrics, tables, pictures

An evaluation that was interrupted goes on where it stopped, and one that is asked for again only reads its scores: see
`w3ray.pipeline.clip_scores`.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from w3ray.cluster.plan import ResourcePlan, plan_resources
from w3ray.data.manifest import Manifest, read_manifest
from w3ray.data.views import parse_protocol
from w3ray.errors import InputError, RunError
from w3ray.models.bundle import ModelDescription, model_folder, read_description
from w3ray.pipeline.clip_scores import RESULT_NAME, ClipScores, KeptScores, write_scores
from w3ray.pipeline.connection import Connection
from w3ray.pipeline.identity import identity_of
from w3ray.pipeline.stage_store import require_writable
from w3ray.storage import Place, fetched, place, published

SCORING_VERSION = 1
"""Raised where the same model, clips and protocol get other scores than before."""

_COLUMNS = ["clip_id", "uri", "start_s", "end_s", "reversed", "label"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What `evaluate` returns; `metrics` are over the clips that could be read."""

    directory: str
    models: tuple[str, ...]
    manifest: str
    split: str
    protocol: str
    average: str
    clips: int
    unreadable: int
    metrics: Mapping[str, Any]
    reused: int
    """Clips whose scores were there already."""
    seconds: float

    def document(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    models: Sequence[str],
    manifest: str,
    *,
    split: str = "val",
    protocol: str = "1clip-center",
    average: str = "scores",
    storage: str = "runs",
    address: str | None = None,
    roots: Sequence[str] | None = None,
    max_failed_share: float = 0.01,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """Score a split of a manifest and write its report; several models are an ensemble, whose scores are averaged.

    Args:
        models: folders of models.
        manifest: path or `s3://...`; it must have the models' classes, in their order.
        split: name of the split.
        protocol: a name of `w3ray.data.views`.
        average: "scores" or "logits": see `w3ray.evaluation.scorer.Scorer`.
        storage: where evaluations are kept, below `evaluations/`.
        address: of a Ray cluster; None starts one here where clips are left to score.
        roots: where videos may lie; None: anywhere.
        max_failed_share: end with the reasons where more clips than this share can not be read.
        on_progress: called with (clips done, clips) of all models together.

    Raises:
        InputError: no model, no such split, other classes, an unknown protocol, a storage that can not be written.
        RunError: too many clips can not be read.
    """
    started = time.monotonic()
    check_average(average)
    if not models:
        raise InputError("name at least one model")
    looks = parse_protocol(protocol)
    root = place(storage)
    require_writable(root)
    clips = read_manifest(manifest)
    rows = clips.split(split, _COLUMNS)
    folders = [model_folder(name) for name in models]
    descriptions = [_description(folder) for folder in folders]
    for name, description in zip(models, descriptions, strict=True):
        _check_classes(name, description, clips)
    about = {
        "version": SCORING_VERSION, "manifest": clips.fingerprint(), "split": split, "protocol": looks.name,
        "average": average,
    }  # fmt: skip
    parts = [KeptScores(root, folder, about) for folder in folders]
    reused = sum(part.done for part in parts)
    connection = Connection(address, imports=False)
    try:
        for part, folder, description in zip(parts, folders, descriptions, strict=True):
            if part.done == rows.num_rows:
                continue
            plan = plan_scoring(connection.nodes())
            with closing(part.score(folder, description, clips, rows, looks, average, plan, roots)) as counts:
                for _ in counts:
                    if on_progress is not None:
                        on_progress(sum(one.done for one in parts), rows.num_rows * len(parts))
    finally:
        connection.close()
    result = ensemble([part.scores(rows) for part in parts])
    directory = parts[0].directory
    _check_readable(result, max_failed_share, directory)
    if len(parts) > 1:
        key = identity_of({"ensemble": [part.identity for part in parts]})
        directory = root / "evaluations" / f"ensemble-{split}-{looks.name}-{key[:12]}"
        write_scores(directory, result)
    answer = Evaluated(
        directory=str(directory),
        models=tuple(map(str, folders)),
        manifest=clips.location,
        split=split,
        protocol=looks.name,
        average=average,
        clips=rows.num_rows,
        unreadable=len(result.reasons),
        metrics=measure(result),
        reused=reused,
        seconds=time.monotonic() - started,
    )
    _write_report(directory, result, clips.classes, answer)
    return answer


def check_average(average: str) -> None:
    """Raises: InputError where nothing can be averaged so."""
    if average not in ("scores", "logits"):
        raise InputError(f"--average must be scores or logits, not {average!r}")


def _check_readable(result: ClipScores, max_failed_share: float, directory: Place) -> None:
    clips, unreadable = len(result.clip_ids), len(result.reasons)
    if unreadable > max_failed_share * clips:
        shown = "; ".join(f"{clip}: {reason}" for clip, reason in list(result.reasons.items())[:3])
        raise RunError(
            f"{unreadable} of {clips} clips can not be read, more than --max-failed-share {max_failed_share:g} "
            f"({shown}); all reasons are in {directory}"
        )


def measure(result: ClipScores) -> dict[str, Any]:
    """Accuracies with their intervals, loss, and calibration, over the clips that could be read.

    Raises:
        RunError: none could.
    """
    from w3ray.evaluation.uncertainty import accuracy_interval, calibration

    readable = result.readable
    if not readable.any():
        raise RunError("not one clip of the split can be read")
    counts = counted(result)
    metrics: dict[str, Any] = dict(counts.result())
    scores, labels = result.scores[readable], result.labels[readable]
    metrics["top1_interval"] = accuracy_interval(_right(scores, labels, 1))
    metrics["top5_interval"] = accuracy_interval(_right(scores, labels, 5))
    metrics["calibration_error"] = calibration(scores, labels).expected_error
    return metrics


def counted(result: ClipScores) -> Any:
    """`Counts` of the clips that could be read; of averaged scores, the loss is that of their logarithms."""
    import torch

    from w3ray.evaluation.metrics import Counts

    readable = result.readable
    scores = torch.from_numpy(result.scores[readable].astype(np.float64))
    counts = Counts(result.scores.shape[1])
    counts.update(scores.clamp(min=1e-30).log(), torch.from_numpy(result.labels[readable]).long())
    return counts


def right(result: ClipScores) -> np.ndarray:
    """bool [N]: whether the best class is the clip's own; False where it could not be read."""
    return _right(result.scores, result.labels, 1)


def ensemble(results: Sequence[ClipScores]) -> ClipScores:
    """The mean of several models' scores; a clip that one of them could not read has none."""
    first = results[0]
    reasons = {clip: reason for result in results for clip, reason in result.reasons.items()}
    scores = np.mean([result.scores.astype(np.float64) for result in results], axis=0).astype(np.float32)
    return ClipScores(clip_ids=first.clip_ids, labels=first.labels, scores=scores, reasons=reasons)


def _right(scores_NK: np.ndarray, labels_N: np.ndarray, top: int) -> np.ndarray:
    """bool [N]: whether the label is among the `top` best scores, equal ones ranked by class number."""
    true_N1 = np.take_along_axis(scores_NK, labels_N[:, None].astype(np.int64), 1)
    classes_K = np.arange(scores_NK.shape[1])
    ahead = (scores_NK > true_N1) | ((scores_NK == true_N1) & (classes_K < labels_N[:, None]))
    found: np.ndarray = np.isfinite(scores_NK).all(1) & (ahead.sum(1) < top)
    return found


def _description(folder: Place) -> ModelDescription:
    with fetched(folder) as local:
        return read_description(local)


def _check_classes(name: str, description: ModelDescription, clips: Manifest) -> None:
    if description.classes == clips.classes:
        return
    theirs, ours = set(description.classes), set(clips.classes)
    if theirs == ours:
        what = "the same classes in another order"
    else:
        unknown = sorted(ours ^ theirs)
        what = f"other classes: {len(unknown)} are in one of them only, such as {unknown[0]!r}"
    raise InputError(f"{clips.location}: has {what} than {name} was trained for; import the clips with its class names")


def plan_scoring(nodes: Sequence[Mapping[str, float]]) -> ResourcePlan:
    """A scorer on each GPU, or one for each node where there are none; decoders get the rest."""
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    scorers = gpus or sum(1 for node in nodes if node.get("CPU", 0) >= 1)
    return plan_resources(
        nodes=nodes, workers=(max(1, scorers),) * 2, use_gpu="auto", decoders="auto", cpus_per_worker=None
    )


def _write_report(directory: Place, result: ClipScores, classes: Sequence[str], answer: Evaluated) -> None:
    from w3ray.evaluation.report import write_report

    with published(directory / "report", last="per_class.json") as folder:
        write_report(folder, counted(result), classes)
    text = json.dumps({**answer.document(), "classes": list(classes)}, indent=1, allow_nan=True)
    (directory / RESULT_NAME).write_text(text + "\n", encoding="utf-8")

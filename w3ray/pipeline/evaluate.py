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
from typing import TYPE_CHECKING, Any

import numpy as np

from w3ray._file_names import file_stem
from w3ray.attention.health import StageHealth, read_health
from w3ray.cluster.plan import ResourcePlan, plan_resources
from w3ray.data.manifest import CLIP_COLUMNS, Manifest, read_manifest
from w3ray.data.stamps import changes_since_import
from w3ray.data.views import parse_protocol
from w3ray.errors import InputError, RunError
from w3ray.heads import UNLABELLED, Heads
from w3ray.models.bundle import ModelDescription, model_folder, read_description
from w3ray.pipeline.clip_scores import RESULT_NAME, ClipScores, KeptScores, write_scores
from w3ray.pipeline.connection import Connection
from w3ray.pipeline.identity import identity_of
from w3ray.pipeline.stage_store import require_writable
from w3ray.storage import StoragePath, fetched, storage_path, written_whole

if TYPE_CHECKING:
    from w3ray.evaluation.head_counts import HeadCounts
    from w3ray.evaluation.uncertainty import Calibration

SCORING_VERSION = 2
"""Raised where the same model, clips and protocol get other scores than before."""

_SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What `evaluate` returns; `metrics` are over the clips that could be read and have a label ({} where none has)."""

    directory: str
    models: tuple[str, ...]
    manifest: str
    split: str
    fold: int | None
    folds: int | None
    protocol: str
    average: str
    clips: int
    unreadable: int
    unlabelled: int
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
    fold: int | None = None,
    folds: int | None = None,
    protocol: str = "1clip-center",
    average: str = "scores",
    storage: str = "runs",
    address: str | None = None,
    roots: Sequence[str] | None = None,
    max_failed_share: float = 0.01,
    on_progress: Callable[[int, int], None] | None = None,
    names: Sequence[str] | None = None,
) -> Evaluated:
    """Score a split of a manifest and write its report; several models are an ensemble, whose scores are averaged.

    Args:
        models: folders of models.
        manifest: path or `s3://...`; it must have the models' classes, in their order.
        split: name of the split.
        fold, folds: deal train and val anew by group first, as `data.fold` and `data.folds` did for the run: val is
            then what that run did not train on. None: the manifest's own splits.
        protocol: a name of `w3ray.data.views`.
        average: "scores" or "logits": see `w3ray.evaluation.scorer.Scorer`.
        storage: where evaluations are kept, below `evaluations/`.
        address: of a Ray cluster; None starts one here where clips are left to score.
        roots: where videos may lie; None: anywhere.
        max_failed_share: end with the reasons where more clips than this share cannot be read.
        on_progress: called with (clips done, clips) of all models together.
        names: what the models are called in the result where that is not their folders.

    Raises:
        InputError: no model, no such split or fold, other classes, an unknown protocol, a storage that cannot be
            written.
        RunError: too many clips cannot be read.
    """
    started = time.monotonic()
    check_average(average)
    if not models:
        raise InputError("name at least one model")
    looks = parse_protocol(protocol)
    root = storage_path(storage)
    require_writable(root)
    clips = _dealt(read_manifest(manifest), fold, folds)
    split = clips.split_named(split)
    rows = clips.split(split, CLIP_COLUMNS)
    folders = [model_folder(name) for name in models]
    descriptions = [_description(folder) for folder in folders]
    for name, description in zip(models, descriptions, strict=True):
        _check_classes(name, description, clips)
    about = {
        "version": SCORING_VERSION, "manifest": clips.fingerprint(), "split": split, "protocol": looks.name,
        "average": average,
    }  # fmt: skip
    if (changed := changes_since_import(clips, [split]).digest) is not None:
        about["changed_videos"] = changed  # scores of what the files were before are not used
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
        directory = root / "evaluations" / f"ensemble-{file_stem(split)}-{looks.name}-{key[:12]}"
        write_scores(directory, result)
    answer = Evaluated(
        directory=str(directory),
        models=tuple(
            str(folder) if name == given else name
            for folder, name, given in zip(folders, names or models, models, strict=True)
        ),
        manifest=clips.location,
        split=split,
        fold=fold,
        folds=folds,
        protocol=looks.name,
        average=average,
        clips=rows.num_rows,
        unreadable=len(result.reasons),
        unlabelled=int((result.labels == UNLABELLED).sum()),
        metrics=measure(result, clips.heads),
        reused=reused,
        seconds=time.monotonic() - started,
    )
    attention = {name: read_health(folder) for name, folder in zip(answer.models, folders, strict=True)}
    _write_report(directory, result, clips.heads, answer, attention)
    return answer


def check_average(average: str) -> None:
    """Raises: InputError where nothing can be averaged so."""
    if average not in ("scores", "logits"):
        raise InputError(f"--average must be scores or logits, not {average!r}")


def _dealt(clips: Manifest, fold: int | None, folds: int | None) -> Manifest:
    """With its folds dealt where they are asked for; the fingerprint, and so the scores' folder, is then the fold's."""
    if (fold is None) != (folds is None):
        raise InputError("--fold and --folds go together: give both or neither")
    return clips if fold is None or folds is None else clips.with_fold(fold, folds)


def _check_readable(result: ClipScores, max_failed_share: float, directory: StoragePath) -> None:
    clips, unreadable = len(result.clip_ids), len(result.reasons)
    if unreadable > max_failed_share * clips:
        shown = "; ".join(f"{clip}: {reason}" for clip, reason in list(result.reasons.items())[:3])
        raise RunError(
            f"{unreadable} of {clips} clips cannot be read, more than --max-failed-share {max_failed_share:g} "
            f"({shown}); all reasons are in {directory}"
        )


def measure(result: ClipScores, heads: Heads) -> dict[str, Any]:
    """Accuracies with their intervals, loss, and calibration, over the clips that could be read and have a label.

    Of several heads: `top1` and the like of their combinations, and `verb_top1` and the like of each; the loss is the
    sum over the heads. {} where not one clip has a label.

    Raises:
        RunError: no clip could be read.
    """
    from w3ray.evaluation.uncertainty import accuracy_interval

    if not result.readable.any():
        raise RunError("not one clip of the split can be read")
    known = result.measurable
    if not known.any():
        return {}
    metrics: dict[str, Any] = dict(counted(result, heads).result())
    scores, labels = result.scores[known], result.labels[known]
    for name, rank_N in _ranks(scores, labels, heads).items():
        for top in (1, 5):
            metrics[f"{name}top{top}_interval"] = accuracy_interval(rank_N < top)
    metrics |= {f"{name}calibration_error": one.expected_error for name, one in calibrations(result, heads).items()}
    return metrics


def calibrations(result: ClipScores, heads: Heads) -> "dict[str, Calibration]":
    """By the prefix of its metrics: of all heads together "", of each of several "verb_" and the like."""
    from w3ray.evaluation.uncertainty import calibration_of

    known = result.measurable
    scores, labels = result.scores[known], result.labels[known]
    sure_N, right_N = np.ones(len(scores)), np.ones(len(scores), dtype=bool)
    found = {}
    for head in heads.each():
        own_NK = scores[:, head.scores]
        own_sure_N, own_right_N = own_NK.max(1), own_NK.argmax(1) == head.label(labels)
        sure_N, right_N = sure_N * own_sure_N, right_N & own_right_N
        if heads.several:
            found[head.metric("")] = calibration_of(own_sure_N, own_right_N)
    return {"": calibration_of(sure_N, right_N), **found}


def counted(result: ClipScores, heads: Heads) -> "HeadCounts":
    """Counts of `measurable` clips; of averaged scores, the loss is that of their logarithms."""
    import torch

    from w3ray.evaluation.head_counts import HeadCounts

    known = result.measurable
    scores = torch.from_numpy(result.scores[known].astype(np.float64))
    counts = HeadCounts(heads)
    counts.update(scores.clamp(min=1e-30).log(), torch.from_numpy(result.labels[known]).long())
    return counts


def right(result: ClipScores, heads: Heads) -> np.ndarray:
    """bool [N]: whether the best class (of several heads: of each) is the clip's own; False where nobody knows."""
    hits = np.zeros(len(result.labels), dtype=bool)
    known = result.measurable
    hits[known] = _ranks(result.scores[known], result.labels[known], heads)[""] == 0
    return hits


def ensemble(results: Sequence[ClipScores]) -> ClipScores:
    """The mean of several models' scores; a clip that one of them could not read has none."""
    first = results[0]
    reasons = {clip: reason for result in results for clip, reason in result.reasons.items()}
    scores = np.mean([result.scores.astype(np.float64) for result in results], axis=0).astype(np.float32)
    return ClipScores(clip_ids=first.clip_ids, labels=first.labels, scores=scores, reasons=reasons)


def _ranks(scores_NS: np.ndarray, labels_N: np.ndarray, heads: Heads) -> dict[str, np.ndarray]:
    """int [N]: how many classes come before the clip's own, equal ones ranked by class number; by metrics' prefix."""
    import torch

    from w3ray.evaluation.head_scores import combined_scores

    ranks = {head.metric(""): _rank(scores_NS[:, head.scores], head.label(labels_N)) for head in heads.each()}
    if not heads.several:
        return ranks
    logarithms = torch.from_numpy(scores_NS.astype(np.float64)).clamp(min=1e-30).log()
    at_once = max(1, _SCORES_AT_ONCE // heads.num_labels)
    parts = zip(logarithms.split(at_once), range(0, len(scores_NS), at_once), strict=True)
    combined = [_rank(combined_scores(part, heads).numpy(), labels_N[i : i + at_once]) for part, i in parts]
    return {"": np.concatenate(combined), **ranks}


def _rank(scores_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    true_N1 = np.take_along_axis(scores_NK, labels_N[:, None].astype(np.int64), 1)
    classes_K = np.arange(scores_NK.shape[1])
    ahead = (scores_NK > true_N1) | ((scores_NK == true_N1) & (classes_K < labels_N[:, None]))
    rank: np.ndarray = np.where(np.isfinite(scores_NK).all(1), ahead.sum(1), scores_NK.shape[1])
    return rank


def _description(folder: StoragePath) -> ModelDescription:
    with fetched(folder) as local:
        return read_description(local)


def _check_classes(name: str, description: ModelDescription, clips: Manifest) -> None:
    if description.heads == clips.heads:
        return
    if description.classes == clips.classes:
        raise InputError(
            f"{clips.location}: has the heads {dict(clips.head_sizes)}, {name} {dict(description.head_sizes)}"
        )
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


def _write_report(
    directory: StoragePath,
    result: ClipScores,
    heads: Heads,
    answer: Evaluated,
    attention: Mapping[str, Sequence[StageHealth]],
) -> None:
    from w3ray.evaluation.reliability import write_calibration
    from w3ray.evaluation.report import PER_CLASS_JSON, write_report

    if answer.metrics:
        with written_whole(directory / "report", last=PER_CLASS_JSON) as folder:
            write_report(folder, counted(result, heads), attention)
            for prefix, found in calibrations(result, heads).items():
                write_calibration(folder, found, prefix)
    document = {**answer.document(), "classes": list(heads.classes), "heads": [list(head) for head in heads.sizes]}
    text = json.dumps(document, indent=1, allow_nan=True)
    (directory / RESULT_NAME).write_text(text + "\n", encoding="utf-8")

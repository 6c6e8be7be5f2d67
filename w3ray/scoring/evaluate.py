"""What accuracy does a finished model reach on a manifest, with a test protocol?

    model + manifest + protocol -> scores of every clip (kept, a part at a time) -> metrics, tables, pictures

An interrupted evaluation resumes where it stopped. A repeated evaluation only reads its scores: see
`w3ray.scoring.clip_scores`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from w3ray._digest import digest_of
from w3ray._file_names import file_stem
from w3ray.attention.health import StageHealth, read_health
from w3ray.cluster.connection import Connection
from w3ray.data.modality import holds_flow, require_modality
from w3ray.errors import InputError, RunError
from w3ray.heads import UNLABELLED, Head, Heads
from w3ray.models.bundle import model_folder, read_description
from w3ray.scoring.clip_scores import RESULT_NAME, ClipScores, KeptScores, write_scores
from w3ray.scoring.combine import check_heads, head_of, log_prior, side_by_side
from w3ray.scoring.measure import calibrations, check_weights, counted, ensemble, measure
from w3ray.scoring.multi_label import thresholds_of
from w3ray.scoring.question import Question, boxes_for, model_bank, plan_scoring
from w3ray.storage import StoragePath, fetched, require_writable, storage_path, write_text, written_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What `evaluate` returns. `metrics` are over the readable clips that have a label ({} if no clip has one)."""

    directory: str
    models: tuple[str, ...]
    manifest: str
    split: str
    fold: int | None
    folds: int | None
    protocol: str
    average: str
    weights: tuple[float, ...] | None
    """The models' weights in the mean of their scores; None: they count the same."""
    clips: int
    unreadable: int
    unlabelled: int
    metrics: Mapping[str, Any]
    reused: int
    """Number of clips whose scores existed already, summed over the models."""
    seconds: float
    combine: bool = False
    """The models have one head each."""
    prior: str | None = None
    """Of the combinations, in their accuracies."""
    threshold: str | None = None
    """Of multi-label models: where the score of a class says that a clip has it; None: at 0.5."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    models: Sequence[str],
    manifest: str,
    *,
    flow_manifest: str | None = None,
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
    weights: Sequence[float] = (),
    boxes: str | None = None,
    banks: Sequence[str] = (),
    combine: bool = False,
    prior: str | None = None,
    threshold: str | None = None,
) -> Evaluated:
    """Score a split of a manifest and write its report.

    Several models form an ensemble: their scores are averaged. With `combine`, each has one head of the clips instead.

    Args:
        models: folders of models.
        manifest: path or `s3://...`; it must have the models' classes, in the same order.
        flow_manifest: the same clips as optical flow, for the models that read flow.
        split: name of the split.
        fold, folds: divide train and val again by group first, as `data.fold` and `data.folds` did for the run. Then
            val holds the clips that the run did not train on. None: the manifest's own splits.
        protocol: a name from `w3ray.data.views`.
        average: "scores" or "logits": see `w3ray.evaluation.scorer.Scorer`.
        storage: where evaluations are kept, in its folder `evaluations/`.
        address: of a Ray cluster; None: start one on this machine if clips are left to score.
        roots: the folders that videos may lie in; None: anywhere.
        max_failed_share: fail, with the reasons, if a larger share of the clips cannot be read.
        on_progress: called with (clips done, all clips), summed over the models.
        names: the models' names in the result; None: their folders.
        weights: of the models in the mean of their scores, one for each; (): they count the same.
        boxes: file of boxes of the clips, for the models that need them.
        banks: folders of banks of the videos; a model that reads one takes that of its kind.
        combine: two models, each with the classes of one of the clips' two heads: see `w3ray.scoring.combine`.
        prior: with `combine`: a split of the manifest, or MANIFEST:SPLIT, whose pairs of classes weigh the actions.
        threshold: of multi-label models: see `w3ray.scoring.multi_label.thresholds_of`.

    Raises:
        InputError: no model, wrong weights or threshold, no such split or fold, other classes, an unknown protocol,
            views that a model cannot take, boxes or banks that are needed and absent or are of another model, or a
            storage that cannot be written.
        RunError: too many clips cannot be read.
    """
    # Long: a third of it copies options into the result.
    started = time.monotonic()
    if not models:
        raise InputError("name at least one model")
    _check_combine(models, weights, combine, prior)
    weights_of_models, root = check_weights(weights, len(models)), storage_path(storage)
    questions = [
        Question.of(one, split, protocol=protocol, average=average, fold=fold, folds=folds)
        for one in (manifest, flow_manifest)
        if one is not None
    ]
    question = questions[0]
    require_writable(root)
    for other in questions[1:]:
        question.require_same_clips(other)
    parts = [_kept(root, name, questions, boxes, banks, combine) for name in models]
    prior_P = None if prior is None else log_prior(prior, question.clips)
    found = _heads_of(models, parts, question) if combine else ()
    _check_banks(banks, models, parts)
    thresholds = thresholds_of(threshold, question.clips.heads)
    reused = sum(part.done for part in parts)
    _score(parts, address, roots, on_progress)
    result = _joined(parts, found, weights_of_models)
    _check_readable(result, max_failed_share, parts[0].directory)
    directory = _folder(root, parts, weights_of_models, result, prior_P, combine=combine)
    answer = Evaluated(
        directory=str(directory),
        models=_shown_names(parts, models, names or models),
        manifest=question.clips.location,
        split=question.split,
        fold=fold,
        folds=folds,
        protocol=question.protocol.name,
        average=average,
        weights=weights_of_models,
        clips=question.rows.num_rows,
        unreadable=len(result.reasons),
        unlabelled=int((result.labels == UNLABELLED).sum()),
        metrics=measure(result, question.clips.heads, prior_P, thresholds),
        combine=combine,
        prior=prior,
        threshold=threshold,
        reused=reused,
        seconds=time.monotonic() - started,
    )
    attention = {name: read_health(part.model) for name, part in zip(answer.models, parts, strict=True)}
    _write_report(directory, result, question.clips.heads, answer, attention, prior_P, thresholds)
    return answer


def _shown_names(parts: Sequence[KeptScores], given: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The models' names: where a model has none, its folder."""
    return tuple(str(part.model) if name == one else name for part, one, name in zip(parts, given, names, strict=True))


def _check_combine(models: Sequence[str], weights: Sequence[float], combine: bool, prior: str | None) -> None:
    if not combine:
        if prior is not None:
            raise InputError("--prior weighs the actions of two models; add --combine")
        return
    if len(models) != 2:
        raise InputError(f"--combine: needs two models, one for each head; {len(models)} given")
    if weights:
        raise InputError("--weight: the scores of two heads are not averaged; leave it out with --combine")


def _check_banks(banks: Sequence[str], models: Sequence[str], parts: Sequence[KeptScores]) -> None:
    if banks and not any(part.question.bank for part in parts):
        raise InputError(f"--bank {banks[0]}: {models[0]} reads no bank; leave it out")


def _heads_of(models: Sequence[str], parts: Sequence[KeptScores], question: Question) -> list[Head]:
    """The head of each of the models that are combined."""
    found = [head_of(name, part.description, question.clips) for name, part in zip(models, parts, strict=True)]
    check_heads(models, found, question.clips.heads)
    return found


def _joined(parts: Sequence[KeptScores], found: Sequence[Head], weights: Sequence[float] | None) -> ClipScores:
    """The scores of one model, of an ensemble or, with the head of each model, of their heads side by side."""
    scores = [part.scores() for part in parts]
    return side_by_side(scores, found) if found else ensemble(scores, weights)


def _folder(
    root: StoragePath,
    parts: Sequence[KeptScores],
    weights: Sequence[float] | None,
    result: ClipScores,
    prior_P: np.ndarray | None,
    *,
    combine: bool,
) -> StoragePath:
    """The folder of the result: that of the one model, or one in which the scores of several are written."""
    if len(parts) == 1:
        return parts[0].directory
    more: dict[str, Any] = {}
    if combine:
        more = {"combine": True, "prior": None if prior_P is None else hashlib.sha256(prior_P.tobytes()).hexdigest()}
    return _keep_ensemble(root, parts, weights, result, more)


def _kept(
    root: StoragePath,
    name: str,
    questions: Sequence[Question],
    boxes: str | None,
    banks: Sequence[str],
    combine: bool,
) -> KeptScores:
    """The kept scores of the model in a folder; some or all may be missing."""
    folder = model_folder(name)
    with fetched(folder) as local:
        description = read_description(local)
    flow_fields = description.clip.get("flow_fields")
    question = next((one for one in questions if holds_flow(one.clips) == (flow_fields is not None)), questions[0])
    require_modality(question.clips, flow_fields, name)
    if combine:
        head_of(name, description, question.clips)
    else:
        question.require_classes(name, description)
    question.require_clips(name, description)
    if (found := boxes_for(name, description, boxes)) is not None:
        question = replace(question, boxes=found)
    if (bank := model_bank(name, description, banks)) is not None:
        question = replace(question, bank=bank)
    if found is not None or bank is not None:
        question.resolved_rows()  # so that a clip without boxes or features is reported now
    return KeptScores(root, folder, description, question)


def _score(
    parts: Sequence[KeptScores],
    address: str | None,
    roots: Sequence[str] | None,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Score the clips that have no scores yet."""
    total = sum(part.question.rows.num_rows for part in parts)
    connection = Connection(address)
    try:
        for part in parts:
            if part.whole:
                continue
            plan = plan_scoring(connection.nodes())
            connection.require(part.plugins)
            with closing(part.score(plan, roots)) as counts:
                for _ in counts:
                    if on_progress is not None:
                        on_progress(sum(one.done for one in parts), total)
    finally:
        connection.close()


def _keep_ensemble(
    root: StoragePath,
    parts: Sequence[KeptScores],
    weights: Sequence[float] | None,
    result: ClipScores,
    more: Mapping[str, Any],
) -> StoragePath:
    """Write scores that were computed from several models' scores into a folder of their own.

    Args:
        more: what decides them besides the models and their weights.
    """
    question = parts[0].question
    of_weights = {} if weights is None else {"weights": list(weights)}
    key = digest_of({"ensemble": [part.identity for part in parts], **of_weights, **more})
    name = f"{'combined' if more else 'ensemble'}-{file_stem(question.split)}-{question.protocol.name}-{key[:12]}"
    write_scores(root / "evaluations" / name, result)
    return root / "evaluations" / name


def _check_readable(result: ClipScores, max_failed_share: float, directory: StoragePath) -> None:
    clips, unreadable = len(result.clip_ids), len(result.reasons)
    if unreadable > max_failed_share * clips:
        shown = "; ".join(f"{clip}: {reason}" for clip, reason in list(result.reasons.items())[:3])
        raise RunError(
            f"{unreadable} of {clips} clips cannot be read, more than --max-failed-share {max_failed_share:g} "
            f"({shown}); all reasons are in {directory}"
        )


def _write_report(
    directory: StoragePath,
    result: ClipScores,
    heads: Heads,
    answer: Evaluated,
    attention: Mapping[str, Sequence[StageHealth]],
    prior_P: np.ndarray | None,
    thresholds: Sequence[float] | None,
) -> None:
    from w3ray.evaluation.reliability import write_calibration
    from w3ray.evaluation.report import PER_CLASS_JSON, write_report

    if answer.metrics:
        with written_whole(directory / "report", last=PER_CLASS_JSON) as folder:
            write_report(folder, counted(result, heads, prior_P, thresholds), attention)
            for prefix, found in calibrations(result, heads).items():
                write_calibration(folder, found, prefix)
    document = {**answer.document(), "classes": list(heads.classes), "heads": [list(head) for head in heads.sizes]}
    if heads.label_sets is not None:
        document["label_sets"] = [list(one) for one in heads.label_sets]
    text = json.dumps(document, indent=1, allow_nan=True)
    write_text(directory / RESULT_NAME, text + "\n")

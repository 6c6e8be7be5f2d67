"""Rules: is the network trained as the published one?"""

import math
from collections.abc import Iterator

from w3ray.lint._common import NO_FIGURE, Comparison, Finding, Rule, finding, plain
from w3ray.recipe import ResolvedStage

_ISSUE = "mit-han-lab/temporal-shift-module, issue {}"
_ISSUE_96 = (
    "41.6 instead of the published 45.6 (TSM, Something-Something V1, 8 frames) with batch 20, the unscaled rate 0.01 "
    "and partial batch norm; the two causes were not separated"
)

LARGE_RATE = 4
"""Above this multiple of the published rate, lint warns if there is no warm-up. The bound is our choice."""


def learning_rate(comparison: Comparison) -> Iterator[Finding]:
    """The rate per clip of a batch, which the linear scaling rule keeps constant. Silent for another optimiser."""

    def read(stage: ResolvedStage) -> tuple[float, int, int]:
        return stage.train.lr, stage.train.lr_batch_size, stage.train.batch_size

    def agree(ours: tuple[float, int, int], theirs: tuple[float, int, int]) -> bool:
        return math.isclose(ours[0] / ours[1], theirs[0] / theirs[1], rel_tol=1e-6)

    if any(stage.train.optimizer != published.train.optimizer for stage, published in comparison.pairs):
        return
    for field, (lr, at, batch), (published_lr, published_at, _) in comparison.differing("train.lr", read, agree):
        unscaled = lr == published_lr and at == batch
        lower = lr / at < published_lr / published_at
        cost, source = NO_FIGURE, None
        if unscaled and batch < published_at:
            cost, source = _ISSUE_96, _ISSUE.format(96)
        elif lower:
            cost = "44.8 with a smaller rate (unknown which) and Kinetics weights, 47.2 with the published rate and "
            cost += (
                "ImageNet weights (TSM, Something-Something V1, 16 frames); its author says the rate is the main cause"
            )
            source = _ISSUE.format(38)
        yield Finding(
            severity="warning",
            field=field.replace("train.lr", "train.lr_batch_size") if unscaled else field,
            value=f"{lr:g} at {at} clips" + (f", not scaled with the batch size {batch}" if unscaled else ""),
            published=f"{published_lr:g} at {published_at} clips, scaled with the batch size",
            source=f"{comparison.source('train.lr')}; {comparison.source('train.lr_batch_size')}",
            cost=cost,
            cost_source=source,
        )


def warm_up(comparison: Comparison) -> Iterator[Finding]:
    """No warm-up at a rate far above the published one; or a warm-up, although the published training has none."""

    def read(stage: ResolvedStage) -> tuple[float, float]:
        train = stage.train
        return train.schedule.warmup_epochs, train.lr * train.batch_size / train.lr_batch_size

    def agree(ours: tuple[float, float], theirs: tuple[float, float]) -> bool:
        return ours[0] == theirs[0] and (ours[0] > 0 or ours[1] <= LARGE_RATE * theirs[1])

    for field, (epochs, rate), (published, published_rate) in comparison.differing(
        "train.schedule.warmup_epochs", read, agree
    ):
        missing = epochs == 0 and rate > LARGE_RATE * published_rate
        yield Finding(
            severity="warning" if missing else "note",
            field=field,
            value=f"none at the rate {rate:g}" if missing else epochs,
            published=f"none at the rate {published_rate:g}" if missing else published,
            source=comparison.source("train.schedule.warmup_epochs")
            + ("; the rate is scaled for a much larger batch" if missing else ""),
            cost="1.1 points on ImageNet: an error of 24.84 without and 23.74 with a gradual warm-up of 5 epochs "
            "(ResNet-50, batch 8192, 32 times the rate of batch 256); none is published on video"
            if missing
            else NO_FIGURE,
            cost_source="Goyal et al., arXiv:1706.02677, Table 1" if missing else None,
        )


def epochs(comparison: Comparison) -> Iterator[Finding]:
    """Fewer or more passes over the clips than published."""

    def read(stage: ResolvedStage) -> int:
        return stage.train.epochs

    for field, value, published in comparison.differing("train.epochs", read, lambda a, b: a == b):
        fewer = value < published
        yield Finding(
            severity="warning" if fewer else "note",
            field=field,
            value=value,
            published=published,
            source=comparison.source("train.epochs"),
            cost="45.98 after 25 epochs, at the rate 0.001 and from Kinetics weights, where 47.3 was expected; TSM's "
            "author answers: more epochs, larger batch, larger rate (Something-Something V1, 8 frames)"
            if fewer
            else "no figure on Something-Something; on Kinetics-400, 73.11 after 100 epochs and 72.95 after 50 (TSM)",
            cost_source=_ISSUE.format(51) if fewer else "model zoo of mmaction2 1.x",
        )


def milestones(comparison: Comparison) -> Iterator[Finding]:
    """The step schedule drops the rate at other shares of the training than published."""

    def read(stage: ResolvedStage) -> tuple[tuple[float, ...], int]:
        return stage.train.schedule.milestones, stage.train.epochs

    def agree(ours: tuple[tuple[float, ...], int], theirs: tuple[tuple[float, ...], int]) -> bool:
        # A tolerance of half an epoch, because the shares may not be whole epochs.
        pairs = list(zip(ours[0], theirs[0], strict=False))
        return len(ours[0]) == len(theirs[0]) and all(
            abs(a / ours[1] - b / theirs[1]) <= 0.5 / ours[1] + 1e-9 for a, b in pairs
        )

    if any(stage.train.schedule.kind != published.train.schedule.kind for stage, published in comparison.pairs):
        return
    for field, (ours, total), (theirs, published_total) in comparison.differing(
        "train.schedule.milestones", read, agree
    ):
        yield Finding(
            severity="note",
            field=field,
            value=f"{list(ours)} of {total} epochs",
            published=f"{list(theirs)} of {published_total} epochs",
            source=comparison.source("train.schedule.milestones"),
        )


def batch_norm(comparison: Comparison) -> Iterator[Finding]:
    """Batch norm uses other statistics, or is partial. Partial batch norm is off in the published training."""

    def read(stage: ResolvedStage) -> str:
        return stage.train.batch_norm

    for field, value, published in comparison.differing("train.batch_norm", read, lambda a, b: a == b):
        yield finding(
            field,
            value,
            published,
            comparison.source("train.batch_norm"),
            severity="note" if value == "sync" else "warning",
            cost={
                "partial": f"{_ISSUE_96}; 62.26 instead of 63.1 (V2, 16 frames) with 40 epochs, batch 256 and partial"
            },
            cost_source=f"{_ISSUE.format('96')} and 208",
        )


def batch_norm_clips(comparison: Comparison) -> Iterator[Finding]:
    """A batch norm that learns has statistics of too few clips."""

    def read(stage: ResolvedStage) -> int:
        return stage.train.microbatch_size

    def enough(value: int, published: int) -> bool:
        return value >= published

    if all(stage.train.batch_norm in ("train", "partial") for stage, _ in comparison.pairs):
        for field, value, published in comparison.differing("train.microbatch_size", read, enough):
            yield Finding(
                severity="note",
                field=field,
                value=value,
                published=f"at least {published}",
                source=f"{comparison.source('train.microbatch_size')}; or batch norm synchronised",
            )


def mature_features(comparison: Comparison) -> Iterator[Finding]:
    """The row has a student and the chain has none, or the other way round, or Eq. 9 has another weight."""
    weights = {
        stage.name: stage.loss_weights.get("mfr", 0.0) for stage, _ in comparison.pairs if stage.teacher is not None
    }
    published = comparison.published.resolved_stages()[-1].loss_weights.get("mfr", 0.0)
    if published and not any(weights.values()):
        kinds = {stage.model.attention.kind for stage, _ in comparison.pairs if stage.model.attention}
        cbam = kinds == {"cbam"}
        yield Finding(
            severity="warning",
            field="stages",
            value="no student with an mfr weight",
            published="teacher and student",
            source="W3 3.4, Eq. 9",
            cost="49.1 instead of 50.5 (CBAM)" if cbam else "50.3 (Table 5) or 50.2 (Table 7) instead of 52.6",
            cost_source=f"W3 {'Table 7' if cbam else 'Tables 5 and 7'} (Something-Something V1, 16 frames)",
        )
        return
    for name, weight in weights.items():
        if weight != published:
            yield Finding(
                severity="note",
                field=f"stages.{name}.loss_weights.mfr",
                value=weight,
                published=published or "no student",
                source="W3 3.4 adds Eq. 9 to the cross-entropy and names no weight; w3ray takes the mean over frames"
                if published
                else f"W3 {comparison.row.table}: plain TSM is trained once",
            )


def cross_entropy(comparison: Comparison) -> Iterator[Finding]:
    """The cross-entropy has another weight than 1."""

    for stage, published in comparison.pairs:
        ours, theirs = stage.loss_weights["cross_entropy"], published.loss_weights["cross_entropy"]
        if ours != theirs:
            yield Finding(
                severity="note",
                field=f"stages.{stage.name}.loss_weights.cross_entropy",
                value=ours,
                published=theirs,
                source="W3 3.4",
            )


def phases(comparison: Comparison) -> Iterator[Finding]:
    """Settings besides the schedule change during training."""

    def read(stage: ResolvedStage) -> int:
        return len(stage.train.phases)

    for field, value, published in comparison.differing("train.phases", read, lambda a, b: a == b):
        yield Finding(
            severity="note", field=field, value=f"{value} phases", published=published or "none", source="TSM main.py"
        )


RULES: dict[str, Rule] = {
    "epochs": epochs,
    "optimizer": plain("train.optimizer", severity="warning"),
    "learning_rate": learning_rate,
    "warm_up": warm_up,
    "schedule": plain("train.schedule.kind"),
    "milestones": milestones,
    "gamma": plain("train.schedule.gamma"),
    "momentum": plain("train.momentum"),
    "weight_decay": plain("train.weight_decay", also=(1e-4,)),  # TSM's paper has it
    "clip_grad_norm": plain("train.clip_grad_norm"),
    "precision": plain("train.precision"),
    "tf32": plain("train.tf32", also=(False,), source="TSM main.py, of a time when no GPU had TF32"),
    "label_smoothing": plain("train.label_smoothing"),
    "batch_norm": batch_norm,
    "batch_norm_clips": batch_norm_clips,
    "classifier_weight_rate": plain("train.classifier_weight_multiplier"),
    "classifier_bias_rate": plain("train.classifier_bias_multiplier"),
    "bias_rate": plain("train.bias_multiplier"),
    "phases": phases,
    "mature_features": mature_features,
    "cross_entropy": cross_entropy,
}
"""Name -> rule."""

"""Rules: what is wrong for the recipe's own data? No video is read. The published recipe does not matter here."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.compute as pc

from w3ray.heads import Heads
from w3ray.lint._common import Comparison, Finding, Rule

_TURNED = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "anticlockwise": "clockwise",
}
_DIRECTION = re.compile(rf"(?<![a-z])({'|'.join(sorted(_TURNED, key=len, reverse=True))})(?![a-z])")

_SHOWN = 3


def flip_labels(comparison: Comparison) -> Iterator[Finding]:
    """Mirrored clips keep a wrong label: there is no flip map, or it lacks classes that have a direction."""
    manifest = comparison.manifest
    if not comparison.recipe.data.flip or manifest is None:
        return
    wrong = [] if manifest.flip_map else ["the manifest has no flip map"]
    if manifest.flip_map:
        for head in manifest.heads.each():  # each head alone: a verb and a noun may have the same name
            places = {name.lower(): head.start + label for label, name in enumerate(head.classes)}
            for label, name in enumerate(head.classes, start=head.start):
                mirrored = places.get(_DIRECTION.sub(lambda found: _TURNED[found[1]], name.lower()), label)
                if manifest.flip_map.get(label, label) != mirrored:
                    wrong.append(name)
    if wrong:
        yield Finding(
            severity="warning",
            field="data.flip",
            value=f"true: {_some(wrong)}",
            published=None,
            source="a mirrored clip shows the opposite direction; give the manifest a flip map that swaps these labels",
            cost="45.5 if classes of left and right are mirrored too, 46.0 if they are not (MotionSqueeze on "
            "Something-Something)",
            cost_source="arunos728/MotionSqueeze, issue 1, its authors' answer",
        )


def turned_directions(comparison: Comparison) -> Iterator[Finding]:
    """Clips are turned so far that left can look like up, and the classes differ in direction."""
    turns = any(one.name == "trivial_augment" for one in comparison.recipe.data.augmentations)
    manifest = comparison.manifest
    named = [] if manifest is None else [name for name in manifest.classes if _DIRECTION.search(name.lower())]
    if turns and named:
        yield Finding(
            severity="warning",
            field="data.augmentations",
            value=f"trivial_augment, and classes of a direction, such as {named[0]!r}",
            published=None,
            source="it turns clips by up to 135 degrees, and the label stays; rand_augment turns them by 30 at most",
        )


def absent_split(comparison: Comparison) -> Iterator[Finding]:
    """The manifest does not have this split. The run would be refused."""
    if comparison.manifest is None:
        return
    data = comparison.recipe.data
    known = comparison.manifest.splits()
    for name in ("train_split", "val_split", "test_split"):
        split = getattr(data, name)
        if split is not None and comparison.split(split) not in known:
            yield _wrong(f"data.{name}", split, f"the manifest has {', '.join(known)}")


def chosen_on_reported(comparison: Comparison) -> Iterator[Finding]:
    """The checkpoint is chosen on the same clips that are reported, or on training clips."""
    data = comparison.recipe.data
    for stage in comparison.choosing_stages():
        field = f"stages.{stage.name}.train.best_metric"
        if data.val_split == comparison.reported_split:
            reason = (
                f"the checkpoint is chosen on {data.val_split!r}, which is also reported; "
                "report another split, or set best_metric to 'last'"
            )
        elif data.val_split == data.train_split:
            reason = (
                f"the checkpoint is chosen on {data.val_split!r}, the training split; "
                "validate on another split, or set best_metric to 'last'"
            )
        else:
            continue
        yield _wrong(field, stage.train.best_metric, reason, "the result is too high by an unknown amount")


def reported_is_trained(comparison: Comparison) -> Iterator[Finding]:
    """The result is for clips that were trained on."""
    if comparison.reported_split == comparison.recipe.data.train_split:
        reason = "the reported split is the training split"
        yield _wrong("evaluation.split", comparison.recipe.evaluation.split, reason, "it says nothing about new clips")


def shared_groups(comparison: Comparison) -> Iterator[Finding]:
    """Clips of the same subject, sequence or camera are in both the training split and the reported split."""
    manifest, data = comparison.manifest, comparison.recipe.data
    reported = comparison.reported_split
    if manifest is None or reported == data.train_split:
        return
    sides = []
    for split in (data.train_split, reported):
        groups = manifest.table["group"].filter(pc.equal(manifest.table["split"], comparison.split(split)))
        sides.append(set(pc.unique(groups.drop_null()).to_pylist()))
    if shared := sorted(sides[0] & sides[1]):
        yield Finding(
            severity="note",
            field="data.train_split",
            value=f"{len(shared)} of the {len(sides[1])} groups of {reported!r}: {_some(shared)}",
            published=None,
            source="a group should be in one split only; split by group with data.fold and data.folds",
        )


def batch_beyond_split(comparison: Comparison) -> Iterator[Finding]:
    """The batch is larger than the training split: each epoch is one optimiser step with padding."""
    labels = comparison.labels(comparison.recipe.data.train_split)
    if labels is None:
        return
    for stage in comparison.recipe.resolved_stages():
        if stage.train.batch_size > labels.size:
            reason = f"the training split has {labels.size} clips, so an epoch is one step"
            yield _wrong(f"stages.{stage.name}.train.batch_size", stage.train.batch_size, reason)


def one_class(comparison: Comparison) -> Iterator[Finding]:
    """All clips of a split have the same label, such as a test split without real labels. Its metrics mean nothing."""
    manifest, data = comparison.manifest, comparison.recipe.data
    if manifest is None or manifest.heads.num_labels == 1:
        return
    chosen = ("data.val_split", data.val_split) if comparison.choosing_stages() else None
    for used in dict.fromkeys([chosen, ("data.test_split", comparison.reported_split)]):
        labels = None if used is None else comparison.labels(used[1])
        if used is not None and labels is not None and np.unique(labels).size == 1:
            reason = (
                f"all {labels.size} clips have label {int(labels[0])} of {manifest.heads.num_labels}; is it labelled?"
            )
            yield _wrong(*used, reason)


def untrained_classes(comparison: Comparison) -> Iterator[Finding]:
    """The reported split has classes without a training clip."""
    manifest = comparison.manifest
    trained, reported = (
        comparison.labels(split) for split in (comparison.recipe.data.train_split, comparison.reported_split)
    )
    if manifest is None or trained is None or reported is None:
        return
    if (sets := manifest.label_sets) is not None:
        reported, trained = (
            np.unique(np.concatenate([np.array(sets[one], int) for one in np.unique(some)]))
            for some in (reported, trained)
        )
    if unseen := np.setdiff1d(reported, trained).tolist():
        heads = Heads(manifest.classes) if manifest.heads.multi_label else manifest.heads
        names = _some([heads.class_name(label) for label in unseen])
        reason = f"{len(unseen)} classes of {comparison.reported_split!r} have no training clip: {names}"
        yield _wrong("data.train_split", comparison.recipe.data.train_split, reason)


def top5_of_few(comparison: Comparison) -> Iterator[Finding]:
    """Top-5 among five classes or fewer is always 1."""
    heads = None if comparison.manifest is None else comparison.manifest.heads
    if heads is None or heads.multi_label or (few := heads.num_labels) > 5:
        return
    for stage in comparison.choosing_stages():
        if stage.train.best_metric == "top5":
            reason = f"top-5 of {few} classes is 1 for any checkpoint"
            yield _wrong(f"stages.{stage.name}.train.best_metric", "top5", reason)


def one_large_class(comparison: Comparison) -> Iterator[Finding]:
    """More than half of the reported clips belong to one class."""
    manifest, labels = comparison.manifest, comparison.labels(comparison.reported_split)
    if manifest is None or manifest.heads.multi_label or labels is None or np.unique(labels).size < 2:
        return
    counts = np.bincount(labels)
    share = counts.max() / labels.size
    if share > 0.5:
        yield Finding(
            severity="note",
            field="data.test_split" if comparison.recipe.evaluation.split == "test" else "data.val_split",
            value=f"{share:.0%} are {manifest.heads.class_name(int(counts.argmax()))!r}",
            published=None,
            source="top-1 is this high for a model that always answers this class; look at mean class accuracy",
        )


def late_milestones(comparison: Comparison) -> Iterator[Finding]:
    """Milestones of the learning rate after the last epoch."""
    for stage in comparison.recipe.resolved_stages():
        schedule, epochs = stage.train.schedule, stage.train.epochs
        late = [milestone for milestone in schedule.milestones if milestone >= epochs]
        if schedule.kind == "step" and late:
            reason = f"the stage ends after {epochs} epochs, so the milestones {_some(late)} have no effect"
            yield _wrong(f"stages.{stage.name}.train.schedule.milestones", list(schedule.milestones), reason)


def _wrong(field: str, value: object, reason: str, cost: str | None = None) -> Finding:
    finding = Finding(severity="warning", field=field, value=value, published=None, source=reason)
    return (
        finding
        if cost is None
        else Finding(
            severity="warning", field=field, value=value, published=None, source=reason, cost=f"{cost}; {finding.cost}"
        )
    )


def _some(names: Sequence[object]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(str(name) for name in names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


RULES: dict[str, Rule] = {
    "flip_labels": flip_labels,
    "turned_directions": turned_directions,
    "absent_split": absent_split,
    "chosen_on_reported": chosen_on_reported,
    "reported_is_trained": reported_is_trained,
    "shared_groups": shared_groups,
    "batch_beyond_split": batch_beyond_split,
    "one_class": one_class,
    "untrained_classes": untrained_classes,
    "top5_of_few": top5_of_few,
    "one_large_class": one_large_class,
    "late_milestones": late_milestones,
}
"""Name -> rule."""

"""What importers share: a clip before it is a row, and the ways to deal clips into splits."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from w3ray.data.manifest import Manifest, build_manifest
from w3ray.errors import InputError
from w3ray.heads import Heads

# Every container that FFmpeg reads and people keep clips in; compared in lower case.
VIDEO_EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("3gp", "asf", "avi", "flv", "gif", "m2ts", "m4v", "mjpeg", "mkv", "mov", "mp4", "mpeg"),
        *("mpg", "mts", "mxf", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
# Folder and list names that mean the same split.
SPLIT_NAMES = {"training": "train", "valid": "val", "validate": "val", "validation": "val", "testing": "test"}

SplitKind = Literal["folder", "column", "list", "group", "random"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One clip as an importer finds it: `path` relative to the root with forward slashes, `uri` to open it.

    `label` is its class, "" where it is not known; with several heads `labels` has one class a head instead. `name`
    becomes its clip_id; None: path and seconds.
    """

    path: str
    uri: str
    label: str = ""
    split: str | None = None
    group: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    name: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealing:
    """How clips without a split of their own get one.

    `val_groups` and `test_groups` name the groups held out; where neither is given, whole groups (kind "group") or
    single clips of each class (kind "random") are drawn by `seed` until the shares are reached.
    """

    val_groups: Sequence[str] = ()
    test_groups: Sequence[str] = ()
    val_share: float = 0.2
    test_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.val_share, self.test_share) < 0 or self.val_share + self.test_share >= 1:
            raise InputError(
                f"val share {self.val_share} and test share {self.test_share}: each must be at least 0 and their sum "
                "below 1, so that something is left to train on"
            )


def split_name(name: str) -> str:
    """A split under the one name used everywhere: "validation" and "valid" are "val"."""
    name = name.strip()
    return SPLIT_NAMES.get(name.lower(), name)


def with_groups(clips: Sequence[Clip], pattern: str, where: str) -> list[Clip]:
    """Each clip with the group that `pattern`, a regular expression with one capture, finds in its relative path.

    Raises:
        InputError: the pattern is none, captures not exactly one thing, or does not match a clip.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"group pattern {pattern!r} is no regular expression: {error}") from error
    if compiled.groups != 1:
        raise InputError(f"group pattern {pattern!r} must have one capture (...), it has {compiled.groups}")
    grouped = []
    for clip in clips:
        match = compiled.search(clip.path)
        if match is None or match[1] is None:
            raise InputError(f"{where}: group pattern {pattern!r} does not match {clip.path!r}")
        grouped.append(replace(clip, group=match[1]))
    return grouped


def deal_by_group(clips: Sequence[Clip], dealing: Dealing, where: str) -> list[Clip]:
    """Whole groups into val and test, the rest into train.

    Raises:
        InputError: a clip has no group, a named group does not exist or is named twice, or train is left empty.
    """
    sizes: dict[str, int] = {}
    for clip in clips:
        if clip.group is None:
            raise InputError(f"{where}: {clip.path!r} has no group; give a group pattern or a group column")
        sizes[clip.group] = sizes.get(clip.group, 0) + 1
    split_of = dict.fromkeys(sizes, "train")
    if dealing.val_groups or dealing.test_groups:
        for split, names in (("val", dealing.val_groups), ("test", dealing.test_groups)):
            for name in names:
                if name not in sizes:
                    raise InputError(f"{where}: no group {name!r}; known: {', '.join(sorted(sizes)[:20])}")
                if split_of[name] != "train":
                    raise InputError(f"{where}: group {name!r} is named for two splits")
                split_of[name] = split
    else:
        names = sorted(sizes)
        order = [names[place] for place in np.random.default_rng(dealing.seed).permutation(len(names))]
        for split, share in (("test", dealing.test_share), ("val", dealing.val_share)):
            taken = 0
            # A group goes in while the share is missed by at least half of it, so the result is the nearest one.
            while order and taken + sizes[order[-1]] / 2 <= share * len(clips):
                taken += sizes[order[-1]]
                split_of[order.pop()] = split
            if share > 0 and taken == 0 and len(order) > 1:
                split_of[order.pop()] = split
    if "train" not in split_of.values():
        raise InputError(f"{where}: every group is held out, nothing is left to train on")
    return [replace(clip, split=split_of[clip.group or ""]) for clip in clips]


def deal_at_random(clips: Sequence[Clip], dealing: Dealing) -> list[Clip]:
    """The same share of each class into val and test, drawn by the seed; a class always keeps a clip for train."""
    dealt = list(clips)
    by_class: dict[str, list[int]] = {}
    for place, clip in enumerate(clips):
        by_class.setdefault(clip.label, []).append(place)
    rng = np.random.default_rng(dealing.seed)
    for label in sorted(by_class):
        places = sorted(by_class[label], key=lambda place: (clips[place].path, clips[place].start_s or 0.0))
        order = [places[drawn] for drawn in rng.permutation(len(places))]
        num_test = min(round(dealing.test_share * len(order)), len(order) - 1)
        num_val = min(round(dealing.val_share * len(order)), len(order) - 1 - num_test)
        for rank, place in enumerate(order):
            split = "test" if rank < num_test else "val" if rank < num_test + num_val else "train"
            dealt[place] = replace(clips[place], split=split)
    return dealt


def to_manifest(
    clips: Sequence[Clip],
    classes: Sequence[str],
    flip_map: Mapping[str, str] | Literal["identity"] | None,
    head_sizes: Sequence[tuple[str, int]] = (),
) -> Manifest:
    """The manifest of clips that all have a split; `classes` and `head_sizes` as in `w3ray.heads.Heads`.

    Raises:
        InputError: as `build_manifest`, and for a flip map that names an unknown class.
    """
    columns: dict[str, list[object]] = {
        "clip_id": [_clip_id(clip) for clip in clips],
        "uri": [clip.uri for clip in clips],
        "start_s": [clip.start_s for clip in clips],
        "end_s": [clip.end_s for clip in clips],
        "label": labels_of(clips, Heads(tuple(classes), tuple(head_sizes))),
        "split": [clip.split for clip in clips],
        "group": [clip.group for clip in clips],
    }
    if isinstance(flip_map, str):  # by place and not by name: two heads may have a class of one name
        flip = {label: label for label in range(len(classes))}
    else:
        flip = _flip_labels(flip_map, classes)
    return build_manifest(columns, tuple(classes), flip, head_sizes=head_sizes)


def labels_of(clips: Sequence[Clip], heads: Heads) -> list[object]:
    """The number of each clip's class, or of its combination of classes; None where it is not known."""
    places = [{name: label for label, name in enumerate(head.classes)} for head in heads.each()]

    def label(clip: Clip) -> object:
        names = clip.labels if heads.several else (clip.label,)
        if not any(names):
            return None
        return heads.joined([place[name] for place, name in zip(places, names, strict=True)])

    return [label(clip) for clip in clips]


def _clip_id(clip: Clip) -> str:
    if clip.name is not None or (clip.start_s is None and clip.end_s is None):
        return clip.name or clip.path
    start = "" if clip.start_s is None else f"{clip.start_s:g}"
    end = "" if clip.end_s is None else f"{clip.end_s:g}"
    return f"{clip.path}@{start}-{end}"


def _flip_labels(flip_map: Mapping[str, str] | None, classes: Sequence[str]) -> dict[int, int]:
    if flip_map is None:
        return {}
    label_of = {name: label for label, name in enumerate(classes)}
    labels: dict[int, int] = {}
    for name, mirror in flip_map.items():
        for known in (name, mirror):
            if known not in label_of:
                raise InputError(f"flip map: no class {known!r}; known: {', '.join(label_of)}")
        for one, other in ((label_of[name], label_of[mirror]), (label_of[mirror], label_of[name])):
            if labels.setdefault(one, other) != other:
                raise InputError(f"flip map: {name!r} has two mirror images")
    return labels

"""What importers share: the description of a clip, and the ways to divide clips into splits."""

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from w3ray.data.manifest import Manifest, build_manifest
from w3ray.errors import InputError
from w3ray.heads import Heads

SplitKind = Literal["folder", "column", "list", "group", "random"]
DEALT = ("train", "val", "test")
"""The splits that clips are dealt into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One clip as an importer finds it: `path` relative to the root with forward slashes, `uri` to open it.

    `label` is its class, "" if it is not known. With several heads, `labels` has one class for each head instead.
    `name` becomes its clip_id; None: the clip_id is made from path and seconds.
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
    """How clips that have no split get one.

    `val_groups` and `test_groups` name the groups to hold out. If neither is given, whole groups (kind "group") or
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


def line_without_text(file: str | os.PathLike[str]) -> int:
    """Number, from 1, of the first line that is not UTF-8. Python's decoder reads ahead and cannot tell it."""
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def check_text(path: str) -> None:
    """Raises: InputError if a path has bytes that are not UTF-8, because no manifest could name it."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path!a} is not UTF-8 text; rename it") from error


def with_groups(clips: Sequence[Clip], pattern: str, where: str) -> list[Clip]:
    """Each clip with the group that `group_finder` finds in its relative path. Raises: as `group_finder`."""
    find = group_finder(pattern, where)
    return [replace(clip, group=find(clip.path)) for clip in clips]


def group_finder(pattern: str, where: str) -> Callable[[str], str]:
    """A function that finds the group of a path by `pattern`, a regular expression with one capture.

    Raises:
        InputError: `pattern` is not a regular expression, or does not have exactly one capture. The returned function
            raises it for a path that the pattern does not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"group pattern {pattern!r} is no regular expression: {error}") from error
    if compiled.groups != 1:
        raise InputError(f"group pattern {pattern!r} must have one capture (...), it has {compiled.groups}")

    def find(path: str) -> str:
        match = compiled.search(path)
        if match is None or match[1] is None:
            raise InputError(f"{where}: group pattern {pattern!r} does not match {path!r}")
        return match[1]

    return find


def deal_by_group(clips: Sequence[Clip], dealing: Dealing, where: str) -> list[Clip]:
    """Put whole groups into val and test, and the other groups into train.

    Raises:
        InputError: a clip has no group, a named group does not exist or is named twice, or train is left empty.
    """
    sizes: dict[str, int] = {}
    for clip in clips:
        if clip.group is None:
            raise no_group(clip.path, where)
        sizes[clip.group] = sizes.get(clip.group, 0) + 1
    names = sorted(sizes)
    splits = splits_of_groups(names, np.array([sizes[name] for name in names]), dealing, where)
    split_of = {name: DEALT[split] for name, split in zip(names, splits, strict=True)}
    return [replace(clip, split=split_of[clip.group or ""]) for clip in clips]


def no_group(path: str, where: str) -> InputError:
    return InputError(f"{where}: {path!r} has no group; give a group pattern or a group column")


def splits_of_groups(names: Sequence[str], sizes: np.ndarray, dealing: Dealing, where: str) -> np.ndarray:
    """The split of each group: int8 [G], indices of DEALT. Given are sorted names and numbers of clips.

    Raises:
        InputError: a named group does not exist or is named twice, or train is left empty.
    """
    train, val, test = range(3)
    splits = np.zeros(len(names), np.int8)
    if dealing.val_groups or dealing.test_groups:
        for split, held_out in ((val, dealing.val_groups), (test, dealing.test_groups)):
            for name in held_out:
                place = bisect_left(names, name)
                if place == len(names) or names[place] != name:
                    raise InputError(f"{where}: no group {name!r}; known: {', '.join(names[:20])}")
                if splits[place] != train:
                    raise InputError(f"{where}: group {name!r} is named for two splits")
                splits[place] = split
    else:
        num_clips = int(sizes.sum())
        order = np.random.default_rng(dealing.seed).permutation(len(names))
        left = len(order)
        for split, share in ((test, dealing.test_share), (val, dealing.val_share)):
            taken = 0
            # A group is added if at least half of it is missing from the share. So the result is nearest to the share.
            while left and taken + sizes[order[left - 1]] / 2 <= share * num_clips:
                left -= 1
                taken += int(sizes[order[left]])
                splits[order[left]] = split
            if share > 0 and taken == 0 and left > 1:
                left -= 1
                splits[order[left]] = split
    if not np.any(splits == train):
        raise InputError(f"{where}: every group is held out, nothing is left to train on")
    return splits


def deal_at_random(clips: Sequence[Clip], dealing: Dealing) -> list[Clip]:
    """Put the same share of each class into val and test, drawn by the seed. A class always keeps a clip for train."""
    by_class: dict[str, list[int]] = {}
    for place, clip in enumerate(clips):
        by_class.setdefault(clip.label, []).append(place)
    ordered = (
        np.array(sorted(by_class[label], key=lambda place: (clips[place].path, clips[place].start_s or 0.0)))
        for label in sorted(by_class)
    )
    splits = splits_at_random(ordered, len(clips), dealing)
    return [replace(clip, split=DEALT[split]) for clip, split in zip(clips, splits, strict=True)]


def splits_at_random(by_class: Iterable[np.ndarray], num_clips: int, dealing: Dealing) -> np.ndarray:
    """The split of each clip: int8 [N], indices of DEALT.

    Args:
        by_class: the places of the clips of each class, ordered by path and start. Classes are in the order of names.
        num_clips: number of all clips.
        dealing: shares and seed.
    """
    splits = np.zeros(num_clips, np.int8)
    rng = np.random.default_rng(dealing.seed)
    for places in by_class:
        order = places[rng.permutation(len(places))]
        num_test = min(round(dealing.test_share * len(order)), len(order) - 1)
        num_val = min(round(dealing.val_share * len(order)), len(order) - 1 - num_test)
        splits[order[:num_test]] = DEALT.index("test")
        splits[order[num_test : num_test + num_val]] = DEALT.index("val")
    return splits


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
        "clip_id": [clip.name or clip_name(clip.path, clip.start_s, clip.end_s) for clip in clips],
        "uri": [clip.uri for clip in clips],
        "start_s": [clip.start_s for clip in clips],
        "end_s": [clip.end_s for clip in clips],
        "label": labels_of(clips, Heads(tuple(classes), tuple(head_sizes))),
        "split": [clip.split for clip in clips],
        "group": [clip.group for clip in clips],
    }
    if isinstance(flip_map, str):  # by index and not by name: two heads may have classes of the same name
        flip = {label: label for label in range(len(classes))}
    else:
        flip = flip_labels(flip_map, {name: label for label, name in enumerate(classes)})
    return build_manifest(columns, tuple(classes), flip, head_sizes=head_sizes)


def labels_of(clips: Sequence[Clip], heads: Heads) -> list[object]:
    """The number of each clip's class, or of its combination of classes; None if it is not known."""
    places = [{name: label for label, name in enumerate(head.classes)} for head in heads.each()]

    def label(clip: Clip) -> object:
        names = clip.labels if heads.several else (clip.label,)
        if not any(names):
            return None
        return heads.joined([place[name] for place, name in zip(places, names, strict=True)])

    return [label(clip) for clip in clips]


def clip_name(path: str, start_s: float | None, end_s: float | None) -> str:
    """The clip_id of a clip that has no name of its own: its path, and its seconds if it is a part of a video."""
    if start_s is None and end_s is None:
        return path
    return f"{path}@{_seconds(start_s)}-{_seconds(end_s)}"


def _seconds(time_s: float | None) -> str:
    """Seconds in a name: six digits below 1000 s, which is half a millisecond or better; all digits from there on."""
    if time_s is None:
        return ""
    # At three hours, six digits would mean a tenth of a second, and two clips could get the same name.
    return f"{time_s:g}" if abs(time_s) < 1000 else np.format_float_positional(time_s, trim="-")


def flip_labels(
    flip_map: Mapping[str, str] | Literal["identity"] | None, label_of: Mapping[str, int]
) -> dict[int, int]:
    """The flip map of labels for one of names. Raises: InputError if a class is unknown or has two mirror images."""
    if flip_map is None:
        return {}
    if flip_map == "identity":
        return {label: label for label in label_of.values()}
    assert not isinstance(flip_map, str)
    labels: dict[int, int] = {}
    for name, mirror in flip_map.items():
        for known in (name, mirror):
            if known not in label_of:
                raise InputError(f"flip map: no class {known!r}; known: {', '.join(label_of)}")
        for one, other in ((label_of[name], label_of[mirror]), (label_of[mirror], label_of[name])):
            if labels.setdefault(one, other) != other:
                raise InputError(f"flip map: {name!r} has two mirror images")
    return labels

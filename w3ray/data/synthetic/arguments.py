"""The arguments that determine a generated set, checked, in the form of `synthetic.json`."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from w3ray.data.synthetic.scene import CLASSES, DIFFICULTIES, Difficulty
from w3ray.errors import InputError

SYNTHETIC_VERSION = 6
"""Increased whenever the same arguments would give other videos."""


def set_of(
    root: str | Path,
    clips: int,
    val_clips: int | None,
    test_clips: int | None,
    seed: int,
    size: int,
    gop_frames: int,
    difficulty: Difficulty | str | None,
) -> tuple[Path, dict[str, Any]]:
    """The absolute root, and the arguments that determine the set's content, in the form of `synthetic.json`."""
    counts = split_counts(clips, val_clips, test_clips)
    _check_arguments(counts, size, gop_frames)
    arguments = {
        "version": SYNTHETIC_VERSION,
        "counts": counts,
        "seed": seed,
        "size": size,
        "gop_frames": gop_frames,
        "difficulty": _settings(difficulty_of(difficulty)),
    }
    # Absolute, like the folder in `write_manifest`: otherwise it would not see that the uris are below that folder.
    return Path(os.path.abspath(root)), arguments


def difficulty_of(difficulty: Difficulty | str | None) -> Difficulty:
    if not isinstance(difficulty, str):
        return difficulty or Difficulty()
    if difficulty not in DIFFICULTIES:
        raise InputError(f"difficulty {difficulty!r}: must be one of {', '.join(DIFFICULTIES)}")
    return DIFFICULTIES[difficulty]


def _settings(difficulty: Difficulty) -> dict[str, Any]:
    """The settings as JSON values, so that they compare equal to those that are read back (JSON has no tuples)."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(difficulty)))
    if not difficulty.num_decoys:
        del settings["num_decoys"]  # absent as in older sets, so that these stay valid
    return settings


def split_counts(clips: int, val_clips: int | None, test_clips: int | None) -> dict[str, int]:
    """Clips of each split; None: a quarter of `clips` for validation, half of `clips` for the test."""
    return {
        "train": clips,
        "val": _share(clips, 4) if val_clips is None else val_clips,
        "test": _share(clips, 2) if test_clips is None else test_clips,
    }


def _share(clips: int, divisor: int) -> int:
    """`clips` / `divisor`, rounded up to a multiple of the number of classes."""
    return -(-clips // (divisor * len(CLASSES))) * len(CLASSES)


def _check_arguments(counts: dict[str, int], size: int, gop_frames: int) -> None:
    for split, count in counts.items():
        if count < 1:
            raise InputError(f"synthetic: the {split} split needs at least 1 clip, not {count}")
    if size < 16 or size % 2:
        raise InputError(f"synthetic: size must be an even number of pixels, at least 16, not {size} (H.264 4:2:0)")
    if gop_frames < 1:
        raise InputError(f"synthetic: gop_frames must be at least 1, not {gop_frames}")

"""What else than pixels does a network read, and how does it follow a clip's frames, crop and mirror?

A side input is a pure function of the manifest's row and of the clip that was made of it. So it is the same in any
process, and moves with the random crop of that clip. `ClipSpec.side_inputs` says which ones go with a clip.

Letters: T frames, N boxes of a frame, W features of a bank, C their channels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from w3ray.data.bank import BANK_COLUMN, features_at
from w3ray.data.boxes import BOXES_COLUMN, unpacked
from w3ray.data.clip import Clip, ClipSpec

Row = Mapping[str, Any]
Extras = Mapping[str, np.ndarray]
"""Name of a side input -> its array."""


@dataclass(frozen=True, slots=True)
class SideInput:
    """One row of the table."""

    of: Callable[[Row, Clip, ClipSpec], np.ndarray]
    """Makes the array of a clip."""
    shape: Callable[[ClipSpec], tuple[int, ...]]
    """Shape of that array. It depends on the spec only, so clips can be stacked."""
    dtype: type = np.float32


def boxes_of(row: Row, clip: Clip, spec: ClipSpec) -> np.ndarray:
    """The boxes of things in the clip's frames: float32 [T, N, 4].

    A box is (x1, y1, x2, y2) in shares of the cut-out picture, from its top left corner. A frame has the boxes of the
    nearest frame in the file. Parts outside the picture are cut off. The N boxes with the best scores are kept, best
    first. A place without a box holds zeros.

    Args:
        row: with the column `BOXES_COLUMN`.
        clip: where and when its frames lie.
        spec: N.
    """
    assert spec.boxes_per_frame is not None
    found = unpacked(row[BOXES_COLUMN])
    boxes_TN4 = np.zeros((len(clip.numbers_T), spec.boxes_per_frame, 4), dtype=np.float32)
    if not len(found.place_P4):
        return boxes_TN4
    moved_P4 = moved(found.place_P4, clip)
    seen_P = (moved_P4[:, 2] > moved_P4[:, 0]) & (moved_P4[:, 3] > moved_P4[:, 1])
    wanted_T = clip.times_s if found.by_time else clip.numbers_T
    for t, wanted in enumerate(wanted_T):
        nearest = found.when_P[np.abs(found.when_P - wanted).argmin()]
        here = np.flatnonzero((found.when_P == nearest) & seen_P)
        best = here[np.argsort(-found.score_P[here], kind="stable")][: spec.boxes_per_frame]
        boxes_TN4[t, : len(best)] = moved_P4[best]
    return boxes_TN4


def moved(boxes_P4: np.ndarray, clip: Clip) -> np.ndarray:
    """Boxes in shares of a video's frame -> the same in shares of the clip's picture, cut off at its borders."""
    height, width = clip.frame_size
    top, left = clip.box.top / height, clip.box.left / width
    x_P2 = (boxes_P4[:, 0::2] - left) * (width / clip.box.width)
    y_P2 = (boxes_P4[:, 1::2] - top) * (height / clip.box.height)
    if clip.mirrored:
        x_P2 = 1 - x_P2[:, ::-1]
    return np.stack([x_P2[:, 0], y_P2[:, 0], x_P2[:, 1], y_P2[:, 1]], axis=1).clip(0, 1)


def _boxes_shape(spec: ClipSpec) -> tuple[int, ...]:
    assert spec.boxes_per_frame is not None
    return (spec.num_frames, spec.boxes_per_frame, 4)


def bank_of(row: Row, clip: Clip, spec: ClipSpec) -> np.ndarray:
    """The features of the clip's video around its middle: float32 [W, 1 + C], in the order of time.

    The first channel is 1 where there is a feature. The others are 0 where there is none: before the video's begin,
    behind its end, and where the video could not be read. The middle is halfway between the first frame and the last.

    Args:
        row: with the column `BANK_COLUMN`.
        clip: when its frames are shown.
        spec: W, C and the seconds between features.
    """
    assert spec.bank_window is not None
    assert spec.bank_every_s is not None
    middle_s = (float(clip.times_s.min()) + float(clip.times_s.max())) / 2
    # Feature i is at (i + 1/2) every_s, so that the window i .. i + W - 1 has its middle at (i + W / 2) every_s.
    first = math.floor(middle_s / spec.bank_every_s - spec.bank_window / 2 + 0.5)
    found_WC = features_at(row[BANK_COLUMN], first, spec.bank_window)
    bank_WC = np.zeros(_bank_shape(spec), dtype=np.float32)
    there_W = np.isfinite(found_WC).all(axis=1)
    bank_WC[there_W, 0] = 1
    bank_WC[there_W, 1:] = found_WC[there_W]
    return bank_WC


def _bank_shape(spec: ClipSpec) -> tuple[int, ...]:
    assert spec.bank_window is not None
    assert spec.bank_channels is not None
    return (spec.bank_window, 1 + spec.bank_channels)


SIDE_INPUTS: dict[str, SideInput] = {
    "boxes": SideInput(boxes_of, _boxes_shape),
    "bank": SideInput(bank_of, _bank_shape),
}
"""Name -> how it is made. A model gets it under this name (`VideoModel.side_inputs`)."""


def extras_of(row: Row, clip: Clip, spec: ClipSpec) -> dict[str, np.ndarray]:
    """All side inputs of a clip. Empty for most specs."""
    return {name: SIDE_INPUTS[name].of(row, clip, spec) for name in spec.side_inputs}


def extras_of_views(row: Row, views: Sequence[Clip], spec: ClipSpec) -> dict[str, np.ndarray]:
    """All side inputs of the views of a clip, [V, ...] each."""
    return {name: np.stack([SIDE_INPUTS[name].of(row, view, spec) for view in views]) for name in spec.side_inputs}


def blank_extras(spec: ClipSpec, leading: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Zeros with the shapes of the side inputs after the axes `leading`."""
    chosen = {name: SIDE_INPUTS[name] for name in spec.side_inputs}
    return {name: np.zeros((*leading, *one.shape(spec)), dtype=one.dtype) for name, one in chosen.items()}

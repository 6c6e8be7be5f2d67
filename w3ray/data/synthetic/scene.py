"""Which actions exist, and how is each one drawn? The classes come in pairs, forwards and backwards.

Letters: T frames, S side of the square frame. Lengths inside a picture are fractions of its side.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """How hard the motion is to see."""

    num_distractors: int = 2
    """Small grey objects that move at random."""
    num_decoys: int = 0
    """Grey objects with their own actions, drawn uniformly from all classes: only the coloured object counts."""
    noise: float = 0.02
    """Standard deviation of the noise in each pixel and frame, as a fraction of full scale."""
    background: float = 0.12
    """Contrast of the moving background, as a fraction of full scale."""
    cycles: tuple[float, float] = (1.0, 1.4)
    """How often the action happens in a clip: minimum and maximum."""


DIFFICULTIES: dict[str, Difficulty] = {
    "easy": Difficulty(),
    "medium": Difficulty(num_decoys=1),
    "hard": Difficulty(num_decoys=2, num_distractors=10, noise=0.15, background=0.35),
}
"""Difficulties by name."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The scene in which an action is drawn."""

    side: int
    progress_T: FloatArray
    """Progress of the action at each frame, 0 to 1."""
    lap_T: FloatArray
    """The same without the pauses at both ends."""
    centre_T2: FloatArray
    """Position (x, y) of the acting object, which drifts slowly."""
    angle: float
    """A direction near the horizontal, radians."""

    def offsets(self, centre_T2: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Distance of every pixel from a centre, with wrap-around at the borders: x [T, 1, S] and y [T, S, 1]."""
        grid_S = ((np.arange(self.side) + 0.5) / self.side).astype(np.float32)
        x_T1S = (grid_S[None, None, :] - centre_T2[:, 0, None, None] + 0.5) % 1 - 0.5
        y_TS1 = (grid_S[None, :, None] - centre_T2[:, 1, None, None] + 0.5) % 1 - 0.5
        return x_T1S, y_TS1

    def cover(self, depth: FloatArray) -> FloatArray:
        """Fraction of each pixel inside a shape, from the depth of the pixel's centre inside the shape's border."""
        return np.clip(depth * self.side + 0.5, 0, 1)

    def disc(self, centre_T2: FloatArray, radius: float) -> FloatArray:
        """Cover [T, S, S] of a disc."""
        x_T1S, y_TS1 = self.offsets(centre_T2)
        # At distance d the depth is r - d = (r^2 - d^2) / (r + d), near the border (r^2 - d^2) / 2r: a sum of a term
        # per row and a term per column, so that little is computed per pixel.
        scale = self.side / (2 * radius)
        cover_TSS = (0.5 + (radius**2 - x_T1S**2) * scale) - y_TS1**2 * scale
        return np.clip(cover_TSS, 0, 1, out=cover_TSS)

    def box(self, centre_T2: FloatArray, radius: float) -> FloatArray:
        """Cover [T, S, S] of a square with half side `radius`."""
        x_T1S, y_TS1 = self.offsets(centre_T2)
        reach = np.float32(radius)
        return np.minimum(self.cover(reach - np.abs(x_T1S)), self.cover(reach - np.abs(y_TS1)))


def _move(scene: Scene) -> FloatArray:
    """A disc moves to the right, with wrap-around."""
    return scene.disc(scene.centre_T2 + scene.lap_T[:, None] * np.array([1, 0], np.float32), 0.18)


def _open(scene: Scene) -> FloatArray:
    """An iris opens: a disc whose hole grows."""
    x_T1S, y_TS1 = scene.offsets(scene.centre_T2)
    distance_TSS = np.sqrt(x_T1S**2 + y_TS1**2)
    hole_T11 = 0.28 * scene.progress_T[:, None, None]
    return scene.cover(np.minimum(np.float32(0.34) - distance_TSS, distance_TSS - hole_T11))


def _join(scene: Scene) -> FloatArray:
    """Two discs on a nearly horizontal line move together until they touch."""
    direction_2 = np.array([np.cos(scene.angle), np.sin(scene.angle)], np.float32)
    apart_T2 = (0.11 + 0.26 * (1 - scene.progress_T))[:, None] * direction_2
    return np.maximum(scene.disc(scene.centre_T2 + apart_T2, 0.11), scene.disc(scene.centre_T2 - apart_T2, 0.11))


def _appear(scene: Scene) -> FloatArray:
    """A square appears: its opacity grows from zero."""
    return scene.box(scene.centre_T2, 0.24) * scene.progress_T[:, None, None]


ACTIONS: dict[tuple[str, str], Callable[[Scene], FloatArray]] = {
    ("moves-right", "moves-left"): _move,
    ("opens", "closes"): _open,
    ("put-together", "pulled-apart"): _join,
    ("appears", "vanishes"): _appear,
}
"""(name forwards, name backwards) -> cover [T, S, S] of the acting object, forwards. A new pair is one row."""

CLASSES: tuple[str, ...] = tuple(name for pair in ACTIONS for name in pair)

FLIP_MAP: dict[int, int] = {
    label: CLASSES.index({"moves-right": "moves-left", "moves-left": "moves-right"}.get(name, name))
    for label, name in enumerate(CLASSES)
}
"""The label of each class's mirror image."""

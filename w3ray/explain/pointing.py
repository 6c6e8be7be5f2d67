"""How much of a model's attention falls on what moves?

On generated clips the acting thing is known at every pixel (`w3ray.data.synthetic.acting_cover`). Of each frame in
which it can be seen: the share of the map's mass on it, and the pointing game of Zhang et al., "Top-down Neural
Attention by Excitation Backprop" (ECCV 2016; IJCV 2018): is the map's maximum on the thing, or no further from it than
a tolerance? Both beside what a map that knows nothing would get: the share of the picture that counts as right.

Axes: T frames, S side of the square frames; F the frames of T in which the thing can be seen.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from w3ray.data.augmentation import centre_crop_box, crop_and_resize
from w3ray.data.clip import ClipSpec
from w3ray.data.clip_sampling import SAMPLERS
from w3ray.explain.record import FloatArray

TOLERANCE = 0.03
"""Of a hit, share of the frame's side: the 15 pixels that are usual on Pascal VOC's pictures of about 500."""
VISIBLE = 0.25
"""A pixel belongs to the thing where it covers (or fades over) at least this share of it."""
SAME = 1e-6
"""Values closer to the maximum than this share of it are the maximum, too: bilinear enlarging makes plateaus."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pointing:
    """One clip's scores, a value for each frame in which the thing can be seen."""

    mass_F: FloatArray
    """Share of the map's mass on the thing."""
    area_F: FloatArray
    """Share of the picture that is the thing: an even map's mass."""
    hit_F: FloatArray
    """1 where the maximum is on the thing or within the tolerance; of several maxima the share that is."""
    hit_area_F: FloatArray
    """Share of the picture that counts as a hit: an even map's hits."""


def cover_in_clip(cover_NSS: FloatArray, spec: ClipSpec) -> FloatArray:
    """The acting thing as evaluation shows it: the frames that `load_clip` takes without a generator, and its box.

    Args:
        cover_NSS: of all frames of the video, in [0, 1].
        spec: what a clip is.

    Returns: [T, S, S] in [0, 1], in steps of 1/255.
    """
    indices_T = SAMPLERS[spec.sampling](len(cover_NSS), spec.num_frames, spec.stride_frames, None)
    grey_TSS = np.rint(cover_NSS[indices_T] * 255).astype(np.uint8)
    frames_TSSC = np.repeat(grey_TSS[..., None], 3, axis=3)
    box = centre_crop_box(grey_TSS.shape[1], grey_TSS.shape[2], spec.size / spec.resolved_short_side)
    return crop_and_resize(frames_TSSC, box, spec.size)[..., 0].astype(np.float32) / np.float32(255)


def pointing(map_TSS: FloatArray, cover_TSS: FloatArray, *, tolerance: float = TOLERANCE) -> Pointing:
    """Score a map of one clip.

    Args:
        map_TSS: >= 0; a frame without any mass counts as an even map.
        cover_TSS: where the thing is, in [0, 1], of the same shape.
        tolerance: of a hit, share of the side.

    Raises:
        ValueError: other shapes, or a negative map.
    """
    if map_TSS.shape != cover_TSS.shape:
        raise ValueError(f"map of shape {map_TSS.shape}, thing of shape {cover_TSS.shape}")
    if map_TSS.min() < 0:
        raise ValueError("the map must not be negative")
    thing_TSS = cover_TSS >= VISIBLE
    rows = [
        _score(map_SS, thing_SS, tolerance * len(map_SS))
        for map_SS, thing_SS in zip(map_TSS, thing_TSS, strict=True)
        if thing_SS.any()
    ]
    table_4F = np.array(rows, np.float32).reshape(-1, 4).T
    return Pointing(mass_F=table_4F[0], area_F=table_4F[1], hit_F=table_4F[2], hit_area_F=table_4F[3])


def _score(map_SS: FloatArray, thing_SS: npt.NDArray[np.bool_], pixels: float) -> tuple[float, float, float, float]:
    total, area = float(map_SS.sum(dtype=np.float64)), float(thing_SS.mean())
    mass = float(map_SS[thing_SS].sum(dtype=np.float64)) / total if total > 0 else area
    near_SS = distance_transform_edt(~thing_SS) <= pixels
    greatest = float(map_SS.max())
    hit = float(near_SS[map_SS >= greatest * (1 - SAME)].mean())
    return mass, area, hit, float(near_SS.mean())

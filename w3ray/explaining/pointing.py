"""How much of a model's attention falls on what moves?

On generated clips, the moving thing is known at every pixel (`w3ray.data.synthetic.acting_cover`). Each frame in which
the thing is visible gets two scores. One is the share of the map's mass on the thing. The other is the pointing game of
Zhang et al., "Top-down Neural Attention by Excitation Backprop" (ECCV 2016; IJCV 2018): is the map's maximum on the
thing, or within a tolerance of it? For comparison, each score comes with the result of an even map, which knows
nothing: the share of the picture that counts as right.

Axes: T frames, S side of the square frames; F the frames of T in which the thing is visible.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from w3ray.data.clip import ClipSpec
from w3ray.data.clip_sampling import SAMPLERS
from w3ray.data.crop import centre_crop_box, crop_and_resize
from w3ray.explaining.record import FloatArray

TOLERANCE = 0.03
"""Tolerance of a hit, as a share of the frame's side. It equals the usual 15 pixels on Pascal VOC's pictures of about
500 pixels."""
VISIBLE = 0.25
"""A pixel belongs to the thing if the thing covers (or fades over) at least this share of the pixel."""
SAME = 1e-6
"""Values this close to the maximum, as a share of it, count as the maximum: bilinear enlarging makes plateaus."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pointing:
    """One clip's scores: one value for each frame in which the thing is visible."""

    mass_F: FloatArray
    """Share of the map's mass on the thing."""
    area_F: FloatArray
    """Share of the picture that the thing covers. An even map has this mass on the thing."""
    hit_F: FloatArray
    """1 if the maximum is on the thing or within the tolerance. With several maxima: the share of them that is."""
    hit_area_F: FloatArray
    """Share of the picture that counts as a hit. An even map scores this share of hits."""


def cover_in_clip(cover_NSS: FloatArray, spec: ClipSpec) -> FloatArray:
    """The cover of the moving thing in the evaluation clip: the frames and the crop of `load_clip` without a generator.

    Args:
        cover_NSS: the cover in all frames of the video, in [0, 1].
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
        map_TSS: >= 0. A frame without any mass counts as an even map.
        cover_TSS: where the thing is, in [0, 1], of the same shape.
        tolerance: tolerance of a hit, as a share of the frame's side.

    Raises:
        ValueError: the shapes differ, or the map has negative values.
    """
    if map_TSS.shape != cover_TSS.shape:
        raise ValueError(f"map has shape {map_TSS.shape}, cover has shape {cover_TSS.shape}: must be equal")
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

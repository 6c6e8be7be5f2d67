"""How does one row of the manifest become one clip of pixels?

A clip is made of RGB frames or of optical flow. With flow, each of the T samples is a stack of L neighbouring fields:
2 L channels, x and y in turn (Simonyan & Zisserman, arXiv:1406.2199, Eq. 1).

`read_clip` is a pure function of its arguments: the same generator state gives the same bytes, in any process.
The order of its draws is fixed: frames, box, mirror, augmentations. Most callers need only `load_clip`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from w3ray._options import AS_BEFORE
from w3ray.data.augmentation import AugmentationChoice
from w3ray.data.clip_sampling import SAMPLERS
from w3ray.data.crop import (
    Box,
    Frames,
    centre_crop_box,
    check_scales,
    crop_and_resize,
    random_crop_box,
)
from w3ray.data.decoders import DECODERS, DEFAULT_DECODER, Video, open_video
from w3ray.data.decoders.flow import FlowFolder
from w3ray.data.video_cache import VideoCache
from w3ray.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """What a clip is, in training and in evaluation.

    Raises: ValueError if a value cannot be used; the message names the field.
    """

    num_frames: int = 8
    """Frames of a clip."""
    sampling: str = "segment"
    """Which frames: "segment" (one of each equal segment) or "dense" (neighbours `stride_frames` apart)."""
    stride_frames: int = 2
    """Frames from one sample to the next in dense sampling."""
    size: int = 224
    """Side of the square clip, pixels."""
    short_side: int | None = None
    """Evaluation: short side of the resized frame, pixels, before the centre is cut out; None = size * 256 / 224."""
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    """Training: sides of the random box as shares of the short side."""
    flip: bool = False
    """Training: mirror half of the clips. Needs the flip map of the data set: classes with a direction change label."""
    decoder: str = DEFAULT_DECODER
    """A name in `w3ray.data.decoders.DECODERS`."""
    augmentations: tuple[AugmentationChoice, ...] = field(default=(), metadata={AS_BEFORE: ()})
    """Training: further changes, in this order. Names, or objects of a name and options, are read as well."""
    flow_fields: int | None = field(default=None, metadata={AS_BEFORE: None})
    """L: neighbouring fields of optical flow at each sample. The clips are then folders of flow. None: RGB frames."""
    boxes_per_frame: int | None = field(default=None, metadata={AS_BEFORE: None})
    """N: boxes of things in each frame that go with a clip (`w3ray.data.side_inputs`). None: no boxes."""
    bank_window: int | None = field(default=None, metadata={AS_BEFORE: None})
    """W: features of a bank that go with a clip (`w3ray.data.bank`). None: no bank, and the next two are None, too."""
    bank_channels: int | None = field(default=None, metadata={AS_BEFORE: None})
    """Channels of such a feature."""
    bank_every_s: float | None = field(default=None, metadata={AS_BEFORE: None})
    """Seconds from one feature of the bank to the next."""

    def __post_init__(self) -> None:
        # A list (from YAML or JSON) would make the spec unhashable.
        object.__setattr__(self, "scales", tuple(self.scales))
        object.__setattr__(self, "augmentations", tuple(map(AugmentationChoice.of, self.augmentations)))
        for name in ("num_frames", "stride_frames", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("flow_fields", "boxes_per_frame", "bank_window", "bank_channels"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.bank_every_s is not None and not self.bank_every_s > 0:
            raise ValueError(f"bank_every_s must be above 0, not {self.bank_every_s}")
        of_bank = (self.bank_window, self.bank_channels, self.bank_every_s)
        if any(value is None for value in of_bank) and any(value is not None for value in of_bank):
            raise ValueError("bank_window, bank_channels and bank_every_s go together: give all or none")
        if self.sampling not in SAMPLERS:
            raise ValueError(f"sampling must be one of {sorted(SAMPLERS)}, not {self.sampling!r}")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {sorted(DECODERS)}, not {self.decoder!r}")
        for augmentation in self.augmentations:
            augmentation.check_channels(self.channels)
        if self.short_side is not None and self.short_side < self.size:
            raise ValueError(f"short_side must be at least size ({self.size}), not {self.short_side}")
        check_scales(self.scales)

    @property
    def resolved_short_side(self) -> int:
        """The short side that evaluation uses, pixels."""
        return round(self.size * 256 / 224) if self.short_side is None else self.short_side

    @property
    def channels(self) -> int:
        """C of a clip: 3, or 2 for each field of flow."""
        return 3 if self.flow_fields is None else 2 * self.flow_fields

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """What goes with the pixels of a clip: names in `w3ray.data.side_inputs.SIDE_INPUTS`."""
        asked = {"boxes": self.boxes_per_frame, "bank": self.bank_window}
        return tuple(name for name, value in asked.items() if value is not None)

    @classmethod
    def as_before(cls) -> dict[str, Any]:
        """For each field that was added later: name -> the value that its absence means in files of older versions."""
        return {one.name: one.metadata[AS_BEFORE] for one in fields(cls) if AS_BEFORE in one.metadata}

    def values(self) -> dict[str, Any]:
        """All fields, as values that `ClipSpec(**values)` reads. The augmentations are JSON values."""
        return {**asdict(self), "augmentations": tuple(one.written() for one in self.augmentations)}

    def require_flip_map(self, flip_map: Mapping[int, int] | None) -> None:
        """Refuse flipping for a data set that does not say what mirroring does to its labels.

        Raises: InputError if `flip` is set and `flip_map` is None or empty.
        """
        if self.flip and not flip_map:
            raise InputError(
                "data.flip is true but the manifest has no flip map: mirrored clips of direction classes would be "
                "mislabelled; set data.flip=false, or give the manifest a flip map (label -> its label in a mirror)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One clip as a model gets it, and how it was made from its video."""

    frames_TSSC: Frames
    """uint8 [T, S, S, C]."""
    label: int
    """Label of what is seen: if the clip is mirrored, that of the mirror image."""
    times_s: np.ndarray
    """When each frame is shown in the video, seconds from its first frame: float64 [T]."""
    numbers_T: np.ndarray
    """Numbers of the frames (or of the first fields of flow) in the video, from 0: int64 [T]."""
    frame_size: tuple[int, int]
    """Height and width of the video's frames, in pixels."""
    box: Box
    """What was cut out of each frame."""
    mirrored: bool


class ReadFrames(NamedTuple):
    """The chosen frames of a video, before the crop."""

    frames_THWC: Frames
    """uint8 [T, H, W, C]."""
    times_s: np.ndarray
    """As in `Clip`."""
    numbers_T: np.ndarray
    """As in `Clip`."""


def load_clip(
    uri: str,
    *,
    label: int,
    spec: ClipSpec,
    rng: np.random.Generator | None,
    start_s: float | None = None,
    end_s: float | None = None,
    reversed: bool = False,
    flip_map: Mapping[int, int] | None = None,
    roots: Sequence[str] | None = None,
    cache: VideoCache | None = None,
) -> tuple[Frames, int]:
    """Decode one clip, and crop and resize it.

    Args:
        uri: the video.
        label: its class; a mirrored clip gets `flip_map[label]` (or keeps its label if the map does not have it).
        spec: what a clip is.
        rng: draws frames, box and mirror for training; None for evaluation (fixed frames, centre box, no mirror).
        start_s, end_s: the part of the video to use, seconds; None = its beginning, its end.
        roots: where videos may lie, links followed; None: anywhere.
        cache: keeps videos from object storage; None: no cache.
        reversed: play backwards. The frames are the same as forwards; only their order is reversed.

    Returns: (uint8 [T, S, S, C], label).
    Raises: DecodeError if the video cannot be read; InputError if `spec.flip` is set without a flip map.
    """
    clip = read_clip(
        uri, label=label, spec=spec, rng=rng, start_s=start_s, end_s=end_s, reversed=reversed, flip_map=flip_map,
        roots=roots, cache=cache,
    )  # fmt: skip
    return clip.frames_TSSC, clip.label


def read_clip(
    uri: str,
    *,
    label: int,
    spec: ClipSpec,
    rng: np.random.Generator | None,
    start_s: float | None = None,
    end_s: float | None = None,
    reversed: bool = False,
    flip_map: Mapping[int, int] | None = None,
    roots: Sequence[str] | None = None,
    cache: VideoCache | None = None,
    frames_rng: np.random.Generator | None = None,
) -> Clip:
    """As `load_clip`, but also returns what was drawn at random.

    Args:
        frames_rng: draws the frames instead of `rng`, so that several clips of a video can have the same frames.
    """
    if rng is not None:
        spec.require_flip_map(flip_map)
    frames = read_frames(
        uri, spec=spec, rng=rng if frames_rng is None else frames_rng, start_s=start_s, end_s=end_s, reversed=reversed,
        roots=roots, cache=cache,
    )  # fmt: skip
    return made_clip(frames, label=label, spec=spec, rng=rng, flip_map=flip_map)


def read_frames(
    uri: str,
    *,
    spec: ClipSpec,
    rng: np.random.Generator | None,
    start_s: float | None = None,
    end_s: float | None = None,
    reversed: bool = False,
    roots: Sequence[str] | None = None,
    cache: VideoCache | None = None,
) -> ReadFrames:
    """Choose the frames of a clip and decode them: the first half of `read_clip`. `rng` draws the frames."""
    with open_clip(uri, spec, roots, cache) as video:
        first, stop = video.frame_span(start_s, end_s)
        indices_T = first + SAMPLERS[spec.sampling](
            samples_in(stop - first, spec), spec.num_frames, spec.stride_frames, rng
        )
        indices_T = indices_T[::-1] if reversed else indices_T
        frames_THWC = read_samples(video, indices_T, stop, spec, reversed=reversed)
        return ReadFrames(frames_THWC, video.times_s(indices_T), indices_T)


def made_clip(
    frames: ReadFrames,
    *,
    label: int,
    spec: ClipSpec,
    rng: np.random.Generator | None,
    flip_map: Mapping[int, int] | None = None,
) -> Clip:
    """Crop, resize and augment decoded frames: the second half of `read_clip`. `rng` draws box, mirror and changes."""
    if rng is not None:
        spec.require_flip_map(flip_map)
    frames_THWC = frames.frames_THWC
    height, width = frames_THWC.shape[1:3]
    mirrored = False
    if rng is None:
        box = centre_crop_box(height, width, spec.size / spec.resolved_short_side)
    else:
        box = random_crop_box(height, width, spec.scales, rng)
        mirrored = spec.flip and bool(rng.integers(2))
    if mirrored and flip_map is not None:
        label = flip_map.get(label, label)
    frames_TSSC = cut_out(frames_THWC, box, spec.size, spec, mirror=mirrored)
    if rng is not None:
        for augmentation in spec.augmentations:
            frames_TSSC = augmentation(frames_TSSC, rng)
    return Clip(
        frames_TSSC=frames_TSSC, label=label, times_s=frames.times_s, numbers_T=frames.numbers_T,
        frame_size=(height, width), box=box, mirrored=mirrored,
    )  # fmt: skip


def open_clip(uri: str, spec: ClipSpec, roots: Sequence[str] | None, cache: VideoCache | None) -> Video:
    """Open the video of a clip, or its folder of flow. Raises DecodeError if it cannot be read."""
    if spec.flow_fields is not None:
        return FlowFolder(uri, roots, cache)
    return open_video(uri, decoder=spec.decoder, roots=roots, cache=cache)


def samples_in(num_frames: int, spec: ClipSpec) -> int:
    """How many places a sample can have in a span of so many frames, or of so many fields of flow."""
    return num_frames if spec.flow_fields is None else max(1, num_frames - spec.flow_fields + 1)


def read_samples(video: Video, indices_T: np.ndarray, stop: int, spec: ClipSpec, *, reversed: bool) -> Frames:
    """The samples that begin at these frames or fields: uint8 [T, H, W, C].

    A stack of flow that would reach beyond `stop` repeats the last field. Backwards, a stack holds its fields in
    reverse order, and all motion has the opposite sign.
    """
    if spec.flow_fields is None:
        return video.frames(indices_T)
    indices_TL = np.minimum(indices_T[:, None] + np.arange(spec.flow_fields), stop - 1)
    if reversed:
        indices_TL = indices_TL[:, ::-1]
    fields_NHWC = video.frames(indices_TL.reshape(-1))
    if reversed:
        fields_NHWC = 255 - fields_NHWC
    fields_TLHWC = fields_NHWC.reshape(*indices_TL.shape, *fields_NHWC.shape[1:])
    height, width = fields_TLHWC.shape[2:4]
    return np.ascontiguousarray(fields_TLHWC.transpose(0, 2, 3, 1, 4)).reshape(len(indices_T), height, width, -1)


def cut_out(
    frames_THWC: Frames, box: Box, size: int | tuple[int, int], spec: ClipSpec, *, mirror: bool = False
) -> Frames:
    """`crop_and_resize`. In a mirror image, flow to the right is flow to the left: x becomes 255 - x."""
    cut_TSSC = crop_and_resize(frames_THWC, box, size, mirror=mirror)
    if mirror and spec.flow_fields is not None:
        cut_TSSC[..., 0::2] = 255 - cut_TSSC[..., 0::2]
    return cut_TSSC

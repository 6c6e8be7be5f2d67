"""Which views of a clip does a test protocol look at? Several clips in time, several crops of each.

    "<clips>clip-center"      the centre square of the training size: `1clip-center`, `2clip-center`
    "<clips>clip-full-res"    the whole frame, its short side as in evaluation: `2clip-full-res`
    "<crops>crop-<clips>clip" 3: squares of the short side along the long one: `3crop-2clip`
                              10: corners and centre of the training size, and their mirror images: `10crop-2clip`

Sources: the paper's section 4 ("multiple clips ... full resolution images with shorter side 256"; "1 clip per video and
the center crop sized at 224 x 224") and Table 4 (ten crops); Lin et al., "TSM", ICCV 2019, section 5.1, and the test
program published with it, which is where two clips start, and where three and ten crops lie.

Letters: V views, T frames, S side of a square, H height, W width.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from w3ray.data.clip import Clip, ClipSpec, cut_out, open_clip, read_samples, samples_in
from w3ray.data.clip_sampling import dense_indices, segment_indices_at
from w3ray.data.crop import Box, Frames, centre_crop_box
from w3ray.data.video_cache import VideoCache
from w3ray.errors import InputError
from w3ray.heads import UNLABELLED

PROTOCOLS = ("1clip-center", "2clip-center", "2clip-full-res", "3crop-2clip", "10crop-2clip")
"""The protocols of the paper's tables."""

_MAX_CLIPS = 100
# Where a crop lies, in quarters of the free space (down, right); the order is that of the views.
_CORNERS_AND_CENTRE = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to look at a clip; made by `parse_protocol`."""

    name: str
    clips: int
    crops: int
    """1, 3 or 10; 1 is the centre or, with `whole_frame`, all of the frame."""
    whole_frame: bool = False

    @property
    def num_views(self) -> int:
        """V, clips first: view v is crop v % crops of clip v // crops."""
        return self.clips * self.crops

    @property
    def mirrored_V(self) -> tuple[bool, ...]:
        """Which views are mirror images."""
        of_a_clip = (False,) * 5 + (True,) * 5 if self.crops == 10 else (False,) * self.crops
        return of_a_clip * self.clips


def parse_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        InputError: no protocol has that name.
    """
    if match := re.fullmatch(r"(\d{1,3})clip-(center|full-res)", name):
        protocol = Protocol(name, int(match[1]), 1, whole_frame=match[2] == "full-res")
    elif match := re.fullmatch(r"(3|10)crop-(\d{1,3})clip", name):
        protocol = Protocol(name, int(match[2]), int(match[1]))
    else:
        raise InputError(
            f"protocol {name!r}: no such protocol; the paper uses {', '.join(PROTOCOLS)}; any number of clips N "
            "works in Nclip-center, Nclip-full-res, 3crop-Nclip and 10crop-Nclip"
        )
    if not 1 <= protocol.clips <= _MAX_CLIPS:
        raise InputError(f"protocol {name!r}: the number of clips must be 1 to {_MAX_CLIPS}")
    return protocol


def load_views(
    uri: str,
    *,
    spec: ClipSpec,
    protocol: Protocol,
    start_s: float | None = None,
    end_s: float | None = None,
    reversed: bool = False,
    roots: Sequence[str] | None = None,
    cache: VideoCache | None = None,
) -> Frames:
    """Decode a clip once and cut out all its views. The arguments are those of `w3ray.data.clip.load_clip`.

    Returns: uint8 [V, T, S, S, C], or [V, T, H, W, C] of the whole frame, whose shape then depends on the video.
    Raises: DecodeError if the video cannot be read.
    """
    return np.stack(
        [
            view.frames_TSSC
            for view in read_views(
                uri, spec=spec, protocol=protocol, start_s=start_s, end_s=end_s, reversed=reversed, roots=roots,
                cache=cache,
            )
        ]
    )  # fmt: skip


def read_views(
    uri: str,
    *,
    spec: ClipSpec,
    protocol: Protocol,
    start_s: float | None = None,
    end_s: float | None = None,
    reversed: bool = False,
    roots: Sequence[str] | None = None,
    cache: VideoCache | None = None,
) -> list[Clip]:
    """As `load_views`, but says of each view where it lies. The views have no label."""
    with open_clip(uri, spec, roots, cache) as video:
        first, stop = video.frame_span(start_s, end_s)
        indices_CT = first + clip_indices(samples_in(stop - first, spec), spec, protocol.clips)
        if reversed:
            indices_CT = indices_CT[:, ::-1]
        frames = read_samples(video, indices_CT.reshape(-1), stop, spec, reversed=reversed)
        times_s_CT = video.times_s(indices_CT.reshape(-1)).reshape(indices_CT.shape)
    of_clips = frames.reshape(protocol.clips, spec.num_frames, *frames.shape[1:])
    height, width = frames.shape[1:3]
    return [
        Clip(
            frames_TSSC=cut_out(clip_THWC, box, size, spec, mirror=mirror), label=UNLABELLED, times_s=times_s,
            numbers_T=numbers_T, frame_size=(height, width), box=box, mirrored=mirror,
        )
        for clip_THWC, times_s, numbers_T in zip(of_clips, times_s_CT, indices_CT, strict=True)
        for box, size, mirror in _crops(height, width, spec, protocol)
    ]  # fmt: skip


def cut_crops(frames_THWC: Frames, spec: ClipSpec, protocol: Protocol) -> list[Frames]:
    """All crops that a protocol takes of frames of one video: uint8 [T, S, S, C] each, or [T, H, W, C] of the whole."""
    height, width = frames_THWC.shape[1:3]
    return [
        cut_out(frames_THWC, box, size, spec, mirror=mirror)
        for box, size, mirror in _crops(height, width, spec, protocol)
    ]


def clip_indices(num_frames: int, spec: ClipSpec, clips: int) -> np.ndarray:
    """The frames of each clip, int64 [clips, T], for a video of `num_frames`.

    Segment sampling: a single clip takes the middle of each segment. Of several clips, clip c takes the frame at the
    share c / clips of each segment: two clips take its start and its middle (TSM's "twice sample"). Dense sampling:
    several windows are spread evenly from the start of the video to its end; a single window is in its middle.
    """
    if spec.sampling == "segment":
        shares = [0.5] if clips == 1 else [number / clips for number in range(clips)]
        return np.stack([segment_indices_at(num_frames, spec.num_frames, share) for share in shares])
    middle_T = dense_indices(num_frames, spec.num_frames, spec.stride_frames, None)
    spare_frames = num_frames - ((spec.num_frames - 1) * spec.stride_frames + 1)
    if clips == 1 or spare_frames <= 0:
        return np.stack([middle_T] * clips)
    starts = np.linspace(0, spare_frames, clips).astype(np.int64)
    steps_T = np.arange(spec.num_frames, dtype=np.int64) * spec.stride_frames
    return starts[:, None] + steps_T[None]


def _crops(
    height: int, width: int, spec: ClipSpec, protocol: Protocol
) -> list[tuple[Box, int | tuple[int, int], bool]]:
    """Of each crop: its box, the size that it gets, and whether it is a mirror image."""
    short_side = spec.resolved_short_side
    if protocol.whole_frame:
        ratio = short_side / min(height, width)
        shape = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        return [(Box(0, 0, height, width), shape, False)]
    if protocol.crops == 1:
        return [(centre_crop_box(height, width, spec.size / short_side), spec.size, False)]
    if protocol.crops == 3:
        side = min(height, width)
        places = ((2, 0), (2, 2), (2, 4)) if width >= height else ((0, 2), (2, 2), (4, 2))
        return [(_at(place, height, width, side), short_side, False) for place in places]
    side = centre_crop_box(height, width, spec.size / short_side).height
    boxes = [_at(place, height, width, side) for place in _CORNERS_AND_CENTRE]
    return [(box, spec.size, mirror) for mirror in (False, True) for box in boxes]


def _at(place: tuple[int, int], height: int, width: int, side: int) -> Box:
    down, right = place
    return Box((height - side) * down // 4, (width - side) * right // 4, side, side)

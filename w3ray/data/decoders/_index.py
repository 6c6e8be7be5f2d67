"""Which packet shows frame i, when, and where must decoding start for it?

A FrameIndex answers this for one video. Frame i is the i-th frame that a decode of the whole file shows. If the headers
of the pictures and the time stamps of the container leave no doubt, the index is made from them (`index_by_headers`).
Otherwise the whole file is decoded once, and the index is made from the frames that come out (`index_by_decoding`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from w3ray.data.decoders._pictures import FROM_THE_FIRST, IN_ORDER, Picture, Vop, mpeg4_pictures, shown_order

# Containers that store the time at which each frame is shown. AVI has no such times; in MPEG streams some are guesses.
_TELL_TIMES = ("mov,", "matroska,", "flv")
_REORDERING = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
# Smaller packets hold no picture, or one that says "as before"; FFmpeg may show nothing for them.
_MIN_PICTURE_BYTES = 5
_MAY_BE_TINY = frozenset({"vp8", "vp9", "av1"})


@dataclass(slots=True)
class PacketTable:
    """What a walk over a stream's packets found, in the order in which they are stored."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    position: list[int | None] = field(default_factory=list)
    """Byte in the file."""
    is_key: list[bool] = field(default_factory=list)
    """The container calls it a key frame."""
    hidden: list[bool] = field(default_factory=list)
    """An edit list hides it."""
    pictures: list[Picture] = field(default_factory=list)
    """Empty if the codec is not understood, and for MPEG-4."""
    content: list[bytes] = field(default_factory=list)
    """MPEG-4 only: its packets may hold several pictures."""

    def __len__(self) -> int:
        return len(self.size)

    def span_s(self, tick_s: float) -> float:
        """Seconds from the first time stamp to the last; NaN if there are none."""
        known = [stamp for stamp in (*self.pts, *self.dts) if stamp is not None]
        return (max(known) - min(known)) * tick_s if known else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameIndex:
    """The frames of a video by their place in its stream. U: coded pictures in the order of decoding, N: frames."""

    order_N: np.ndarray
    """The picture of frame i."""
    starts_s_N: np.ndarray
    """When it is shown, seconds from the first frame; NaN if the file has neither time stamps nor a rate."""
    start_U: np.ndarray
    """Decoding may start at this picture (always true for the first)."""
    skippable_U: np.ndarray
    """No other picture needs it."""
    slices_U3: np.ndarray | None
    """For MPEG-4 in AVI and the like, whose packets may hold several pictures: packet, first byte, and end (the byte
    after the last one). None: each packet is one picture."""
    num_packets: int
    is_seekable: bool = True
    """False: frames can only be counted from the first packet on."""
    is_from_headers: bool
    """False: the index was made by decoding the file."""

    @property
    def num_frames(self) -> int:
        return len(self.order_N)

    def runs(self, frames: Sequence[int]) -> list[tuple[int, int, set[int]]]:
        """(first, last, wanted) pictures to decode so that these frames (ascending) come out."""
        starts = np.flatnonzero(self.start_U)
        place_U = np.full(len(self.start_U), -1)
        place_U[self.order_N] = np.arange(self.num_frames)
        place_U[0] = -1  # from the beginning, all frames can be decoded
        runs: list[tuple[int, int, set[int]]] = []
        for frame in frames:
            picture = int(self.order_N[frame])
            at = int(np.searchsorted(starts, picture, side="right")) - 1
            # A frame that is shown before a key frame but stored after it (open GOP) needs the previous key frame.
            while place_U[starts[at]] > frame:
                at -= 1
            first = int(starts[at])
            if runs and first <= runs[-1][1] + 1:  # the decoder goes on from where it is
                begin, last, wanted = runs[-1]
                wanted.add(picture)
                runs[-1] = (begin, max(last, picture), wanted)
            else:
                runs.append((first, picture, {picture}))
        return runs


def index_by_headers(
    table: PacketTable, *, codec: str, extradata: bytes, container: str, is_interlaced: bool, tick_s: float, fps: float
) -> FrameIndex | None:
    """The index made from the headers; None if they leave a doubt.

    Args:
        table: all packets.
        codec: FFmpeg's name.
        extradata: the codec settings of the whole stream, as the container stores them.
        container: FFmpeg's name of the format.
        is_interlaced: a frame may be two pictures.
        tick_s: length of one time stamp unit, seconds.
        fps: frames per second, NaN if not known.
    """
    vops: list[Vop] | None = None
    if codec == "mpeg4":
        vops = mpeg4_pictures(table.content, extradata)
        if vops is None:
            return None
    elif not table.pictures or is_interlaced:
        return None
    elif codec in _REORDERING and not all(picture.shown for picture in table.pictures):
        return None  # a packet without any part of a picture: usually damage
    elif codec not in _MAY_BE_TINY and min(table.size) < _MIN_PICTURE_BYTES:
        return None
    stamps: list[int] | None
    if vops is not None and not (container.startswith(_TELL_TIMES) and _is_one_each(vops, table)):
        order = shown_order(vops)
        if any(table.hidden):
            return None
        stamps = _shown_at(table, [vops[place].packet for place in order])
        starts = np.array([vop.kind == "I" for vop in vops])
        skippable = np.array([vop.kind == "B" for vop in vops])
        return _index(table, order, stamps, starts, skippable, tick_s, fps, vops)
    pictures = table.pictures
    if vops is not None:
        pictures = [Picture(True, reference=vop.kind != "B", start=vop.kind == "I") for vop in vops]
    shown = [place for place, picture in enumerate(pictures) if picture.shown and not table.hidden[place]]
    if not shown:
        return None
    if codec in _REORDERING:
        stamps = _distinct(table.pts, [place for place, picture in enumerate(pictures) if picture.shown])
        if (
            not container.startswith(_TELL_TIMES)
            or stamps is None
            or not pictures[0].start
            or table.pts[0] != min(stamps)
            or any(picture.breaks for picture in pictures[1:])
            or not _keys_follow(table)
        ):
            return None
        order = sorted(shown, key=lambda place: table.pts[place] or 0)
    else:
        assert codec in IN_ORDER or all(picture.start for picture in pictures)
        if not pictures[0].start and codec not in FROM_THE_FIRST:
            return None
        order = shown
    stamps = _shown_at(table, order)
    top_layer = max(picture.layer for picture in pictures)
    skippable = np.array([not picture.reference and picture.layer == top_layer for picture in pictures])
    return _index(table, order, stamps, np.array([picture.start for picture in pictures]), skippable, tick_s, fps)


def index_by_decoding(
    table: PacketTable, shown: Sequence[int | None], *, has_fields: bool, tick_s: float, fps: float
) -> FrameIndex:
    """The index of a stream that was decoded from its first packet to its last.

    Args:
        table: all packets.
        shown: the packet of each frame, in the order in which frames came out; None if the decoder did not say.
        has_fields: some packets are half a frame.
        tick_s, fps: as in `index_by_headers`.
    """
    order = [-1 if place is None else place for place in shown]
    is_seekable = len(set(order)) == len(order) and min(order) >= 0 and bool(table.pictures) and not has_fields
    if table.pictures:
        starts = np.array([picture.start for picture in table.pictures])
        top_layer = max(picture.layer for picture in table.pictures)
        skippable = np.array([not picture.reference and picture.layer == top_layer for picture in table.pictures])
    else:
        starts = np.zeros(len(table), dtype=bool)
        skippable = np.zeros(len(table), dtype=bool)
    stamps: list[int] | None = None
    if min(order) >= 0:
        stamps = _shown_at(table, order) or _continued(table.pts, order, tick_s, fps)
    return _index(table, order, stamps, starts, skippable, tick_s, fps, None, is_seekable, False)


def lost_pictures(table: PacketTable, shown: Sequence[int | None], codec: str, container: str) -> int:
    """How many pictures a whole decode did not show although nothing before them was missing: a sign of damage.

    A recording may begin in the middle of a group of pictures. Then its first packets are not shown. Packets that are
    stored after the first picture but shown before it are not shown either.
    """
    if codec not in _REORDERING or not table.pictures:
        return 0
    came = sorted({place for place in shown if place is not None})
    whole_from = came[1] if len(came) > 1 else came[0]
    due = {place for place in range(whole_from, len(table)) if not table.hidden[place]}
    if not container.startswith("mpeg"):  # MPEG streams may also be cut in the middle of a packet
        due |= {place for place in range(whole_from) if not table.pictures[place].shown}
    return len(due - set(came))


def _index(
    table: PacketTable,
    order: Sequence[int],
    stamps: list[int] | None,
    starts: np.ndarray,
    skippable: np.ndarray,
    tick_s: float,
    fps: float,
    vops: Sequence[Vop] | None = None,
    is_seekable: bool = True,
    is_from_headers: bool = True,
) -> FrameIndex:
    starts[0] = True
    if stamps is None:
        starts_s = np.arange(len(order)) / fps
    else:
        starts_s = (np.array(stamps, dtype=np.float64) - stamps[0]) * tick_s
    return FrameIndex(
        order_N=np.array(order, dtype=np.int64),
        starts_s_N=starts_s,
        start_U=starts,
        skippable_U=skippable,
        slices_U3=None if vops is None else np.array([(vop.stored_in, vop.start, vop.end) for vop in vops]),
        num_packets=len(table),
        is_seekable=is_seekable,
        is_from_headers=is_from_headers,
    )


def doubt_of(table: PacketTable, index: FrameIndex, container: str) -> str | None:
    """Why a reader that trusts time stamps and key frames may give other frames than `index`; None: it cannot.

    Such a reader counts packets as frames, sorts them by time and starts at what the container calls a key frame.
    """
    if not container.startswith(_TELL_TIMES[:2]) or not index.is_from_headers:
        return f"{container.split(',')[0]} does not tell where its frames are"
    if any(table.hidden):
        return "an edit list hides frames"
    if index.num_frames != len(table) or index.slices_U3 is not None:
        return "not every packet is a frame"
    keys = np.flatnonzero(table.is_key)
    if not np.array_equal(keys, np.flatnonzero(index.start_U)):
        return "not every key frame is one at which decoding may start"
    place_U = np.empty(index.num_frames, dtype=np.int64)
    place_U[index.order_N] = np.arange(index.num_frames)
    if any(place_U[key:].min() < place_U[key] for key in keys):
        return "frames stored after a key frame are shown before it (open GOP)"
    return None


def _keys_follow(table: PacketTable) -> bool:
    """Whether each key frame is shown after all that is stored before it. Every standard demands this; edit lists with
    several parts break it."""
    latest: int | None = None
    for is_key, stamp in zip(table.is_key, table.pts, strict=True):
        if stamp is None or (is_key and latest is not None and stamp < latest):
            return False
        latest = stamp if latest is None else max(latest, stamp)
    return True


def _is_one_each(vops: Sequence[Vop], table: PacketTable) -> bool:
    return [(vop.stored_in, vop.end - vop.start) for vop in vops] == list(enumerate(table.size))


def _distinct(stamps: Sequence[int | None], places: Sequence[int]) -> list[int] | None:
    """The stamps of these packets, ascending; None if one is missing or occurs twice."""
    known = [stamp for place in places if (stamp := stamps[place]) is not None]
    return sorted(known) if len(set(known)) == len(places) else None


def _shown_at(table: PacketTable, order: Sequence[int]) -> list[int] | None:
    """The time stamps of these packets in display order; None if the packets have no increasing stamps.

    AVI and ASF store when a packet is decoded, not when its picture is shown. Then the frames get these times in turn.
    """
    stored = sorted(order)
    return _rising(table.pts, order) or _rising(table.dts, stored) or _rising(table.pts, stored)


def _rising(stamps: Sequence[int | None], order: Sequence[int]) -> list[int] | None:
    """The stamps in display order; None if one is missing or they do not increase."""
    known = [stamp for place in order if (stamp := stamps[place]) is not None]
    rises = len(known) == len(order) and all(before < after for before, after in pairwise(known))
    return known if rises else None


def _continued(stamps: Sequence[int | None], order: Sequence[int], tick_s: float, fps: float) -> list[int] | None:
    """The stamps in display order. Where they start again (files joined end to end), they continue one frame later."""
    if any(stamps[place] is None for place in order) or not np.isfinite(fps):
        return _rising(stamps, order)
    step = max(1, round(1 / (fps * tick_s)))
    times: list[int] = []
    shift = 0
    for place in order:
        stamp = (stamps[place] or 0) + shift
        if times and stamp <= times[-1]:
            shift += times[-1] + step - stamp
            stamp = times[-1] + step
        times.append(stamp)
    return times

"""What is in a packet: a picture that is shown, one that others refer to, one at which decoding may start?

This is read from the first bytes of the coded picture, because containers are wrong about it: an AVI index marks empty
packets as key frames, H.264 key frames of an intra refresh are not complete, WebM holds packets that show nothing.

Video of a codec without an entry in READERS is decoded from its first packet on, and nothing is assumed of its packets.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from w3ray.data.decoders._bits import Bits


class Picture(NamedTuple):
    """What a packet says about its picture."""

    shown: bool
    """Decoding it yields a frame."""
    reference: bool
    """Other pictures may need it. A picture that no other needs may be skipped."""
    start: bool
    """This picture and all that are shown after it can be decoded without earlier packets."""
    layer: int = 0
    """Temporal layer. A picture that is not a reference may still be one for higher layers (HEVC)."""
    breaks: bool = False
    """Pictures that are stored after it and shown before it may be dropped (HEVC's broken links)."""


NOTHING = Picture(shown=False, reference=False, start=False)
_START_CODE = b"\0\0\1"

Reader = Callable[[bytes, bool], Picture]
"""`read(data, is_key)`: the packet's bytes, and whether the container calls it a key frame."""


def reader_of(codec: str, intra_only: bool, extradata: bytes) -> Reader | None:
    """The function that reads the packets of a codec; None if they are not understood.

    Args:
        codec: FFmpeg's name, such as `h264`.
        intra_only: each picture of this codec stands alone.
        extradata: the codec settings of the whole stream, as the container stores them.
    """
    if intra_only:
        return _intra
    if codec in ("h264", "hevc"):
        # avcC and hvcC begin with their version, 1, and hold the size of the length field before each NAL unit.
        is_mp4 = extradata[:1] == b"\1"
        place, read_nal = (4, _h264_nal) if codec == "h264" else (21, _hevc_nal)
        length_bytes = (extradata[place] & 3) + 1 if is_mp4 and len(extradata) > place else 0
        return lambda data, is_key: _first_picture(data, length_bytes, read_nal)
    return READERS.get(codec)


def _intra(data: bytes, is_key: bool) -> Picture:
    return Picture(shown=True, reference=False, start=True)


def _first_picture(data: bytes, length_bytes: int, read_nal: Callable[[int, int], Picture | None]) -> Picture:
    """The picture of the first NAL unit that is part of one."""
    place, end = 0, len(data)
    while True:
        if length_bytes:
            head = place + length_bytes
            following = head + int.from_bytes(data[place:head], "big")
        else:
            found = data.find(_START_CODE, place)
            if found < 0:
                return NOTHING
            head = following = found + 3
        if head + 1 >= end:
            return NOTHING
        picture = read_nal(data[head], data[head + 1])
        if picture is not None:
            return picture
        place = following


def _h264_nal(first: int, second: int) -> Picture | None:
    """ISO/IEC 14496-10, 7.3.1: nal_ref_idc (2 bits), nal_unit_type (5 bits)."""
    kind = first & 31
    if kind not in (1, 2, 5):  # slices; 5: of an IDR picture
        return None
    return Picture(shown=True, reference=bool(first & 0x60), start=kind == 5)


def _hevc_nal(first: int, second: int) -> Picture | None:
    """ISO/IEC 23008-2, 7.3.1.2 and Table 7-1: nal_unit_type (6 bits), nuh_layer_id (6), nuh_temporal_id_plus1 (3)."""
    kind = first >> 1 & 63
    layer_id = (first & 1) << 5 | second >> 3
    if kind > 31 or layer_id:
        return None
    is_irap = 16 <= kind <= 23
    is_reference = is_irap or kind % 2 == 1
    return Picture(True, is_reference, start=is_irap, layer=(second & 7) - 1, breaks=16 <= kind <= 18)


def _mpeg12(data: bytes, is_key: bool) -> Picture:
    """ISO/IEC 13818-2, 6.2.3: picture_start_code, temporal_reference (10 bits), picture_coding_type (3 bits)."""
    place = data.find(b"\0\0\1\0")
    if place < 0 or place + 5 >= len(data):
        return NOTHING
    kind = data[place + 5] >> 3 & 7
    # Without the sequence header the decoder would use the quantiser matrices of what it decoded before.
    is_start = kind == 1 and data.find(b"\0\0\1\xb3", 0, place) >= 0
    return Picture(shown=True, reference=kind != 3, start=is_start)


def _vp8(data: bytes, is_key: bool) -> Picture:
    """RFC 6386, 9.1: bit 0 is 0 in key frames, bit 4 is show_frame."""
    return Picture(shown=bool(data[0] & 0x10), reference=True, start=not data[0] & 1)


def _vp9(data: bytes, is_key: bool) -> Picture:
    """VP9 bitstream specification, 6.2 and annex B (superframes, which end with a picture that is shown)."""
    bits = Bits(data[:4])
    bits.skip(2)
    profile = bits.read(1) | bits.read(1) << 1
    bits.skip(profile == 3)
    if bits.read(1):  # show_existing_frame
        return Picture(shown=True, reference=True, start=False)
    is_key = bits.read(1) == 0
    is_superframe = data[-1] & 0xE0 == 0xC0
    return Picture(shown=bool(bits.read(1)) or is_superframe, reference=True, start=is_key)


def _av1(data: bytes, is_key: bool) -> Picture:
    """A packet is a temporal unit, which shows one frame (AV1 specification, 7.5)."""
    return Picture(shown=True, reference=True, start=is_key)


def _msmpeg4(data: bytes, is_key: bool) -> Picture:
    """The first two bits are 0 in intra pictures, also of WMV1."""
    return Picture(shown=True, reference=True, start=data[0] >> 6 == 0)


def _wmv2(data: bytes, is_key: bool) -> Picture:
    return Picture(shown=True, reference=True, start=data[0] >> 7 == 0)


def _ffv1(data: bytes, is_key: bool) -> Picture:
    """RFC 9043, 4.4: the first symbol is the key frame bit, coded by a range coder with even odds."""
    return Picture(shown=True, reference=True, start=data[0] << 8 | data[1] >= 0x7F80)


def _from_the_first(data: bytes, is_key: bool) -> Picture:
    """Each packet shows a picture, but it is not known which pictures are complete."""
    return Picture(shown=True, reference=True, start=False)


READERS: dict[str, Reader] = {
    "av1": _av1,
    "ffv1": _ffv1,
    "flv1": _from_the_first,
    "gif": _from_the_first,
    "mpeg1video": _mpeg12,
    "mpeg2video": _mpeg12,
    "msmpeg4v2": _msmpeg4,
    "msmpeg4v3": _msmpeg4,
    "png": _intra,
    "vp8": _vp8,
    "vp9": _vp9,
    "wmv1": _msmpeg4,
    "wmv2": _wmv2,
}
"""By FFmpeg's name. MPEG-4, whose packets may hold several pictures, is read by `mpeg4_pictures`; H.264 and HEVC need
the stream's own header (`reader_of`)."""

FROM_THE_FIRST = frozenset(name for name, read in READERS.items() if read is _from_the_first)
IN_ORDER = frozenset(READERS) - {"mpeg1video", "mpeg2video"}
"""Codecs that show their packets in the order in which they are stored, as codecs of intra pictures do, too."""


class Vop(NamedTuple):
    """One coded picture of MPEG-4 (video object plane) and the packet in whose turn FFmpeg decodes it."""

    packet: int
    stored_in: int
    """The packet that holds its bytes, from `start` to `end`."""
    start: int
    end: int
    kind: str
    """I, P, B or S (sprite, a reference)."""


class _Volume(NamedTuple):
    """The parts of MPEG-4's video object layer (ISO/IEC 14496-2, 6.2.3) that say how pictures follow each other."""

    may_reorder: bool
    time_bits: int


def mpeg4_pictures(packets: list[bytes], extradata: bytes) -> list[Vop] | None:
    """The pictures of an MPEG-4 stream in the order of decoding, each in a packet of its own.

    Encoders such as DivX and XviD pack a B picture into the packet of the P picture before it, and put a "not coded"
    placeholder in its place. The second picture of a packet is decoded in the turn of the next packet, as in FFmpeg.

    Returns: None if the order cannot be told from the headers of the stream.
    """
    head = extradata + packets[0]
    volume = _mpeg4_volume(head)
    if volume is None:
        return None
    is_packed = re.search(rb"DivX\d+(?:Build|b)\d+p", head) is not None
    found: list[Vop] = []
    waiting: tuple[int, int, int, str] | None = None
    for number, data in enumerate(packets):
        vops = _vops(data, volume)
        if waiting is not None:
            if data[:4] == b"\0\0\1\xb0":  # a new sequence: FFmpeg drops the waiting picture
                return None
            found.append(Vop(number, *waiting))
            rest = vops
        elif not vops:
            continue
        else:
            (start, end, kind, is_coded), rest = vops[0], vops[1:]
            if is_coded:
                found.append(Vop(number, number, start, end, kind))
        waiting = None
        if rest and is_packed:
            start, end, kind, is_coded = rest[0]
            if kind in "IB" and is_coded:
                waiting = (number, start, end, kind)
        elif len(vops) > 1:
            return None  # several pictures in a packet of a stream that does not call itself packed
    # A B picture without two references before it is dropped. If the stream should have none at all, FFmpeg guesses.
    early = [vop.kind for vop in found[:2]]
    if "B" in early or (not volume.may_reorder and any(vop.kind == "B" for vop in found)):
        return None
    return found


def shown_order(vops: list[Vop]) -> list[int]:
    """The places of MPEG-4 pictures in display order. A reference is shown when the next reference has come."""
    order: list[int] = []
    held: int | None = None
    for place, vop in enumerate(vops):
        if vop.kind == "B":
            order.append(place)
            continue
        if held is not None:
            order.append(held)
        held = place
    return order if held is None else [*order, held]


def _vops(data: bytes, volume: _Volume) -> list[tuple[int, int, str, bool]]:
    """(start, end, kind, whether it is coded) of each picture in a packet; headers belong to the picture after them."""
    places = [match.start() for match in re.finditer(b"\0\0\1\xb6", data) if match.end() < len(data)]
    ends = [*places[1:], len(data)]
    starts = [0, *places[1:]]
    return [
        (start, end, "IPBS"[data[place + 4] >> 6], _is_coded(data[place + 4 : place + 24], volume))
        for start, place, end in zip(starts, places, ends, strict=False)
    ]


def _is_coded(head: bytes, volume: _Volume) -> bool:
    bits = Bits(head)
    bits.skip(2)  # vop_coding_type
    while bits.read(1):  # modulo_time_base
        pass
    bits.skip(1 + volume.time_bits + 1)
    return bool(bits.read(1))


def _mpeg4_volume(head: bytes) -> _Volume | None:
    match = re.search(b"\0\0\1[\x20-\x2f]", head)
    if match is None:
        return None
    bits = Bits(head[match.end() : match.end() + 40])
    bits.skip(1 + 8)  # random_accessible_vol, video_object_type_indication
    if bits.read(1):
        bits.skip(4 + 3)  # version, priority
    if bits.read(4) == 15:
        bits.skip(8 + 8)  # aspect ratio, given in full
    may_reorder = False
    if bits.read(1):  # vol_control_parameters
        bits.skip(2)  # chroma_format
        may_reorder = bits.read(1) == 0  # low_delay
        if bits.read(1):
            bits.skip(79)  # vbv_parameters
    if bits.read(2) != 0:  # not rectangular
        return None
    bits.skip(1)
    return _Volume(may_reorder, max(1, (bits.read(16) - 1).bit_length()))

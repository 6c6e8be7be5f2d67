"""Numbered clips with the structures of real files: cut, joined, delayed, with holes, without an index.

STRUCTURES has one entry for each file: how it is made, and the numbers that a whole decode shows, if these are known
without decoding. Forms that PyAV's muxers do not write are made by changing bytes.

"A whole decode" is that of the installed FFmpeg (8.1, in PyAV). The ffmpeg program 5.1 shows the same frames with the
same rotation, with three exceptions:
- hevc_open without its start: 5.1 first shows two or three damaged pictures whose references are missing. 8.1 does not
  show them, and neither version does so for H.264 and MPEG-2. A damaged picture is not useful for training.
- AV1 after an edit list: 5.1 (libdav1d) shows the frames that the list hides.
- Two streams: the program takes the stream with the most pixels. `av_find_best_stream`, which every decoder here uses,
  takes another one.
VP8, VP9 and AV1 without their start: the decoder refuses the packets before the first key frame. The program continues
after them, and so does the truth. Two kinds are left out, because it is unclear what is right: MPEG-4, WMV, H.263 and
FLV1 without their start (FFmpeg shows the changes on a gray background up to the first key frame), and an orientation
in the H.264 stream itself (it is only at the first key frame).
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numbered import CODECS, RATE, Codec, encodable, replaced, write

Packets = list[Any]


@dataclass(frozen=True)
class Structure:
    """How a file is made, and the numbers that it shows (None: those of the whole decode)."""

    make: Callable[[Path], Path]
    shows: list[int] | None
    turn: str = "upright"
    """How players rotate the pictures; a key of TURNS."""
    rate: Fraction = Fraction(RATE)
    holes: bool = False
    """The times of frames do not follow the rate."""


STRUCTURES: dict[str, Structure] = {}


def _add(name: str, make: Callable[[Path], Path], shows: Sequence[int] | None, **more: Any) -> None:
    assert name not in STRUCTURES, name
    STRUCTURES[name] = Structure(make, None if shows is None else list(shows), **more)


# --------------------------------------------------------------------------------------- changes of packet lists


def later(frames: int) -> Callable[[Packets], Packets]:
    """All packets later by this number of frame times; earlier if it is negative."""

    def edit(packets: Packets) -> Packets:
        for packet in packets:
            ticks = round(frames / RATE / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return packets

    return edit


def cut_from_key(hidden: int, key: int = 1) -> Callable[[Packets], Packets]:
    """What `-ss` with stream copy keeps: all from a key frame on. The first `hidden` frames are before time 0."""

    def edit(packets: Packets) -> Packets:
        keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
        kept = packets[keys[key] :]
        start = kept[0].pts
        for packet in kept:
            shift = start + round(hidden / RATE / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        return kept

    return edit


def without(first: int, last: int | None = None) -> Callable[[Packets], Packets]:
    """Without the packets from `first` up to `last`, in stored order. All times stay."""

    def edit(packets: Packets) -> Packets:
        return packets[:first] + packets[first + 1 if last is None else last :]

    return edit


def b_frames(packets: Packets) -> list[bool]:
    """Which packets are shown before a packet that is stored earlier: the B-frames, if no others refer to these."""
    latest = np.maximum.accumulate([packet.pts for packet in packets])
    return [packet.pts < earlier for packet, earlier in zip(packets, latest, strict=True)]


def without_some_b_frames(packets: Packets) -> Packets:
    dropped = np.flatnonzero(b_frames(packets))[::2].tolist()
    assert dropped
    return [packet for place, packet in enumerate(packets) if place not in dropped]


def _clip(codec: str, **more: Any) -> Callable[[Path], Path]:
    """A clip of that codec. `more`: arguments of `write` or fields of Codec."""
    changes = {name: more.pop(name) for name in list(more) if name in Codec.__dataclass_fields__}
    return lambda path: write(path, replace(CODECS[codec], **changes), **more)


# ------------------------------------------------------------------------------------------- cut, delayed, early

ALL = range(32)
for _suffix, _codecs in {
    "mp4": "h264_closed h264_open hevc_open mpeg4_b mpeg2_b vp9 av1",
    "mov": "h264_closed h264_open hevc_open mpeg4_b mpeg2_b prores",
    "3gp": "h264_open mpeg4_b",
}.items():
    for _codec in _codecs.split():
        _add(f"editlist_cut-{_codec}.{_suffix}", _clip(_codec, edit=cut_from_key(6)), None)

for _suffix, _codec in {
    "mp4": "h264_open",
    "mov": "mpeg4_b",
    "mkv": "h264_open",
    "webm": "vp8_altref",
    "avi": "mpeg4",
    "ts": "h264_open",
    "mpg": "mpeg2_b",
    "flv": "h264_open",
    "3gp": "h264_open",
    "wmv": "wmv2",
    "mxf": "mpeg2_b",
    "ogv": "vp8",
}.items():
    _add(f"offset_5s-{_codec}.{_suffix}", _clip(_codec, edit=later(150)), ALL)
    _add(f"audio_first-{_codec}.{_suffix}", _clip(_codec, edit=later(12), sound_from=0.0), ALL)
    _add(f"audio_late-{_codec}.{_suffix}", _clip(_codec, sound_from=0.5), ALL)
    if _suffix not in ("mpg", "wmv", "mxf", "ogv"):
        _add(f"negative-{_codec}.{_suffix}", _clip(_codec, edit=later(-3)), None)
_add(
    "negative_kept-h264_open.mkv",
    _clip("h264_open", edit=later(-3), mux_options={"avoid_negative_ts": "disabled"}),
    None,
)
_add(
    "negative_cts-h264_open.mp4",
    _clip("h264_open", mux_options={"movflags": "+negative_cts_offsets", "use_editlist": "0"}),
    ALL,
)
_add("no_editlist-h264_open.mp4", _clip("h264_open", mux_options={"use_editlist": "0"}), ALL)

# ------------------------------------------------------------------------------------ cut in the middle of a GOP

for _suffix, _codecs in {
    "ts": "h264_closed h264_open h264_refresh hevc_open mpeg1_b mpeg2 mpeg2_b",
    "mpg": "mpeg1 mpeg1_b mpeg2 mpeg2_b",
    "vob": "mpeg2_b",
    "mkv": "h264_closed h264_open h264_refresh hevc_open mpeg2_b vp9 av1",
    "webm": "vp8 vp8_altref",
    "mp4": "h264_open vp9_altref",
    "flv": "h264_open h264_refresh",
    "avi": "h264_open mpeg1 vp8",
    "mxf": "mpeg2_b",
}.items():
    for _codec in _codecs.split():
        _add(f"cutstart-{_codec}.{_suffix}", _clip(_codec, edit=without(0, 4)), None)


def cut_bytes(make: Callable[[Path], Path], share: float, block: int) -> Callable[[Path], Path]:
    """Without the beginning of the file, cut between blocks, as if a recorder was switched on late."""

    def changed(path: Path) -> Path:
        content = make(path).read_bytes()
        path.write_bytes(content[int(len(content) * share) // block * block :])
        return path

    return changed


for _codec in "h264_closed", "h264_open", "hevc_open", "mpeg2_b":
    _add(f"recorded-{_codec}.ts", cut_bytes(_clip(_codec), 0.2, 188), None)
for _codec in "mpeg1", "mpeg2_b":
    _add(f"recorded-{_codec}.mpg", cut_bytes(_clip(_codec), 0.2, 2048), None)

# ------------------------------------------------------------------------------------------------ holes, varying


def gaps(place: int) -> int:
    """Frame times with occasional holes."""
    return place + place // 4 * 2 + (9 if place > 17 else 0)


for _suffix, _codecs in {
    "avi": "mpeg4 mpeg4_b h264_no_b h264_closed mjpeg wmv2 ffv1 vp8",
    "mp4": "h264_closed h264_open hevc_open mpeg4_b vp9 av1",
    "mov": "h264_open mjpeg prores",
    "mkv": "h264_open hevc_open mpeg2_b vp9",
    "webm": "vp8 vp8_altref vp9 av1",
    "ts": "h264_open mpeg2_b hevc_open",
    "mpg": "mpeg2 mpeg2_b",
    "flv": "h264_open flv1",
    "3gp": "h264_open h263",
    "wmv": "wmv2",
    "gif": "gif",
}.items():
    for _codec in _codecs.split():
        _add(f"vfr-{_codec}.{_suffix}", _clip(_codec, ticks=gaps), ALL, holes=True)

_NO_PYRAMID = {
    "h264_open": {"x264-params": "open-gop=1:scenecut=0:b-pyramid=none", "bf": "3"},
    "hevc_open": {"x265-params": "log-level=none:pools=1:bframes=4:open-gop=1:scenecut=0:b-pyramid=0"},
}
for _suffix, _codecs in {
    "mp4": "h264_open hevc_open mpeg4_b",
    "mkv": "h264_open mpeg2_b",
    "ts": "h264_open hevc_open mpeg2_b",
    "mpg": "mpeg2_b",
    "avi": "mpeg4_b",
    "flv": "h264_open",
}.items():
    for _codec in _codecs.split():
        _options = _NO_PYRAMID.get(_codec, CODECS[_codec].options)
        _add(
            f"b_frames_lost-{_codec}.{_suffix}",
            _clip(_codec, options=_options, edit=without_some_b_frames),
            None,
            holes=True,
        )


def without_a_gop(packets: Packets) -> Packets:
    keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
    return packets[: keys[1]] + packets[keys[2] :]


for _suffix, _codecs in {
    "mp4": "h264_closed hevc_closed mpeg4 vp9",
    "mkv": "h264_closed vp8_altref",
    "ts": "h264_closed mpeg2 mpeg2_closed",
    "mpg": "mpeg2",
    "avi": "mpeg4 h264_closed",
    "flv": "h264_closed",
}.items():
    for _codec in _codecs.split():
        _add(f"gop_lost-{_codec}.{_suffix}", _clip(_codec, edit=without_a_gop), None, holes=True)

# ----------------------------------------------------------------------------------------------- several streams

for _suffix, _codec in {
    "mp4": "h264_open",
    "mkv": "h264_open",
    "ts": "mpeg2_b",
    "avi": "mpeg4_b",
    "mov": "mjpeg",
}.items():
    _small = replace(CODECS[_codec], width=96, height=64, bit_rate=300_000 if CODECS[_codec].bit_rate else 0)
    _add(f"two_streams-{_codec}.{_suffix}", _clip(_codec, second=_small), None)
    _large = replace(CODECS[_codec], width=320, height=192)
    _add(f"two_streams_larger_first-{_codec}.{_suffix}", _clip(_codec, second=_large), None)
for _suffix in "mp4", "mov":
    _add(f"cover-h264_open.{_suffix}", _clip("h264_open", cover=True), ALL)

# ------------------------------------------------------------------------------------- short, odd, pixel formats

_SHORT = """
    h264_open.mp4 hevc_open.mp4 mpeg4_b.mov h264_open.mkv vp9.webm vp8_altref.webm av1.mkv mpeg4_b.avi h264_closed.avi
    h264_open.ts mpeg2_b.ts mpeg1_b.mpg mpeg2.mpg h264_open.flv h263.3gp wmv2.wmv mpeg2_b.mxf gif.gif mjpeg.avi
"""
for _count in 1, 2, 3:
    for _name in _SHORT.split():
        _codec, _suffix = _name.split(".")
        _add(f"frames_{_count}-{_name}", _clip(_codec, frames=_count), range(_count))

_ODD = "vp9.webm mpeg4_b.mp4 mjpeg.avi ffv1.mkv mpeg2_b.mpg av1.mp4 vp8.mkv gif.gif"
for _height, _width in (97, 161), (62, 98):
    for _name in f"{_ODD} wmv2.wmv flv1.flv".split() if _width % 2 == 0 else _ODD.split():
        _codec, _suffix = _name.split(".")
        _add(f"size_{_height}x{_width}-{_name}", _clip(_codec, height=_height, width=_width), ALL)
for _name, _pix_fmt in (
    ("h264_open.mp4", "yuv444p"),
    ("h264_open.mkv", "yuv444p10le"),
    ("h264_open.mov", "gray"),
    ("hevc_open.mp4", "yuv444p12le"),
    ("hevc_open.mkv", "gray"),
    ("vp9.webm", "yuv444p"),
    ("vp9.mkv", "yuva420p"),
    ("av1.mp4", "yuv420p10le"),
    ("prores.mov", "yuv444p10le"),
    ("prores.mov", "yuva444p10le"),
    ("ffv1.mkv", "gray16le"),
    ("ffv1.avi", "bgra"),
    ("png.mov", "rgba"),
    ("ffvhuff.avi", "yuv444p"),
):
    _codec, _suffix = _name.split(".")
    _add(f"{_pix_fmt}-{_name}", _clip(_codec, pix_fmt=_pix_fmt), ALL if CODECS[_codec].frames == 32 else None)

# ----------------------------------------------------------------------------------- fragments, without an index

for _codec in "h264_open", "h264_refresh", "hevc_open", "vp9", "av1":
    _add(
        f"fragments-{_codec}.mp4",
        _clip(_codec, mux_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
        ALL,
    )
    _add(f"frame_fragments-{_codec}.mp4", _clip(_codec, mux_options={"movflags": "frag_every_frame+delay_moov"}), ALL)
    _add(f"fast_start-{_codec}.mp4", _clip(_codec, mux_options={"movflags": "faststart"}), ALL)
for _codec in "h264_open", "hevc_open", "mpeg2_b", "vp9", "h264_refresh":
    _add(f"no_cues-{_codec}.mkv", _clip(_codec, mux_options={"live": "1"}), ALL)
for _codec in "vp8_altref", "vp9", "av1":
    _add(f"no_cues-{_codec}.webm", _clip(_codec, mux_options={"live": "1"}), ALL)
for _codec in "h264_open", "flv1":
    _add(f"no_duration-{_codec}.flv", _clip(_codec, mux_options={"flvflags": "no_duration_filesize+no_metadata"}), ALL)
for _codec in "h264_open", "hevc_open":
    _add(f"blu_ray-{_codec}.ts", _clip(_codec, mux_options={"mpegts_m2ts_mode": "1"}), ALL)


def without_index(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """An AVI without its index at the end, as after an interrupted recording."""

    def changed(path: Path) -> Path:
        content = bytearray(make(path).read_bytes())
        at = content.rindex(b"idx1")
        size = struct.unpack_from("<I", content, at + 4)[0]
        del content[at : at + 8 + size]
        struct.pack_into("<I", content, 4, len(content) - 8)
        path.write_bytes(content)
        return path

    return changed


for _codec in "mpeg4", "mpeg4_b", "h264_closed", "mjpeg", "wmv2":
    _add(f"no_index-{_codec}.avi", without_index(_clip(_codec)), ALL)
_add("no_index_gaps-mpeg4.avi", without_index(_clip("mpeg4", ticks=gaps)), ALL, holes=True)


def all_keys(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """An MP4 without the table of key frames: every frame counts as one, and seeking leads to undecodable frames."""

    def changed(path: Path) -> Path:
        content = bytearray(make(path).read_bytes())
        at = content.rindex(b"stss")
        content[at : at + 4] = b"free"
        path.write_bytes(content)
        return path

    return changed


for _codec in "h264_closed", "h264_open", "hevc_open", "mpeg4_b":
    _add(f"all_keys-{_codec}.mp4", all_keys(_clip(_codec)), ALL)

# ---------------------------------------------------------------------------------------------------- edit lists


@dataclass
class Box:
    """A box of an MP4 file: its kind, and its content or inner boxes."""

    kind: bytes
    content: bytes = b""
    inner: list["Box"] | None = None

    def bytes(self) -> bytes:
        content = self.content if self.inner is None else b"".join(box.bytes() for box in self.inner)
        return struct.pack(">I", len(content) + 8) + self.kind + content

    def find(self, kind: bytes) -> "Box":
        return next(box for box in self.all() if box.kind == kind)

    def all(self) -> Iterator["Box"]:
        yield self
        for box in self.inner or []:
            yield from box.all()


def boxes(content: bytes) -> list[Box]:
    found, at = [], 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        inside = content[at + 8 : at + size]
        found.append(
            Box(kind, b"", boxes(inside)) if kind in (b"moov", b"trak", b"mdia", b"edts") else Box(kind, inside)
        )
        at += size
    return found


def change_moov(make: Callable[[Path], Path], change: Callable[[Box], None]) -> Callable[[Path], Path]:
    """Change the index at the end of an MP4 file."""

    def changed(path: Path) -> Path:
        content = make(path).read_bytes()
        top = boxes(content)
        assert top[-1].kind == b"moov", "the index must come last, so that nothing else moves"
        change(top[-1])
        path.write_bytes(b"".join(box.bytes() for box in top))
        return path

    return changed


def edit_list(*edits: tuple[int, int]) -> Callable[[Box], None]:
    """Edits of (first frame, number of frames). The first frame -1 means a pause."""

    def change(moov: Box) -> None:
        ticks_movie = struct.unpack_from(">I", moov.find(b"mvhd").content, 12)[0]
        track = moov.find(b"trak")
        ticks_track = struct.unpack_from(">I", track.find(b"mdhd").content, 12)[0]
        assert track.inner is not None
        # The muxer's own list skips the reordering delay before the first picture.
        own = next((box for box in track.inner if box.kind == b"edts"), None)
        delay = struct.unpack_from(">i", own.find(b"elst").content, 12)[0] if own else 0
        rows = b"".join(
            struct.pack(
                ">IiI",
                frames * ticks_movie // RATE,
                -1 if first < 0 else delay + first * ticks_track // RATE,
                0x10000,
            )
            for first, frames in edits
        )
        lists = Box(b"edts", b"", [Box(b"elst", struct.pack(">II", 0, len(edits)) + rows)])
        track.inner = [track.find(b"tkhd"), lists] + [box for box in track.inner if box.kind not in (b"tkhd", b"edts")]

    return change


for _codec in "h264_closed", "h264_open", "hevc_open", "mpeg4", "vp9":
    for _name, _edits, _shows in (
        ("from_the_middle", [(14, 18)], range(14, 32)),
        ("a_part", [(5, 12)], range(5, 17)),
        ("two_parts", [(3, 8), (21, 9)], [*range(3, 11), *range(21, 30)]),
        ("a_part_twice", [(4, 9), (4, 9)], [*range(4, 13)] * 2),
        ("pause_first", [(-1, 20), (0, 32)], range(32)),
        ("back_to_front", [(20, 10), (2, 10)], [*range(20, 30), *range(2, 12)]),
    ):
        _add(f"edits_{_name}-{_codec}.mp4", change_moov(_clip(_codec), edit_list(*_edits)), None)

# ----------------------------------------------------------------------------------------------- joined, wrapped


def joined(*makes: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Files in sequence. The time stamps restart."""

    def made(path: Path) -> Path:
        path.write_bytes(b"".join(make(path).read_bytes() for make in makes))
        return path

    return made


for _name in "mpeg1.mpg", "mpeg2.mpg", "mpeg2_b.mpg", "mpeg2_b.vob", "mpeg2.ts", "mpeg2_b.ts", "h264_closed.ts":
    _codec, _suffix = _name.split(".")
    _add(
        f"joined-{_name}",
        joined(_clip(_codec, shown=range(32)), _clip(_codec, shown=range(100, 132))),
        [*range(32), *range(100, 132)],
    )
_WRAP = 2**33 * RATE // 90_000
for _name in "mpeg2_b.ts", "h264_open.ts", "hevc_open.ts", "mpeg2_b.mpg":
    _codec, _suffix = _name.split(".")
    _add(f"wrapped-{_name}", _clip(_codec, edit=later(_WRAP - 40)), ALL)

# ----------------------------------------------------------------------------------------------- packed B-frames


def packed(packets: Packets) -> Packets:
    """DivX's packed B-frames in AVI: a B-frame shares the packet of its next reference; an empty frame fills the gap.

    MPEG-4 in coding order I P B B P B B becomes I, P+B, B, empty, P+B, B, empty.
    """
    out: Packets = []
    place, is_b = 0, b_frames(packets)
    while place < len(packets):
        group = [packets[place]]
        while place + len(group) < len(packets) and is_b[place + len(group)]:
            group.append(packets[place + len(group)])
        contents = [bytes(packet) for packet in group]
        if len(group) > 1:
            contents = [contents[0] + contents[1], *contents[2:], _not_coded(contents[0])]
        if group[0].is_keyframe:
            contents[0] = contents[0].replace(b"\0\0\1\xb6", b"\0\0\1\xb2DivX503b1393p\0\0\1\xb6", 1)
        for content in contents:
            packet = replaced(group[0], content)
            packet.is_keyframe = group[0].is_keyframe and content is contents[0]
            packet.pts = packet.dts = len(out)
            packet.duration = 1
            out.append(packet)
        place += len(group)
    return out


def _not_coded(vop: bytes) -> bytes:
    """A P-VOP that is not coded, at the time of the given one (30 ticks per second: 5 bits)."""
    bits = "01" + "0" + "1" + "00000" + "1" + "0"  # P, no whole second, marker, ticks, marker, not coded
    bits += "0" + "1" * (-len(bits) % 8 - 1)
    return b"\0\0\1\xb6" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def hevc_in_avi(path: Path) -> Path:
    """HEVC in AVI: cameras write it, FFmpeg's muxer refuses it. It is written as another codec with a changed tag."""
    codec = CODECS["hevc_open"]

    def edit(packets: Packets) -> Packets:
        encoder = av.CodecContext.create(codec.encoder, "w")
        encoder.width, encoder.height, encoder.pix_fmt = codec.width, codec.height, codec.pix_fmt
        encoder.time_base, encoder.framerate, encoder.gop_size = 1 / codec.rate, codec.rate, codec.gop
        encoder.options = codec.options
        encoded: Packets = []
        for number in range(codec.frames):
            encoded += encoder.encode(encodable(number, number, codec))
        encoded += encoder.encode()
        for packet in encoded:
            packet.stream = packets[0].stream
        return encoded

    write(path, CODECS["mpeg4"], edit=edit)
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"HEVC"))
    return path


_add("hevc_open.avi", hevc_in_avi, ALL)

for _b_frames in "1", "2":
    _add(
        f"packed_{_b_frames}-mpeg4_b.avi",
        _clip("mpeg4_b", options={"bf": _b_frames}, edit=packed),
        ALL,
    )

# ---------------------------------------------------------------------------------------------- turned, mirrored

TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "upright": lambda frame: frame,
    "hflip": lambda frame: frame[:, ::-1],
    "vflip": lambda frame: frame[::-1],
    "half": lambda frame: frame[::-1, ::-1],
    "clockwise": lambda frame: np.rot90(frame, -1),
    "counter_clockwise": lambda frame: np.rot90(frame),
    "transpose": lambda frame: frame.swapaxes(0, 1),
    "transverse": lambda frame: frame.swapaxes(0, 1)[::-1, ::-1],
}
"""The change of a coded picture that shows it correctly."""
MATRICES = {
    "upright": (1, 0, 0, 1),
    "hflip": (-1, 0, 0, 1),
    "vflip": (1, 0, 0, -1),
    "half": (-1, 0, 0, -1),
    "clockwise": (0, 1, -1, 0),
    "counter_clockwise": (0, -1, 1, 0),
    "transpose": (0, 1, 1, 0),
    "transverse": (0, -1, -1, 0),
}
"""(a, b, c, d): the coded point (x, y) is shown at (a x + c y, b x + d y). The picture is moved back into the frame."""


def turned(make: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    """Put a display matrix into the track's header."""

    def change(moov: Box) -> None:
        header = moov.find(b"tkhd")
        a, b, c, d = (value * 0x10000 for value in MATRICES[name])
        width, height = struct.unpack_from(">II", header.content, 76)
        x = -min(0, a * width >> 16, c * height >> 16)
        y = -min(0, b * width >> 16, d * height >> 16)
        matrix = struct.pack(">9i", a, b, 0, c, d, 0, x, y, 0x40000000)
        header.content = header.content[:40] + matrix + header.content[76:]

    return change_moov(make, change)


for _turn in TURNS:
    _a, _b, _c, _d = (value * 0x10000 for value in MATRICES[_turn])
    _matrix = [_a, _b, 0, _c, _d, 0, 0, 0, 0x40000000]
    _add(f"{_turn}-h264_open.mp4", turned(_clip("h264_open"), _turn), ALL, turn=_turn)
    _add(f"{_turn}-mpeg4.mov", turned(_clip("mpeg4"), _turn), ALL, turn=_turn)
    for _name in "h264_open.mkv", "vp9.webm":  # their muxer writes the matrix as a pose
        _add(f"{_turn}-{_name}", _clip(_name.split(".")[0], matrix=_matrix), ALL, turn=_turn)
_cut = turned(_clip("h264_open", edit=cut_from_key(6)), "transpose")
_add("transpose_cut-h264_open.mp4", _cut, None, turn="transpose")

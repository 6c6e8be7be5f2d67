"""Numbered clips: small videos whose frames carry their numbers, in every codec, container and structure.

Frame i shows the ten bits of i as ten blocks of equal width in the top third, lowest bit left: bright is 1, dark is 0.
The middle third shows the complement, so damage is noticed. In the bottom third, a square moves over constant noise.
PyAV's own encoders write all files. Forms that no muxer writes, but that exist, are made by changing bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

BITS = 10
BRIGHT, DARK = 230, 20
MIN_CONTRAST = 60
RATE = 30
NUM_FRAMES = 32
GOP = 10


# ---------------------------------------------------------------------------------------------------------- pictures


def picture(number: int, height: int = 96, width: int = 160) -> np.ndarray:
    """The RGB frame that shows a number."""
    image = _ground(height, width).copy()
    third = height // 3
    edges = [round(bit * width / BITS) for bit in range(BITS + 1)]
    for bit in range(BITS):
        is_set = number >> bit & 1
        image[:third, edges[bit] : edges[bit + 1]] = BRIGHT if is_set else DARK
        image[third : 2 * third, edges[bit] : edges[bit + 1]] = DARK if is_set else BRIGHT
    side = third // 2
    left, top = number * 3 % (width - side), 2 * third + number % max(1, height - 2 * third - side)
    image[top : top + side, left : left + side] = (200, 60, 60)
    return image


@lru_cache(maxsize=8)
def _ground(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(7).integers(80, 176, (height, width, 1), dtype=np.uint8)
    return np.repeat(noise, 3, axis=2)


def numbers(frames_THWC: np.ndarray | Sequence[np.ndarray]) -> list[int | None]:
    """The number that each frame shows. None: a block and its complement do not differ clearly."""
    return [_number(frame) for frame in frames_THWC]


def _number(frame_HWC: np.ndarray) -> int | None:
    rows, columns = _samples(*frame_HWC.shape[:2])
    blocks = frame_HWC[rows, columns].reshape(2, 4, BITS, 4, 3).mean(axis=(1, 3, 4))
    if np.abs(blocks[0] - blocks[1]).min() < MIN_CONTRAST:
        return None
    return sum(1 << bit for bit in range(BITS) if blocks[0, bit] > blocks[1, bit])


@lru_cache(maxsize=32)
def _samples(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Four rows in each of the two thirds, and four columns in each block, away from borders that compression blurs."""
    inside = np.linspace(0.25, 0.75, 4)
    rows = np.concatenate([(third + inside) * (height // 3) for third in range(2)])
    columns = np.concatenate([(bit + inside) * width / BITS for bit in range(BITS)])
    return rows.astype(int)[:, None], columns.astype(int)


# ------------------------------------------------------------------------------------------------ codecs, containers


@dataclass(frozen=True)
class Codec:
    """An encoder with its settings. `gop` None: the encoder's default, which is longer than most clips here."""

    encoder: str
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    height: int = 96
    width: int = 160
    rate: Fraction = Fraction(RATE)
    gop: int | None = GOP
    bit_rate: int = 0
    frames: int = NUM_FRAMES
    hidden_every: int = 0
    """A hidden frame comes before every n-th frame (VP8 only)."""


def _x264(params: str = "", **options: str) -> dict[str, str]:
    return {"preset": "fast", "threads": "1"} | ({"x264-params": params} if params else {}) | options


def _x265(params: str = "") -> dict[str, str]:
    return {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1:" + params}


_CIF = {"height": 144, "width": 176}
CODECS: dict[str, Codec] = {
    "mpeg1": Codec("mpeg1video", bit_rate=600_000),
    "mpeg1_b": Codec("mpeg1video", {"bf": "2"}, bit_rate=600_000),
    "mpeg2": Codec("mpeg2video", bit_rate=600_000),
    "mpeg2_b": Codec("mpeg2video", {"bf": "2"}, bit_rate=600_000),
    "mpeg2_closed": Codec("mpeg2video", {"bf": "2", "flags": "+cgop", "sc_threshold": "1000000000"}, bit_rate=600_000),
    "mpeg2_422": Codec("mpeg2video", {"bf": "2"}, "yuv422p", bit_rate=900_000),
    "mpeg2_interlaced": Codec("mpeg2video", {"bf": "2", "flags": "+ildct+ilme"}, bit_rate=900_000),
    "mpeg4": Codec("mpeg4", bit_rate=600_000),
    "mpeg4_b": Codec("mpeg4", {"bf": "2"}, bit_rate=600_000),
    "h264_default": Codec("libx264", {"threads": "1"}, gop=None, frames=300),
    "h264_closed": Codec("libx264", _x264(bf="3")),
    "h264_open": Codec("libx264", _x264("open-gop=1:scenecut=0", bf="3")),
    "h264_refresh": Codec("libx264", _x264(bf="0", **{"intra-refresh": "1"})),
    "h264_no_b": Codec("libx264", _x264(bf="0")),
    "h264_intra": Codec("libx264", _x264(), gop=1),
    "h264_422_10": Codec("libx264", _x264(bf="3"), "yuv422p10le"),
    "h264_interlaced": Codec("libx264", _x264("interlaced=1", bf="3")),
    "hevc_default": Codec("libx265", _x265(), gop=None, frames=300),
    "hevc_open": Codec("libx265", _x265("bframes=4:open-gop=1:scenecut=0")),
    "hevc_closed": Codec("libx265", _x265("bframes=4:open-gop=0")),
    "hevc_10": Codec("libx265", _x265("bframes=4:open-gop=1:scenecut=0"), "yuv420p10le"),
    "vp8": Codec("libvpx", {"deadline": "realtime", "cpu-used": "4"}, bit_rate=600_000),
    # The encoder makes hidden frames only in its second pass, which PyAV does not offer. So they are made by hand.
    "vp8_altref": Codec("libvpx", {"deadline": "realtime", "lag-in-frames": "0"}, bit_rate=600_000, hidden_every=5),
    "vp9": Codec("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, bit_rate=600_000),
    "vp9_altref": Codec(
        "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"}, gop=20, bit_rate=600_000, frames=42
    ),
    "av1": Codec("libsvtav1", {"preset": "12", "crf": "20"}),
    "wmv1": Codec("wmv1", bit_rate=600_000),
    "wmv2": Codec("wmv2", bit_rate=600_000),
    "msmpeg4v2": Codec("msmpeg4v2", bit_rate=600_000),
    "msmpeg4v3": Codec("msmpeg4", bit_rate=600_000),
    "flv1": Codec("flv", bit_rate=600_000),
    "h261": Codec("h261", bit_rate=600_000, rate=Fraction(30000, 1001), **_CIF),
    "h263": Codec("h263", bit_rate=600_000, rate=Fraction(30000, 1001), **_CIF),
    "h263p": Codec("h263p", bit_rate=600_000),
    "mjpeg": Codec("mjpeg", {"q": "4"}, "yuvj420p"),
    "prores": Codec("prores_ks", pix_fmt="yuv422p10le"),
    "dnxhr": Codec("dnxhd", {"profile": "dnxhr_lb"}, "yuv422p", height=128, width=256),
    "ffv1": Codec("ffv1"),
    "ffv1_inter": Codec("ffv1", {"level": "1", "context": "1"}),
    "huffyuv": Codec("huffyuv", pix_fmt="yuv422p"),
    "ffvhuff": Codec("ffvhuff"),
    "utvideo": Codec("utvideo"),
    "dv_pal": Codec("dvvideo", height=576, width=720, rate=Fraction(25), frames=14),
    "dv_ntsc": Codec("dvvideo", pix_fmt="yuv411p", height=480, width=720, rate=Fraction(30000, 1001), frames=14),
    "gif": Codec("gif", pix_fmt="rgb8", rate=Fraction(25)),
    "jpeg2000": Codec("jpeg2000", pix_fmt="yuv420p", frames=14),
    "cinepak": Codec("cinepak", pix_fmt="rgb24", frames=14),
    "svq1": Codec("svq1", pix_fmt="yuv410p"),
    "png": Codec("png", pix_fmt="rgb24", frames=14),
    "qtrle": Codec("qtrle", pix_fmt="rgb24"),
    "raw": Codec("rawvideo", frames=14),
}
CONTAINERS: dict[str, str] = {
    "mp4": "mp4",
    "mov": "mov",
    "mkv": "matroska",
    "avi": "avi",
    "ts": "mpegts",
    "mpg": "mpeg",
    "vob": "vob",
    "webm": "webm",
    "flv": "flv",
    "3gp": "3gp",
    "mxf": "mxf",
    "gif": "gif",
    "wmv": "asf",
    "ogv": "ogg",
}


def write(
    path: Path,
    codec: Codec,
    *,
    shown: Iterable[int] | None = None,
    ticks: Callable[[int], int] | None = None,
    edit: Callable[[list[Any]], list[Any]] | None = None,
    sound_from: float | None = None,
    second: Codec | None = None,
    cover: bool = False,
    matrix: Sequence[int] | None = None,
    muxer: str | None = None,
    mux_options: dict[str, str] | None = None,
) -> Path:
    """Write a video of the numbers `shown` (None: all of the codec's clip), with frame n at `ticks(n)` frame times.

    `edit` changes the list of encoded packets before they are muxed. With `sound_from`, a sound track begins at that
    second, as the first stream. A `second` video stream shows numbers from 500 on. A cover is an extra picture.
    `matrix` is the display matrix that the muxer writes.

    Raises:
        av.FFmpegError, ValueError: the encoder or the muxer refuses it.
    """
    muxer = muxer or CONTAINERS[path.suffix[1:]]
    with av.open(str(path), "w", format=muxer, options=mux_options or {}) as container:
        packets = []
        if cover:
            packets += _cover(container)
        if sound_from is not None and muxer != "mxf":
            packets += _sound(container, SOUND[path.suffix[1:]], sound_from)
        if second is not None:
            packets += _video(container, second, range(500, 500 + second.frames), None)
        numbers_shown = list(range(codec.frames) if shown is None else shown)
        video = _video(container, codec, numbers_shown, ticks)
        packets += edit(video) if edit else video
        if sound_from is not None and muxer == "mxf":  # MXF needs the video first
            packets += _sound(container, SOUND[path.suffix[1:]], sound_from)
        if matrix is not None:
            container.streams.video[-1].set_display_matrix(matrix)
        container.start_encoding()
        packets.sort(key=lambda packet: packet.dts * packet.time_base)  # stable, so the order in each stream stays
        container.mux(packets)
    return path


SOUND = {"mp4": "aac", "mov": "aac", "3gp": "aac", "flv": "aac", "mkv": "ac3", "webm": "libopus", "avi": "mp2"} | {
    "ts": "mp2",
    "mpg": "mp2",
    "vob": "ac3",
    "wmv": "wmav2",
    "mxf": "pcm_s16le",
    "ogv": "libopus",
}


def _video(container: Any, codec: Codec, shown: Sequence[int], ticks: Callable[[int], int] | None) -> list[Any]:
    stream = container.add_stream(codec.encoder, rate=codec.rate, options=codec.options)
    stream.width, stream.height, stream.pix_fmt = codec.width, codec.height, codec.pix_fmt
    if codec.gop is not None:
        stream.codec_context.gop_size = codec.gop
    if codec.bit_rate:
        stream.codec_context.bit_rate = codec.bit_rate
    stream.codec_context.time_base = 1 / codec.rate
    stream.codec_context.thread_count = 1  # several threads of VP8 wait for each other for minutes on busy cores
    packets = []
    for place, number in enumerate(shown):
        at = ticks(place) if ticks else place
        if codec.hidden_every and number % codec.hidden_every == 1:
            packets += [
                _hidden(packet) for packet in stream.encode(encodable(number + codec.hidden_every - 2, at, codec))
            ]
        packets += stream.encode(encodable(number, at, codec))
    packets += stream.encode()
    if codec.encoder == "libx265" and len(shown) < X265_DELAY:
        _date(packets)
    return packets


X265_DELAY = 8
"""With fewer frames than it holds back, libx265 leaves the decoding times unset: a muxer takes what is in memory."""


def _date(packets: list[Any]) -> None:
    """Set the decoding times: those of presentation in increasing order, so early that no frame is shown before."""
    times = sorted(packet.pts for packet in packets)
    late = max(time - packet.pts for time, packet in zip(times, packets, strict=True))
    for time, packet in zip(times, packets, strict=True):
        packet.dts = time - late


_REFORMATTER = VideoReformatter()
"""One for all frames, because each frame's own would set up the conversion again, which is slow."""


def encodable(number: int, at: int, codec: Codec) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture(number, codec.height, codec.width), format="rgb24")
    frame = _REFORMATTER.reformat(frame, format=codec.pix_fmt)
    frame.pts, frame.time_base = at, 1 / codec.rate
    return frame


def _hidden(packet: Any) -> Any:
    """A VP8 frame that is decoded but not shown, like the reference frames that encoders make."""
    content = bytearray(bytes(packet))
    content[0] &= ~0x10  # show_frame
    return replaced(packet, bytes(content))


def replaced(packet: Any, content: bytes) -> Any:
    """The packet with other content."""
    other = av.Packet(content)
    other.pts, other.dts, other.duration, other.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    other.stream, other.is_keyframe = packet.stream, packet.is_keyframe
    return other


def _sound(container: Any, encoder: str, from_s: float, seconds: float = 1.5) -> list[Any]:
    rate = 48_000
    stream = container.add_stream(encoder, rate=rate)
    stream.codec_context.layout = "mono" if encoder in ("pcm_s16le", "libopus", "mp2") else "stereo"
    if encoder == "libopus":
        stream.codec_context.format = "s16"
    context = stream.codec_context
    context.bit_rate = 64_000
    context.open(strict=False)
    size = context.frame_size or 1920
    packets = []
    for start in range(0, int(rate * seconds), size):
        frame = av.AudioFrame(context.format.name, context.layout.name, size)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = rate, start + round(from_s * rate), Fraction(1, rate)
        packets += stream.encode(frame)
    return packets + stream.encode()


def _cover(container: Any) -> list[Any]:
    """A still picture, larger than the video, such as players show for a file."""
    stream = container.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = 640, 480, "yuvj420p"
    stream.disposition = av.stream.Disposition.attached_pic
    frame = av.VideoFrame.from_ndarray(picture(1023, 480, 640), format="rgb24").reformat(format="yuvj420p")
    frame.pts = 0
    return stream.encode(frame) + stream.encode()


# ------------------------------------------------------------------------------------------------------------- truth


@dataclass(frozen=True)
class Truth:
    """What a plain decode of all packets shows, and when, in seconds from the first shown frame.

    The times are the frames' own stamps if every frame has one and they increase. Otherwise they are `counted` from the
    rate, because no reader can know more: AVI stores no presentation times, and a program stream has stamps only for
    some pictures.
    """

    numbers: list[int]
    times_s: np.ndarray
    counted: bool
    thumbnails: np.ndarray
    """Every fourth pixel of the pictures as coded, before any rotation: uint8 [T, h, w, 3]."""
    size: tuple[int, int]
    """Height and width as coded, pixels."""


def truth(path: Path, rate: Fraction = Fraction(RATE)) -> Truth:
    """Decode a whole file with PyAV, without w3ray's readers."""
    shown: list[int | None] = []
    stamps: list[int | None] = []
    thumbnails, sizes = [], set()
    reformatter = VideoReformatter()  # one for the clip, as in `_REFORMATTER`, but nothing of another clip's
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert stream is not None, f"{path.name}: no video stream"
        for frame in _decoded(container, stream):
            image = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            shown += numbers([image])
            thumbnails.append(thumbnail(image))
            sizes.add(image.shape[:2])
            stamps.append(frame.pts)
        base = stream.time_base
    assert None not in shown, f"{path.name}: a whole decode shows frames without a number: {shown}"
    assert len(sizes) == 1, f"{path.name}: a whole decode shows frames of sizes {sizes}"
    known = [stamp for stamp in stamps if stamp is not None]
    counted = len(known) < len(stamps) or any(two <= one for one, two in pairwise(known))
    times_s = np.arange(len(shown)) / float(rate) if counted else (np.array(known) - known[0]) * float(base)
    return Truth(shown, times_s, counted, np.stack(thumbnails), sizes.pop())


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """All frames. The decoder may refuse packets before the first key frame; a later refused packet is damage."""
    begun = False
    for packet in container.demux(stream):
        if packet.size == 0 and packet.dts is not None:
            continue  # an empty chunk of an AVI: the decoder would see it as the end
        try:
            for frame in packet.decode():
                begun = True
                yield frame
        except av.InvalidDataError:
            if begun:
                raise


def thumbnail(frame_HWC: np.ndarray) -> np.ndarray:
    return frame_HWC[2::4, 2::4].copy()

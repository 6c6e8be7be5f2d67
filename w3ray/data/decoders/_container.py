"""Is the content of a file a video container, and not a list that sends FFmpeg to other files or servers?

FFmpeg decides by content what a file is, whatever its name. If it takes a file for a playlist or a session description
(HLS, DASH, ffconcat, SDP, IMF, VobSub), it opens whatever is named there, and decord cannot forbid that. All these
lists are text; no video container is.
"""

from io import BytesIO

from w3ray.data.decoders._common import NO_VIDEO_STREAM, DecodeError

HEAD_BYTES = 1 << 20  # FFmpeg looks at no more than this when it decides what a file is

_STARTS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"OggS",
    b"FLV\x01",
    b"\x00\x00\x01",  # MPEG program streams, and elementary streams from here on
    b"\x00\x00\x00\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
    b"GIF8",
    b"\x06\x0e\x2b\x34",  # MXF
    b"\xff\xd8\xff",  # motion JPEG
)
_SOUND = (b"ID3", b"fLaC", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"\xff\xf9")  # MP3, FLAC, AAC
_MOV_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"styp"})
# FFmpeg would still find these lists in a file that begins like a container, before its first zero byte.
_LISTS = (b"<mpd", b"<compositionplaylist", b"c=in ip", b"#extm3u", b"ffconcat", b"# vobsub")
NOT_A_CONTAINER = "not a video, or damaged at its start (it does not begin like a video container)"


def check_container(source: str | BytesIO, uri: str) -> None:
    """Refuse a file that does not begin like a video container.

    Raises:
        DecodeError: it does not; the reason says if it begins like a sound file.
    """
    if isinstance(source, BytesIO):
        head = bytes(source.getbuffer()[:HEAD_BYTES])
    else:
        with open(source, "rb") as stream:
            head = stream.read(256)
            if b"\0" not in head or not _begins_well(head):
                head += stream.read(HEAD_BYTES - 256)
    if head.startswith(_SOUND) or (head[:4] == b"RIFF" and head[8:12] == b"WAVE"):
        raise DecodeError(uri, NO_VIDEO_STREAM)
    text = head.partition(b"\0")[0].lower()
    if not (_begins_well(head) or _is_recording(head)) or any(mark in text for mark in _LISTS):
        raise DecodeError(uri, NOT_A_CONTAINER)


def _begins_well(head: bytes) -> bool:
    is_avi = head[:4] == b"RIFF" and head[8:11] == b"AVI"
    # A transport stream has a mark at each packet of 188 bytes, or 192 with a time stamp before each packet.
    is_ts = head[:1] == b"\x47" and head[188:189] == b"\x47"
    is_m2ts = head[4:5] == b"\x47" and head[196:197] == b"\x47"
    return head.startswith(_STARTS) or head[4:8] in _MOV_BOXES or is_avi or is_ts or is_m2ts


def _is_recording(head: bytes) -> bool:
    """Whether it is a recorded broadcast that begins inside a packet, with whole packets or packs after that."""
    has_packets = any(
        head[start : start + 8 * length : length] == b"\x47" * 8 for length in (188, 192) for start in range(length)
    )
    return has_packets or 0 <= head.find(b"\0\0\1\xba") < 1 << 16

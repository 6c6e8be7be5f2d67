"""Decoding with PyAV, the default: the same frames as a decode of the whole file, without decoding all of it.

The packets of a video are read into memory once. An index (`_index`) says which packet is which frame. The decoder gets
the packets from a key frame up to the last wanted one, without those that no other picture needs. There is no seek in
the file that could go wrong. Only a stream too long for memory needs seeks, and each one is checked packet by packet.
Each packet carries its number as its time stamp, so each frame says which packet it came from, and a missing frame is
noticed.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from io import BytesIO
from itertools import chain
from typing import Any

import numpy as np

from w3ray.data.decoders._common import (
    NO_VIDEO_STREAM,
    ClosingVideo,
    DecodeError,
    VideoInfo,
    check_indices,
    check_not_cut,
    check_promised,
    one_line,
    open_source,
    silence_ffmpeg,
    span_of,
)
from w3ray.data.decoders._container import check_container
from w3ray.data.decoders._index import (
    FrameIndex,
    PacketTable,
    doubt_of,
    index_by_decoding,
    index_by_headers,
    lost_pictures,
)
from w3ray.data.decoders._known_indices import known_index, remember_index
from w3ray.data.decoders._orientation import Orientation, orientation_in
from w3ray.data.decoders._pictures import reader_of
from w3ray.data.decoders.in_order import Pixels
from w3ray.data.video_cache import VideoCache

_HELD_BYTES = 256 << 20
"""Longer streams are not kept in memory: the packets that are needed are read from the file again."""
_MOST_EARLY = 64
"""If so many frames came before their turn, the frame whose turn it is will not come. Codecs reorder 16 at most."""
_PROGRESSIVE = (0, 1)  # FFmpeg's AVFieldOrder: unknown, progressive


class PyavVideo(ClosingVideo):
    """A video opened by PyAV. Of several video streams, the one that FFmpeg calls best is read, as in decord.

    Raises:
        DecodeError: the file cannot be opened, holds no video stream or no picture, or was cut off.
    """

    def __init__(self, uri: str, cache: VideoCache | None = None) -> None:
        import av

        self._av = av
        silence_ffmpeg()
        self.uri = uri
        self._source = open_source(uri, cache)
        check_container(self._source, uri)
        check_not_cut(self._source, uri)
        self._container: Any = None
        self._reformatter: Any = None
        self._height: int | None = None
        self._width: int | None = None
        try:
            self._open()
            self._read_packets()
            self._index = self._find_index()
        except DecodeError:
            self.close()
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            self.close()
            raise DecodeError(uri, failure_reason(error, self._source)) from error

    def _open(self) -> None:
        if isinstance(self._source, BytesIO):
            self._source.seek(0)
        self.close()
        self._container = self._av.open(self._source)
        stream = self._container.streams.best("video")
        if stream is None:
            raise DecodeError(self.uri, NO_VIDEO_STREAM)
        self._stream: Any = stream
        self._decoder: Any = stream.codec_context
        # The pool of decoders already uses every core. dav1d (AV1) obeys only the thread count.
        self._decoder.thread_type, self._decoder.thread_count = "NONE", 1
        self._is_fresh = True

    def _read_packets(self) -> None:
        """Walk over the packets: their number in the headers cannot be trusted."""
        codec = self._decoder.codec
        self._codec = str(codec.canonical_name)
        self._extradata = bytes(self._decoder.extradata or b"")
        read = reader_of(self._codec, codec.intra_only, self._extradata)
        keeps_content = self._codec == "mpeg4"
        self._table = table = PacketTable()
        held: list[Any] | None = []
        num_bytes = 0
        for packet in self._container.demux(self._stream):
            size = packet.size
            if size == 0:  # an empty chunk of an AVI shows nothing new; the last packet is empty, too
                continue
            content = bytes(packet)
            table.pts.append(packet.pts)
            table.dts.append(packet.dts)
            table.size.append(size)
            table.position.append(packet.pos)
            table.is_key.append(packet.is_keyframe)
            table.hidden.append(packet.is_discard)
            if read is not None:
                table.pictures.append(read(content, packet.is_keyframe))
            elif keeps_content:
                table.content.append(content)
            num_bytes += size
            if held is not None:
                packet.pts = len(held)
                held.append(packet)
                if num_bytes > _HELD_BYTES and not isinstance(self._source, BytesIO):
                    held = None
        if not len(table):
            raise DecodeError(self.uri, "the video stream holds no frame")
        self._held = held

    def _find_index(self) -> FrameIndex:
        rate, base = self._stream.average_rate, self._stream.time_base
        self._fps = float(rate) if rate else float("nan")
        check_promised(self._container, self.uri, found_s=self._table.span_s(float(base or 1)))
        index = known_index(self.uri, self._source)
        if index is None or index.num_packets != len(self._table):
            index = self._index_by_headers() or self._index_by_decoding()
            remember_index(self.uri, self._source, index)
        if np.isnan(self._fps) and base and index.num_frames > 1:
            self._fps = (index.num_frames - 1) / float(index.starts_s_N[-1])
        return index

    def _timing(self) -> dict[str, Any]:
        return {
            "container": self._container.format.name,
            "is_interlaced": self._codec in ("h264", "hevc") and int(self._decoder.field_order) not in _PROGRESSIVE,
            "tick_s": float(self._stream.time_base or 1),
            "fps": self._fps,
        }

    def _index_by_headers(self) -> FrameIndex | None:
        return index_by_headers(self._table, codec=self._codec, extradata=self._extradata, **self._timing())

    def _index_by_decoding(self) -> FrameIndex:
        shown = [frame.pts for frame in self._decode_whole()]
        if not shown:
            raise DecodeError(self.uri, "no frame could be decoded")
        timing = self._timing()
        is_interlaced = timing.pop("is_interlaced")
        lost = lost_pictures(self._table, shown, self._codec, timing.pop("container"))
        if lost and not is_interlaced:  # in interlaced video two packets, each with one field, may be one frame
            raise DecodeError(self.uri, f"damaged: {lost} of its {len(self._table)} pictures do not decode")
        return index_by_decoding(self._table, shown, has_fields=lost > 0, **timing)

    @property
    def info(self) -> VideoInfo:
        return VideoInfo(
            num_frames=self._index.num_frames,
            fps=self._fps,
            duration_s=float(self._index.starts_s_N[-1]) + 1 / self._fps,  # NaN if the file has no rate
            height=self._height,
            width=self._width,
        )

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = check_indices(indices, self._index.num_frames)
        ascending, position = np.unique(wanted, return_inverse=True)
        images = [pixels() for pixels in self.in_order(ascending)]
        sizes = {image.shape for image in images}
        if len(sizes) != 1:
            raise DecodeError(self.uri, f"the frame size changes within the video: {sorted(sizes)}")
        return np.stack([images[place] for place in position])

    def in_order(self, ascending: Sequence[int] | np.ndarray) -> Iterator[Pixels]:
        """As `w3ray.data.decoders.in_order.decoded_in_order`. Only frames that the decoder needs are in memory."""
        try:
            for frame in self._decode(check_indices(ascending, self._index.num_frames)):
                yield partial(self._pixels, frame)
        except self._av.FFmpegError as error:
            raise DecodeError(self.uri, failure_reason(error, self._source)) from error

    def _pixels(self, frame: Any) -> np.ndarray:
        try:
            image = self._to_rgb(frame)
        except self._av.FFmpegError as error:
            raise DecodeError(self.uri, failure_reason(error, self._source)) from error
        self._height, self._width = image.shape[:2]
        return image

    def _decode(self, ascending: np.ndarray) -> Iterator[Any]:
        """The frames at these indices, in their order."""
        index, done = self._index, 0
        if index.is_seekable:
            pictures = index.order_N[ascending]
            early: dict[int, Any] = {}
            for frame in chain.from_iterable(self._decode_frames(*run) for run in index.runs(ascending.tolist())):
                early[frame.pts] = frame
                while done < len(pictures) and int(pictures[done]) in early:
                    yield early.pop(int(pictures[done]))
                    done += 1
                if len(early) > _MOST_EARLY:
                    break
            if done == len(ascending):
                return
            self._correct_index()
            if not np.array_equal(self._index.order_N[ascending[:done]], pictures[:done]):
                raise DecodeError(self.uri, "its headers promise another order of frames than it shows: open it again")
        yield from self._decode_by_count(ascending[done:])

    def _correct_index(self) -> None:
        """Replace an index that promised a frame that did not come: take the index of a whole decode from now on."""
        promised = self._index.num_frames
        self._index = self._index_by_decoding()
        remember_index(self.uri, self._source, self._index)
        if self._index.num_frames != promised:  # the caller chose its frames by a wrong count
            shown = self._index.num_frames
            raise DecodeError(self.uri, f"its headers promise {promised} frames, a decode shows {shown}: open it again")

    def _decode_frames(self, first: int, last: int, wanted: set[int]) -> Iterator[Any]:
        """Decode pictures `first` to `last` without those that nothing needs. Yields the frames of `wanted` ones."""
        if not self._is_fresh:
            self._decoder.flush_buffers()
        self._is_fresh = False
        skippable = self._index.skippable_U[first : last + 1].tolist()
        for number, packet in enumerate(self._pictures(first, last), start=first):
            if skippable[number - first] and number not in wanted:
                continue
            yield from (frame for frame in self._decoder.decode(packet) if frame.pts in wanted)
        yield from (frame for frame in self._decoder.decode(None) if frame.pts in wanted)

    def _pictures(self, first: int, last: int) -> Iterator[Any]:
        """The coded pictures `first` to `last`, each in a packet whose time stamp is its number."""
        slices_U3 = self._index.slices_U3
        if slices_U3 is not None:
            for number in range(first, last + 1):
                stored_in, start, end = slices_U3[number].tolist()
                data = self._table.content[stored_in][start:end]
                packet = self._av.Packet(len(data))  # has zeros after its end that FFmpeg may read; bytes have none
                packet.update(data)
                packet.pts = number
                yield packet
        elif self._held is not None:
            yield from self._held[first : last + 1]
        else:
            yield from self._read_again(first, last)

    def _read_again(self, first: int, last: int) -> Iterator[Any]:
        """Packets `first` to `last` from the file: from the key frame that a seek finds, or from the file's beginning.

        After a seek a packet is recognised by its position in the file, its size and its time. The seek went wrong if
        a packet is not recognised, or if the first one comes after `first`.
        """
        table, known = self._table, self._packet_numbers
        if first > 0 and table.dts[first] is not None and len(known) == len(table):
            self._container.seek(table.dts[first], stream=self._stream, backward=True, any_frame=False)
            number: int | None = None
            for packet in self._container.demux(self._stream):
                if packet.size == 0:
                    continue
                found = known.get((packet.pos, packet.size, packet.dts))
                if found is None or (number is None and found > first) or (number is not None and found != number + 1):
                    break
                number = found
                if number >= first:
                    packet.pts = number
                    yield packet
                    first = number + 1
                if number >= last:
                    return
        # A second container: the first one owns the decoder, which still holds the references of a picture.
        with self._av.open(self._source) as container:
            number = -1
            for packet in container.demux(container.streams[self._stream.index]):
                if packet.size == 0:
                    continue
                number += 1
                if number >= first:
                    packet.pts = number
                    yield packet
                if number >= last:
                    return

    @cached_property
    def _packet_numbers(self) -> dict[tuple[int | None, int, int | None], int]:
        keys = zip(self._table.position, self._table.size, self._table.dts, strict=True)
        return {key: number for number, key in enumerate(keys) if None not in key}

    def _decode_whole(self) -> Iterator[Any]:
        """All frames, from the first packet to the last. Packets before the first frame may be undecodable, because a
        recording may begin in the middle of a group of pictures.

        Raises:
            FFmpegError: a later packet is damaged.
        """
        self._open()
        self._is_fresh = False
        packets = iter(self._held) if self._held is not None else self._read_again(0, len(self._table) - 1)
        decoder, has_shown = self._decoder, False
        for packet in packets:
            try:
                frames = decoder.decode(packet)
            except self._av.FFmpegError:
                if has_shown:
                    raise
                continue
            has_shown = has_shown or bool(frames)
            yield from frames
        yield from decoder.decode(None)

    def _decode_by_count(self, ascending: np.ndarray) -> Iterator[Any]:
        count = done = 0
        for frame in self._decode_whole():
            if done < len(ascending) and count == ascending[done]:
                yield frame
                done += 1
            count += 1
        if count != self._index.num_frames:
            raise DecodeError(self.uri, f"damaged: only {count} of {self._index.num_frames} frames decode")

    def _to_rgb(self, frame: Any) -> np.ndarray:
        """uint8 [H, W, 3], turned and mirrored as the file says."""
        if self._reformatter is None:
            self._reformatter = self._av.video.reformatter.VideoReformatter()  # made once: it keeps its tables
        # One thread: at the size of a frame, more threads cost more than they save.
        image: np.ndarray = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return orientation_in(frame).apply(image)

    def frame_span(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        if start_s is None and end_s is None:
            return 0, self._index.num_frames
        if np.isnan(self._index.starts_s_N[-1]):  # then all are
            raise DecodeError(self.uri, "has neither time stamps nor a frame rate, so it cannot be cut by time")
        return span_of(self._index.starts_s_N, self.uri, start_s, end_s)

    def times_s(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        times_s: np.ndarray = self._index.starts_s_N[np.asarray(indices, dtype=np.int64)]
        return times_s

    @property
    def comment(self) -> str:
        """The remark that the file's metadata holds; "": none."""
        return str(self._container.metadata.get("comment", ""))

    def doubt(self) -> str | None:
        """Why a reader that trusts the container's time stamps may give other frames; None: it cannot."""
        doubt = doubt_of(self._table, self._index, self._container.format.name)
        # FFmpeg corrects the key frame marks of packets by their content, but a seek uses the container's own list.
        listed = sum(entry.is_keyframe for entry in self._stream.index_entries)
        if doubt is None and listed > sum(self._table.is_key):
            doubt = "it marks frames as key frames that are not"
        return doubt

    def first_frame(self) -> tuple[np.ndarray, Orientation, int]:
        """The first frame as shown, the orientation that was applied to it, and the quarter turns (counter-clockwise)
        that a reader applies if it only rotates."""
        first, last, wanted = self._index.runs([0])[0]
        for frame in self._decode_frames(first, last, wanted):
            return self._to_rgb(frame), orientation_in(frame), round(frame.rotation) // 90 % 4
        raise DecodeError(self.uri, "no frame could be decoded")

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None


def failure_reason(error: Exception, source: object) -> str:
    """Why FFmpeg could not read a video, as `DecodeError.reason`; `source` is what it was opened from."""
    import av

    text = one_line(error, source).split("; last error log:")[0]
    if "avcodec_send_packet" in text:
        return "a frame is damaged: FFmpeg refuses its packet"
    if isinstance(error, av.EOFError):
        return "the file ends before its first frame"
    return "pyav cannot decode it: " + re.sub(r"^\[Errno \d+\] ", "", text)

"""How are the clips of a manifest stored small, so that training decodes them at a lower price?

    OUT/pack.json                  the settings and the manifest they were used on; a later call with others is refused
    OUT/clips/00000/CLIP.mp4       a packed clip; 1000 in each folder
    OUT/manifest.parquet           written last: the packed clips, with the ids, labels, splits and groups of before
    OUT/failures.jsonl             the clips that cannot be read; they are not in the manifest. Absent: all were read

A packed clip has exactly the frames of its clip, one to one, in their order and at their times, counted from its first
frame. So a sampler chooses the same frames as before. An odd number of rows or columns loses the last one, because
H.264 needs even numbers. Then large frames are made smaller. A picture that is stored turned is packed upright. There
is no sound. A video of one frame would be refused, so the one frame of a very short part is stored twice, and the clip
ends before the second.

The files are H.264 in MP4 with a key frame every few frames and no B-frames. x264 leaves out what is slow to decode
(its `fastdecode`: no deblocking, no arithmetic coding). A file is named only when it is whole, so an interrupted call
is resumed.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w3ray._redact import redact
from w3ray._version import __version__
from w3ray.data.decoders import DEFAULT_DECODER, DecodeError, open_video, require_decoder
from w3ray.data.decoders.in_order import frames_in_order
from w3ray.data.decoders.pyav import PyavVideo
from w3ray.data.every_clip import ENTRY_FIELDS, claim, distinct_spans, for_every_clip
from w3ray.data.manifest import FOLDER_FPS, SCHEMA, Manifest, build_manifest, write_manifest
from w3ray.data.modality import holds_flow
from w3ray.data.roots import check_roots
from w3ray.errors import InputError, RunError
from w3ray.plugins import NO_PLUGINS, Shipment, shipment, sources_of
from w3ray.storage import StoragePath, replacing, storage_path, write_text
from w3ray.storage.paths import file_size
from w3ray.storage.writing import require_writable, write_json

SETTINGS_NAME, MANIFEST_NAME, FAILURES_NAME = "pack.json", "manifest.parquet", "failures.jsonl"
_VERSION = 1
_CLIPS_A_TASK = 4
_CLIPS_A_FOLDER = 1000
_TICKS_A_SECOND = 90_000
_MIN_SIDE = 16
_PRESET = "fast"
_STILL = "one frame, stored twice"
"""The comment in the file of a clip with a single frame, so that a later call knows it from a clip with two."""
_STILL_TICKS = _TICKS_A_SECOND // FOLDER_FPS
STILL_END_S = 0.5 / FOLDER_FPS

PACK_SCHEMA = pa.schema(
    [*ENTRY_FIELDS, pa.field("frames", pa.int64()), pa.field("bytes", pa.int64()), pa.field("kept", pa.bool_())]
)
"""The result of each span. `frames` and `bytes` are those of its packed file. `kept`: an earlier call had made it."""


Encode = Callable[[np.ndarray, int], None]
"""Takes a frame, uint8 [H, W, 3], and its time stamp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSettings:
    """What decides the bytes of a packed clip.

    Raises:
        InputError: a value cannot be used.
    """

    short_side: int = 256
    """Frames with a longer short side are made smaller, pixels."""
    crf: int = 18
    """Constant rate factor of x264: a larger number means smaller files and a worse picture."""
    gop: int = 8
    """Frames from one key frame to the next. At most so many are decoded for one that is wanted."""
    decoder: str = DEFAULT_DECODER
    """What reads the clips: a name in `w3ray.data.decoders.DECODERS`."""

    def __post_init__(self) -> None:
        if self.short_side < _MIN_SIDE or self.short_side % 2:
            raise InputError(f"short side {self.short_side}: must be an even number of at least {_MIN_SIDE} pixels")
        if not 1 <= self.crf <= 51:
            raise InputError(f"crf {self.crf}: must be in 1..51; 18 looks like the original")
        if not 1 <= self.gop <= 250:
            raise InputError(f"gop {self.gop}: must be in 1..250 frames")

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {"version": _VERSION, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What `pack_clips` made."""

    manifest: Manifest
    failures: tuple[dict[str, str], ...]
    """`clip_id`, `uri` and `reason` of each clip that could not be read."""
    result: pa.Table
    """A row for each different span of a video, with the columns of PACK_SCHEMA."""


def packed_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of packed frames: even, and no larger than before. The aspect is kept up to rounding."""
    short = min(height, width)
    if short <= short_side:
        return height // 2 * 2, width // 2 * 2
    sides = [short_side if side == short else round(side * short_side / short / 2) * 2 for side in (height, width)]
    return sides[0], sides[1]


def ticks_of(times_s: np.ndarray) -> np.ndarray:
    """Time stamps of frames, from 0, in 1/90000 s: int64 [N]. They increase, as MP4 needs.

    Without times (NaN: the file has neither stamps nor a rate), each frame lasts 1 / FOLDER_FPS seconds.
    """
    numbers_N = np.arange(len(times_s))
    if np.isnan(times_s).any():
        times_s = numbers_N / FOLDER_FPS
    ticks_N = np.rint((times_s - times_s[0]) * _TICKS_A_SECOND).astype(np.int64)
    increasing: np.ndarray = np.maximum.accumulate(ticks_N - numbers_N) + numbers_N
    return increasing


def pack_clip(
    uri: str,
    start_s: float | None,
    end_s: float | None,
    target: StoragePath,
    settings: PackSettings,
    roots: Sequence[str] | None = None,
) -> int:
    """Write the frames of [start_s, end_s) of a video to the MP4 file `target`. Returns their number.

    Raises:
        DecodeError: the clip cannot be read, or its frames are too small for H.264.
        OSError: `target` cannot be written.
        StorageFailing, StorageRefused.
    """
    with open_video(uri, settings.decoder, roots) as video:
        first, stop = video.frame_span(start_s, end_s)
        numbers = np.arange(first, stop)
        ticks = ticks_of(video.times_s(numbers)).tolist()
        images: Iterable[np.ndarray] = frames_in_order(video, numbers)
        comment = ""
        if len(ticks) == 1:
            images, ticks, comment = list(images) * 2, [0, _STILL_TICKS], _STILL
        with replacing(target) as part, _encoder(part, uri, ticks, settings, comment) as encode:
            for image, tick in zip(images, ticks, strict=True):
                encode(image, tick)
    return stop - first


@contextmanager
def _encoder(part: Path, uri: str, ticks: list[int], settings: PackSettings, comment: str) -> Iterator[Encode]:
    """What encodes one frame, uint8 [H, W, 3], at a tick. The file `part` is whole after the block."""
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # made once: it keeps its tables
    streams: list[Any] = []
    # A Python file, not a path: then a full disk is an OSError, and not an error of FFmpeg like a damaged frame.
    with part.open("wb") as file, av.open(file, "w", format="mp4") as container:
        if comment:
            container.metadata["comment"] = comment

        def encode(image: np.ndarray, tick: int) -> None:
            # Before scaling, too: FFmpeg's scaler reads a pixel beyond the end of an odd row, and that is noise.
            image = np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
            height, width = packed_size(image.shape[0], image.shape[1], settings.short_side)
            if not streams:
                if min(height, width) < _MIN_SIDE:
                    raise DecodeError(uri, f"frames of {width}x{height} pixels are too small to pack")
                streams.append(_stream(container, height, width, ticks, settings))
            frame = reformatter.reformat(
                av.VideoFrame.from_ndarray(image, format="rgb24"), width, height, "yuv420p",
                interpolation="BICUBIC", threads=1,
            )  # fmt: skip
            frame.pts, frame.time_base = tick, Fraction(1, _TICKS_A_SECOND)
            container.mux(streams[0].encode(frame))

        yield encode
        container.mux(streams[0].encode())


def _stream(container: Any, height: int, width: int, ticks: list[int], settings: PackSettings) -> Any:
    # One thread: the cluster packs several clips at the same time, and the bytes do not depend on the machine.
    options = {"preset": _PRESET, "tune": "fastdecode", "crf": str(settings.crf), "sc_threshold": "0", "threads": "1"}
    rate = Fraction(_TICKS_A_SECOND * (len(ticks) - 1), ticks[-1]).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.time_base = Fraction(1, _TICKS_A_SECOND)
    stream.codec_context.gop_size = settings.gop
    stream.codec_context.max_b_frames = 0
    return stream


def packed_frames(path: StoragePath) -> int | None:
    """The number of frames of a packed clip that is finished. None: it is not, or it was cut off by a crash."""
    if not path.exists():
        return None
    try:
        with PyavVideo(str(path)) as video:
            return 1 if video.comment == _STILL else video.info.num_frames
    except DecodeError:
        return None


@dataclass(frozen=True, slots=True)
class _Pack:
    """The work on some clips, as Ray Data ships it."""

    settings: PackSettings
    out: StoragePath
    roots: tuple[str, ...] | None = None
    plugins: Shipment = NO_PLUGINS

    def __call__(self, rows: pa.Table) -> pa.Table:
        self.plugins.load()
        return pa.Table.from_pylist([self._clip(row) for row in rows.to_pylist()], schema=PACK_SCHEMA)

    def _clip(self, row: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {"clip_id": row["clip_id"], "uri": row["uri"], "ok": False}
        if not (self.out / SETTINGS_NAME).exists():
            return entry | {"reason": f"a node does not see {self.out}; name a folder that all nodes share"}
        target = self.out / row["file"]
        frames = packed_frames(target)
        kept = frames is not None
        if not kept:
            try:
                frames = pack_clip(row["uri"], row["start_s"], row["end_s"], target, self.settings, self.roots)
            except DecodeError as error:
                return entry | {"reason": error.reason}
        return entry | {"ok": True, "frames": frames, "bytes": file_size(target), "kept": kept}


def pack_clips(
    manifest: Manifest,
    out: str,
    settings: PackSettings | None = None,
    *,
    splits: Sequence[str] = (),
    roots: Sequence[str] | None = None,
    max_failed_share: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Pack every clip with Ray Data, and write a manifest of the packed clips.

    Clips with the same video and span, such as a clip and its reversed twin, share one file. Call it again to resume
    after an interruption: whole files are kept, and clips that could not be read are tried again.

    Args:
        manifest: the clips.
        out: folder to make: on a disk that all nodes share, or s3://...
        settings: how a clip is stored.
        splits: pack only the clips of these splits; none: of all.
        roots: where videos may be; None: anywhere.
        max_failed_share: fail if a larger share of the clips cannot be read. Others are left out and listed.
        progress: called with the number of clips done and of all clips.

    Raises:
        InputError: the manifest holds flow, no decoder or split has that name, a video is outside the roots, or `out`
            cannot be written or was made with other settings or from other clips.
        RunError: too many clips cannot be read. `out` has the list of them, and no new manifest.
    """
    settings = settings or PackSettings()
    require_decoder(settings.decoder)
    manifest = _of_splits(manifest, splits)
    if holds_flow(manifest):
        raise InputError(f"{manifest.location} holds optical flow, which is not packed: its folders are small already")
    check_roots(manifest, roots)
    folder = storage_path(out)
    require_writable(folder)
    document = {**settings.document(), "clips": manifest.fingerprint()}
    claim(
        folder / SETTINGS_NAME,
        document,
        lambda names: f"{folder}: holds clips packed with another {names}; name another folder, or remove this one",
    )
    rows, place = distinct_spans(manifest)
    stems = rows["stem"].to_pylist()
    files = [f"clips/{number // _CLIPS_A_FOLDER:05d}/{stem}.mp4" for number, stem in enumerate(stems)]
    rows = rows.append_column("file", pa.array(files, pa.string()))
    plugins = shipment((), sources_of([("decoders", settings.decoder)]))
    work = _Pack(settings, folder, None if roots is None else tuple(roots), plugins)
    entries = for_every_clip(rows, work, progress, clips_a_task=_CLIPS_A_TASK)
    failures = _failures(manifest, entries, place)
    _write_failures(folder / FAILURES_NAME, failures)
    _check_readable(failures, manifest.table.num_rows, max_failed_share, folder)
    made = _manifest(manifest, folder, files, place, entries)
    write_json(folder / SETTINGS_NAME, {**document, "result": _summary(manifest, made, entries)})
    return Packed(manifest=made, failures=tuple(failures), result=pa.Table.from_pylist(entries, schema=PACK_SCHEMA))


def _of_splits(manifest: Manifest, splits: Sequence[str]) -> Manifest:
    if not splits:
        return manifest
    names = pa.array([manifest.split_named(name) for name in splits], pa.string())
    return replace(manifest, table=manifest.table.filter(pc.is_in(manifest.table["split"], names)))


def _failures(manifest: Manifest, entries: list[dict[str, Any]], place: list[int]) -> list[dict[str, str]]:
    """Of each clip of the manifest that could not be read. Clips that share a span share its reason."""
    return [
        {"clip_id": clip_id, "uri": redact(entries[number]["uri"]), "reason": redact(entries[number]["reason"])}
        for clip_id, number in zip(manifest.table["clip_id"].to_pylist(), place, strict=True)
        if not entries[number]["ok"]
    ]


def _write_failures(path: StoragePath, failures: list[dict[str, str]]) -> None:
    if failures:
        write_text(path, "".join(json.dumps(failure) + "\n" for failure in failures))
    elif path.exists():
        path.unlink()


def _check_readable(failures: list[dict[str, str]], clips: int, max_failed_share: float, folder: StoragePath) -> None:
    if len(failures) > max_failed_share * clips or len(failures) == clips:
        shown = "; ".join(f"{failure['clip_id']}: {failure['reason']}" for failure in failures[:3])
        raise RunError(
            f"{len(failures)} of {clips} clips cannot be read, more than --max-failed-share {max_failed_share:g} "
            f"({shown}); all reasons are in {folder / FAILURES_NAME}"
        )


def _manifest(
    manifest: Manifest, folder: StoragePath, files: list[str], place: list[int], entries: list[dict[str, Any]]
) -> Manifest:
    """Write the manifest of the packed clips. Its rows have the order of before."""
    kept = [row for row, number in enumerate(place) if entries[number]["ok"]]
    table = manifest.table.select(SCHEMA.names).take(kept)
    columns = {name: table[name] for name in SCHEMA.names}
    columns["uri"] = [str(folder / files[place[row]]) for row in kept]
    columns["start_s"] = [None] * len(kept)
    columns["end_s"] = [STILL_END_S if entries[place[row]]["frames"] == 1 else None for row in kept]
    location = str(folder / MANIFEST_NAME)
    made = build_manifest(
        columns, manifest.classes, manifest.flip_map, location, manifest.head_sizes, manifest.label_sets
    )
    rebased = manifest.rebased or pc.any(pc.greater(manifest.table["start_s"], 0)).as_py() is True
    return write_manifest(replace(made, rebased=rebased), location)


def _summary(source: Manifest, made: Manifest, entries: list[dict[str, Any]]) -> dict[str, Any]:
    import av

    packed = [entry for entry in entries if entry["ok"]]
    return {
        "source": redact(source.location),
        "fingerprint": made.fingerprint(),
        "clips": made.table.num_rows,
        "missing": source.table.num_rows - made.table.num_rows,
        "frames": sum(entry["frames"] for entry in packed),
        "bytes": sum(entry["bytes"] for entry in packed),
        "made_with": {"w3ray": __version__, "av": av.__version__},
    }

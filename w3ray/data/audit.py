"""Which clips of a manifest cannot be read, and why? Reads every one of them on the cluster and writes a ledger."""

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from w3ray._redact import redact
from w3ray.data.clip_sampling import segment_indices
from w3ray.data.decoders import DEFAULT_DECODER, DecodeError, Video, open_video, require_decoder
from w3ray.data.decoders._common import MAX_MISSING_TAIL_FRAMES, kind_of_reason
from w3ray.data.decoders.flow import FlowFolder
from w3ray.data.decoders.frames import FrameFolder
from w3ray.data.decoders.prove import prove_exact
from w3ray.data.every_clip import ENTRY_FIELDS, for_every_clip
from w3ray.data.manifest import FOLDER_FPS, Manifest
from w3ray.data.modality import holds_flow
from w3ray.data.roots import check_roots
from w3ray.errors import InputError
from w3ray.plugins import NO_PLUGINS, Shipment, shipment, sources_of
from w3ray.storage import StorageFailing, StorageRefused, replacing

LEDGER_SCHEMA = pa.schema(
    [
        *ENTRY_FIELDS,
        pa.field("num_frames", pa.int64()),
        pa.field("fps", pa.float64()),
        pa.field("height", pa.int64()),
        pa.field("width", pa.int64()),
        pa.field("decode_s", pa.float64()),
    ]
)
_SLACK_S = 5e-4  # the same as in `span_of`

Opener = Callable[[str, str, Sequence[str] | None], Video]


@dataclass(frozen=True, slots=True)
class _Check:
    """The work on one block of rows, as Ray Data ships it."""

    decoder: str
    num_frames: int
    open_clip: Opener
    roots: tuple[str, ...] | None = None
    exact: bool = False
    plugins: Shipment = NO_PLUGINS

    def __call__(self, rows: pa.Table) -> pa.Table:
        found = [self._check(row) for row in rows.to_pylist()]
        return pa.Table.from_pylist(found, schema=LEDGER_SCHEMA)

    def _check(self, row: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {"clip_id": row["clip_id"], "uri": row["uri"], "ok": False}
        began_s = time.perf_counter()
        try:
            self.plugins.load()
            with self.open_clip(row["uri"], self.decoder, self.roots) as video:
                first, end = video.frame_span(row["start_s"], row["end_s"])
                _check_end(video, row["uri"], row["end_s"])
                wanted = first + segment_indices(end - first, self.num_frames, None)
                # First and last too: a file that was cut off fails at its end.
                video.frames([first, *wanted.tolist(), end - 1])
                if self.exact:
                    prove_exact(video, row["uri"], first, end)
                info = video.info
            entry |= {"ok": True, "num_frames": end - first, "fps": info.fps}
            entry |= {"height": info.height, "width": info.width}
        except DecodeError as error:
            entry["reason"] = error.reason
        except (StorageFailing, StorageRefused):
            raise  # this says nothing about the clip
        # No exception from a decoder's libraries may end the check. The ledger names it.
        except Exception as error:
            entry["reason"] = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        entry["decode_s"] = time.perf_counter() - began_s
        return entry


def _check_end(video: Video, uri: str, end_s: float | None) -> None:
    """Raises: DecodeError if a clip ends after its video. Training would silently read only what is there."""
    if end_s is None:
        return
    exact = isinstance(video, FrameFolder | FlowFolder)  # the header of a video file may be wrong by some frames
    last_s = float(video.times_s([video.info.num_frames - 1])[0])
    fps = video.info.fps if math.isfinite(video.info.fps) else FOLDER_FPS
    video_s = last_s + 1 / fps
    if end_s > video_s + (_SLACK_S if exact else MAX_MISSING_TAIL_FRAMES / fps):
        raise DecodeError(uri, f"the segment ends past its video: at {end_s:.3f} s, the video at {video_s:.3f} s")


def _open_flow(uri: str, decoder: str, roots: Sequence[str] | None) -> Video:
    return FlowFolder(uri, roots)


def check_clips(
    manifest: Manifest,
    decoder: str = DEFAULT_DECODER,
    *,
    num_frames: int = 8,
    progress: Callable[[int, int], None] | None = None,
    open_clip: Opener | None = None,
    roots: Sequence[str] | None = None,
    exact: bool = False,
) -> pa.Table:
    """Read every clip (the frames that evaluation samples, the first and the last) with Ray Data.

    Runs on the cluster that this process is connected to, or starts a local one. If a decoder crashes its process, the
    clips of its block are read again one by one, and only the clip that caused the crash is reported.

    Args:
        manifest: the clips.
        decoder: a name in DECODERS.
        num_frames: frames to sample from each clip.
        progress: called with the number of clips read and of all clips.
        open_clip: how a clip is opened, given uri, decoder and roots. None: as a video, or as a folder of optical flow
            if the manifest holds flow.
        roots: where videos may lie; None: anywhere.
        exact: also compare every frame of a clip, read by its number, with a decode of the whole video.

    Returns:
        The ledger, one row for each clip, in manifest order, with the columns of LEDGER_SCHEMA. `num_frames` counts the
        frames of the clip's own span. The sizes are null for a clip that could not be read.

    Raises:
        InputError: no decoder has that name, or a video lies outside the roots.
    """
    require_decoder(decoder)
    check_roots(manifest, roots)
    table = manifest.table.select(["clip_id", "start_s", "end_s"])
    rows = table.append_column("uri", pa.array(manifest.resolved_uris(), pa.string()))
    plugins = shipment((), sources_of([("decoders", decoder)]))
    if open_clip is None:
        open_clip = _open_flow if holds_flow(manifest) else open_video
    check = _Check(decoder, num_frames, open_clip, None if roots is None else tuple(roots), exact, plugins)
    ledger = for_every_clip(rows, check, progress)
    return pa.Table.from_pylist(ledger, schema=LEDGER_SCHEMA)


def reason_counts(ledger: pa.Table) -> dict[str, int]:
    """How many clips could not be read, by kind of reason, most frequent first."""
    reasons = ledger.filter(pc.invert(ledger["ok"]))["reason"].to_pylist()
    return dict(Counter(map(kind_of_reason, reasons)).most_common())


def _without_secrets(ledger: pa.Table) -> pa.Table:
    for name in ("uri", "reason"):
        texts = [None if text is None else redact(text) for text in ledger[name].to_pylist()]
        ledger = ledger.set_column(
            LEDGER_SCHEMA.get_field_index(name), LEDGER_SCHEMA.field(name), pa.array(texts, pa.string())
        )
    return ledger


def write_ledger(ledger: pa.Table, location: str | os.PathLike[str]) -> None:
    """Write a ledger as Parquet in one step, without the passwords and keys that its uris and reasons may hold.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(location).absolute()
    try:
        with replacing(path) as part:
            pq.write_table(_without_secrets(ledger), part)
    except OSError as error:
        raise InputError(f"ledger {path}: cannot be written ({error.strerror or error})") from error

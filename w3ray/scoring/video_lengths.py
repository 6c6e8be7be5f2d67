"""How long are these videos? Each one is opened once, on the whole cluster."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from w3ray.data.clip import ClipSpec, open_clip
from w3ray.data.decoders import DecodeError
from w3ray.data.every_clip import ENTRY_FIELDS, for_every_clip
from w3ray.plugins import NO_PLUGINS, Shipment

Lengths = Mapping[str, float | None]
"""Video -> seconds; None: it cannot be read."""

_SCHEMA = pa.schema([*ENTRY_FIELDS, pa.field("length_s", pa.float64())])


@dataclass(frozen=True, slots=True)
class _Measure:
    """The work on some videos, as Ray Data ships it."""

    spec: ClipSpec
    roots: tuple[str, ...] | None
    plugins: Shipment = NO_PLUGINS

    def __call__(self, rows: pa.Table) -> pa.Table:
        self.plugins.load()
        return pa.Table.from_pylist([self._video(row) for row in rows.to_pylist()], schema=_SCHEMA)

    def _video(self, row: Mapping[str, str]) -> dict[str, object]:
        entry: dict[str, object] = {"clip_id": row["clip_id"], "uri": row["uri"]}
        try:
            with open_clip(row["uri"], self.spec, self.roots, None) as video:
                length_s = video.info.duration_s
        except DecodeError as error:
            return entry | {"ok": False, "reason": error.reason}
        if not (math.isfinite(length_s) and length_s > 0):
            return entry | {"ok": False, "reason": "its length is not known"}
        return entry | {"ok": True, "length_s": length_s}


def video_lengths(
    videos: Mapping[str, str],
    *,
    spec: ClipSpec,
    roots: Sequence[str] | None = None,
    plugins: Shipment = NO_PLUGINS,
    here: bool = False,
) -> dict[str, float | str]:
    """Seconds of each video, or the reason why it cannot be read.

    Args:
        videos: as a manifest names them -> as they can be opened.
        spec: which decoder reads them.
        roots: where videos may lie; None: anywhere.
        plugins: what the processes must load.
        here: measure in this process. A video that crashes it ends it.

    Raises:
        StorageRefused, StorageFailing: the storage failed, which says nothing about a video.
    """
    rows = pa.table({"clip_id": pa.array(list(videos)), "uri": pa.array(list(videos.values()))})
    work = _Measure(spec, None if roots is None else tuple(roots), plugins)
    entries = work(rows).to_pylist() if here else for_every_clip(rows, work)
    return {entry["clip_id"]: entry["length_s"] if entry["ok"] else entry["reason"] for entry in entries}

"""How is optical flow computed once for all clips of a manifest, and kept?

    OUT/flow.json                    the settings; a later call with others is refused
    OUT/manifest.parquet             the clips that have flow, with the labels and splits of the videos' manifest
    OUT/flow/CLIP/flow_x_00001.jpg   x of field 1: motion from frame 1 to frame 2 (with flow_y_00001.jpg, its y)
    OUT/flow/CLIP/fields.json        written last: this clip is finished

A motion of m pixels is stored as the grey value 255 * (m + 20) / 40; motion beyond 20 pixels is cut off. TSN's tools do
the same (Wang et al., arXiv:1608.00859, section 4.1). Large frames are made smaller first, and the 20 pixels are pixels
of the smaller frames. A clip that is finished is not computed again.

OpenCV computes the flow. It is an optional extra: `pip install 'w3ray[flow]'`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from w3ray.data.decoders import DEFAULT_DECODER, DecodeError, Video, open_video, require_decoder
from w3ray.data.every_clip import ENTRY_FIELDS, claim, distinct_spans, for_every_clip
from w3ray.data.manifest import Manifest, build_manifest, write_manifest
from w3ray.data.manifest.schema import SCHEMA
from w3ray.data.roots import check_roots
from w3ray.errors import InputError
from w3ray.plugins import NO_PLUGINS, Shipment, shipment, sources_of
from w3ray.storage import StoragePath, storage_path
from w3ray.storage.writing import require_writable, write_json

FlowMethod = Literal["dis-medium", "dis-fast", "dis-ultrafast", "farneback", "tvl1"]
"""TSN's and the two-stream papers use TV-L1. DIS (Kroeger et al., arXiv:1603.03590) is much faster."""

BOUND_PIXELS = 20.0
SETTINGS_NAME, MANIFEST_NAME, FINISHED_NAME = "flow.json", "manifest.parquet", "fields.json"
_VERSION = 1
_JPEG_QUALITY = 95
_CLIPS_A_TASK = 2
_FRAMES_AT_ONCE = 64

FLOW_SCHEMA = pa.schema([*ENTRY_FIELDS, pa.field("fields", pa.int64())])
"""The result of each clip. `fields` is the number of its flow fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """What decides the pixels of the flow.

    Raises:
        InputError: a value cannot be used.
    """

    method: FlowMethod = "dis-medium"
    short_side: int = 256
    """Frames with a longer short side are made smaller first, pixels."""
    decoder: str = DEFAULT_DECODER

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r}: must be one of {', '.join(METHODS)}")
        if self.short_side < 16:
            raise InputError(f"short side {self.short_side}: must be at least 16 pixels")

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {"version": _VERSION, "bound_pixels": BOUND_PIXELS, **asdict(self)}


def _opencv() -> Any:
    """The module cv2. Raises InputError if it is not installed, or without the part that has TV-L1."""
    try:
        import cv2
    except ImportError as error:
        raise InputError("optical flow needs OpenCV: pip install 'w3ray[flow]'") from error
    cv2.setNumThreads(1)  # the cluster computes several clips at the same time
    return cv2


def _dis(preset: str) -> Callable[[Any], Any]:
    return lambda cv2: cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset}"))


def _tvl1(cv2: Any) -> Any:
    if not hasattr(cv2, "optflow"):
        raise InputError("TV-L1 needs OpenCV's contributed modules: pip install 'w3ray[flow]' and no other OpenCV")
    return cv2.optflow.DualTVL1OpticalFlow_create()


METHODS: dict[str, Callable[[Any], Any]] = {
    "dis-medium": _dis("MEDIUM"),
    "dis-fast": _dis("FAST"),
    "dis-ultrafast": _dis("ULTRAFAST"),
    "farneback": lambda cv2: cv2.FarnebackOpticalFlow_create(),
    "tvl1": _tvl1,
}
"""Name -> what makes OpenCV's object, given the module. Its `calc(before, after, None)` returns [H, W, 2]."""


def to_grey(motion: np.ndarray) -> np.ndarray:
    """Motion in pixels -> uint8 of the same shape."""
    bounded = np.clip(motion, -BOUND_PIXELS, BOUND_PIXELS)
    return np.rint((bounded + BOUND_PIXELS) * (255 / (2 * BOUND_PIXELS))).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class _Flow:
    """The work on some clips, as Ray Data ships it."""

    settings: FlowSettings
    out: StoragePath
    roots: tuple[str, ...] | None = None
    plugins: Shipment = NO_PLUGINS

    def __call__(self, rows: pa.Table) -> pa.Table:
        self.plugins.load()
        return pa.Table.from_pylist([self._clip(row) for row in rows.to_pylist()], schema=FLOW_SCHEMA)

    def _clip(self, row: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {"clip_id": row["clip_id"], "uri": row["uri"], "ok": False}
        if not (self.out / SETTINGS_NAME).exists():
            return entry | {"reason": f"a node does not see {self.out}; name a folder that all nodes share"}
        folder = self.out / "flow" / row["stem"]
        try:
            fields = finished_fields(folder)
            if fields is None:
                fields = self._compute(row, folder)
            return entry | {"ok": True, "fields": fields}
        except DecodeError as error:
            return entry | {"reason": error.reason}
        except _opencv().error as error:  # frames that are too small, or change their size
            return entry | {"reason": f"OpenCV cannot compute its flow: {' '.join(str(error).split())[:160]}"}

    def _compute(self, row: dict[str, Any], folder: StoragePath) -> int:
        cv2 = _opencv()
        algorithm = METHODS[self.settings.method](cv2)
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
        count, before = 0, None
        with open_video(row["uri"], self.settings.decoder, self.roots) as video:
            first, stop = video.frame_span(row["start_s"], row["end_s"])
            for grey in _grey_frames(cv2, video, first, stop, self.settings.short_side):
                if before is not None:
                    count += 1
                    field = to_grey(algorithm.calc(before, grey, None))
                    for axis, values in zip("xy", np.moveaxis(field, -1, 0), strict=True):
                        _, image = cv2.imencode(
                            ".jpg", np.ascontiguousarray(values), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
                        )
                        (folder / f"flow_{axis}_{count:05d}.jpg").write_bytes(image.tobytes())
                before = grey
        if count == 0:
            raise DecodeError(row["uri"], "only 1 frame: nothing can move in it")
        write_json(folder / FINISHED_NAME, {"fields": count})
        return count


def _grey_frames(cv2: Any, video: Video, first: int, stop: int, short_side: int) -> Iterator[np.ndarray]:
    """The frames of a span, grey and small: uint8 [H, W] each."""
    for start in range(first, stop, _FRAMES_AT_ONCE):
        for frame_HWC in video.frames(np.arange(start, min(start + _FRAMES_AT_ONCE, stop))):
            grey = cv2.cvtColor(np.ascontiguousarray(frame_HWC), cv2.COLOR_RGB2GRAY)
            height, width = grey.shape
            ratio = short_side / min(height, width)
            if ratio < 1:
                size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
                grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
            yield grey


def finished_fields(folder: StoragePath) -> int | None:
    """The number of fields of a clip that is finished. None: it is not."""
    marker = folder / FINISHED_NAME
    if not marker.exists():
        return None
    try:
        return int(json.loads(marker.read_text())["fields"])
    except (ValueError, KeyError, TypeError):
        return None


def compute_flow(
    manifest: Manifest,
    out: str,
    settings: FlowSettings | None = None,
    *,
    roots: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Manifest | None, pa.Table]:
    """Compute the optical flow of every clip with Ray Data, and write a manifest of the flow.

    Clips with the same video and span, such as a clip and its reversed twin, share their flow. Call it again to go on
    after an interruption.

    Args:
        manifest: the videos.
        out: folder to make: on a disk that all nodes share, or s3://...
        settings: how the flow is computed.
        roots: where videos may be; None: anywhere.
        progress: called with the number of clips done and of all clips.

    Returns:
        The manifest (None if no clip could be read), and the result of each video's span with the columns of
        FLOW_SCHEMA.

    Raises:
        InputError: OpenCV is not installed, no decoder has that name, a video is outside the roots, or `out` cannot be
            written or was made with other settings or from other clips.
    """
    settings = settings or FlowSettings()
    METHODS[settings.method](_opencv())
    require_decoder(settings.decoder)
    check_roots(manifest, roots)
    folder = storage_path(out)
    require_writable(folder)
    rows, place = distinct_spans(manifest)
    claim(
        folder / SETTINGS_NAME,
        {**settings.document(), "clips": manifest.fingerprint()},
        lambda names: f"{folder}: holds flow with another {names}; name another folder, or remove this one",
    )
    plugins = shipment((), sources_of([("decoders", settings.decoder)]))
    work = _Flow(settings, folder, None if roots is None else tuple(roots), plugins)
    entries = for_every_clip(rows, work, progress, clips_a_task=_CLIPS_A_TASK)
    folders = rows["stem"].to_pylist()
    kept = [number for number in range(manifest.table.num_rows) if entries[place[number]]["ok"]]
    result = pa.Table.from_pylist(entries, schema=FLOW_SCHEMA)
    if not kept:
        return None, result
    table = manifest.table.select(SCHEMA.names).take(kept)
    columns = {name: table[name] for name in SCHEMA.names}
    columns["uri"] = [str(folder / "flow" / folders[place[number]]) for number in kept]
    columns["start_s"] = columns["end_s"] = [None] * len(kept)
    made = build_manifest(
        columns, manifest.classes, manifest.flip_map, str(folder / MANIFEST_NAME), manifest.head_sizes,
        manifest.label_sets,
    )  # fmt: skip
    return write_manifest(replace(made, flow=True), str(folder / MANIFEST_NAME)), result

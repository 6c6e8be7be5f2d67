"""How are boxes of things found once for all clips of a manifest?

    OUT                         the boxes: see `w3ray.data.boxes`
    OUT.parts/boxes.json        the settings; a later call with others is refused
    OUT.parts/CLIP.parquet      the boxes of a finished clip
    OUT.parts is removed when all clips are finished.

The boxes are the proposals of torchvision's Faster R-CNN with ResNet-50 and FPN, whatever class the thing has (Wang &
Gupta, arXiv:1806.01810, section 4.1, from memory). Its scores fall with the rank of a proposal: 1, 1/2, 1/3 and so on.
A fixed grid of boxes needs no detector.

A clip that cannot be read gets one box without an area. So a run is not refused because of it: training leaves it out.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from w3ray._file_names import unique_stems
from w3ray.data.boxes import BOXES_SCHEMA, write_boxes
from w3ray.data.clip_sampling import segment_indices_at
from w3ray.data.decoders import DEFAULT_DECODER, DecodeError, open_video, require_decoder
from w3ray.data.every_clip import ENTRY_FIELDS, claim, for_every_clip
from w3ray.data.manifest import Manifest
from w3ray.data.manifest.schema import SCHEMA
from w3ray.data.roots import check_roots
from w3ray.errors import InputError
from w3ray.plugins import NO_PLUGINS, Shipment, shipment, sources_of
from w3ray.storage import StorageFailing, StoragePath, StorageRefused, remove_tree, storage_path
from w3ray.storage.writing import require_writable

SETTINGS_NAME = "boxes.json"
_VERSION = 1
_CLIPS_A_TASK = 4

RESULT_SCHEMA = pa.schema([*ENTRY_FIELDS, pa.field("boxes", pa.int64())])
"""The result of each clip. `boxes` is the number of its boxes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings:
    """What decides the boxes of a detector.

    Raises:
        InputError: a value cannot be used.
    """

    weights: str
    """File with the state dict of torchvision's `fasterrcnn_resnet50_fpn`. All nodes must see it."""
    frames: int = 16
    """Frames of a clip that are looked at: the middles of equal parts. A frame in between has its neighbour's boxes."""
    most: int = 50
    """Boxes of a frame."""
    short_side: int = 224
    """Short side of a frame before the detector, in pixels."""
    decoder: str = DEFAULT_DECODER

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("most", 1), ("short_side", 32)):
            if getattr(self, name) < least:
                raise InputError(f"{name.replace('_', ' ')} {getattr(self, name)}: must be at least {least}")

    def document(self) -> dict[str, Any]:
        """As JSON values. The weights count by their content."""
        named = {name: getattr(self, name) for name in ("frames", "most", "short_side", "decoder")}
        return {"version": _VERSION, **named, "weights": _digest(self.weights)}


def _digest(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"weights {path}: cannot be read ({error.strerror}); save the state dict of torchvision's "
            "fasterrcnn_resnet50_fpn there, or use --grid"
        ) from error


@lru_cache(maxsize=1)
def _detector(weights: str, short_side: int, most: int) -> Any:
    """The detector, once per process."""
    import torch
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.set_num_threads(1)  # the cluster works on several clips at the same time
    network = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=short_side, max_size=4 * short_side, rpn_post_nms_top_n_test=most
    )
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # the unpickler can raise any exception
        raise InputError(f"weights {weights}: not the state dict of torchvision's fasterrcnn_resnet50_fpn") from error
    return network.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def detected(frame_HWC: np.ndarray, settings: DetectorSettings) -> np.ndarray:
    """The boxes of a frame, best first: float32 [N, 4] in shares of its width and height."""
    import torch

    network = _detector(settings.weights, settings.short_side, settings.most)
    device = next(network.parameters()).device
    image_CHW = torch.from_numpy(np.ascontiguousarray(frame_HWC)).to(device).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        images, _ = network.transform([image_CHW])
        proposals, _ = network.rpn(images, network.backbone(images.tensors))
        height, width = images.image_sizes[0]
        shares_N4 = proposals[0] / torch.tensor([width, height, width, height], device=device)
    found: np.ndarray = shares_N4.clamp(0, 1).float().cpu().numpy()
    return found


def grid_boxes(cells: int) -> np.ndarray:
    """`cells` x `cells` equal boxes that cover the frame, row by row: float32 [cells^2, 4]."""
    edges = np.linspace(0, 1, cells + 1, dtype=np.float32)
    return np.array(
        [(edges[x], edges[y], edges[x + 1], edges[y + 1]) for y in range(cells) for x in range(cells)], np.float32
    )


def _rows(clip_id: str, time_s: float, boxes_N4: np.ndarray) -> list[dict[str, Any]]:
    """Rows of a file. A frame without boxes has one without an area."""
    places = [tuple(map(float, box)) for box in boxes_N4] or [(0.0, 0.0, 0.0, 0.0)]
    return [
        {"clip_id": clip_id, "time_s": time_s, "x1": x1, "y1": y1, "x2": x2, "y2": y2, "score": 1 / (rank + 1)}
        for rank, (x1, y1, x2, y2) in enumerate(places)
    ]


@dataclass(frozen=True, slots=True)
class _Detect:
    """The work on some clips, as Ray Data ships it."""

    settings: DetectorSettings
    parts: StoragePath
    roots: tuple[str, ...] | None = None
    plugins: Shipment = NO_PLUGINS

    def __call__(self, rows: pa.Table) -> pa.Table:
        self.plugins.load()
        return pa.Table.from_pylist([self._clip(row) for row in rows.to_pylist()], schema=RESULT_SCHEMA)

    def _clip(self, row: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {"clip_id": row["clip_id"], "uri": row["uri"], "ok": False}
        if not (self.parts / SETTINGS_NAME).exists():
            return entry | {"reason": f"a node does not see {self.parts}; name a place that all nodes share"}
        part = self.parts / f"{row['part']}.parquet"
        try:
            found = _finished(part)
            if found is None:
                made = self._find(row)
                write_boxes(str(part), made)
                found = len(made)
            return entry | {"ok": True, "boxes": found}
        except (StorageFailing, StorageRefused):
            raise  # this says nothing about the clip
        except (DecodeError, InputError) as error:
            return entry | {"reason": error.reason if isinstance(error, DecodeError) else str(error)}

    def _find(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        with open_video(row["uri"], self.settings.decoder, self.roots) as video:
            first, stop = video.frame_span(row["start_s"], row["end_s"])
            numbers_T = np.unique(first + segment_indices_at(stop - first, self.settings.frames, 0.5))
            for number, time_s in zip(numbers_T, video.times_s(numbers_T), strict=True):
                (frame_HWC,) = video.frames([int(number)])
                rows += _rows(row["clip_id"], float(time_s), detected(frame_HWC, self.settings))
        return rows


def _finished(part: StoragePath) -> int | None:
    """The number of boxes of a clip that is finished. None: it is not."""
    if not part.exists():
        return None
    try:
        return int(pq.read_metadata(pa.BufferReader(part.read_bytes())).num_rows)
    except pa.ArrowException:
        return None


def find_boxes(
    manifest: Manifest,
    out: str,
    settings: DetectorSettings,
    *,
    roots: Sequence[str] | None = None,
    gpus_a_task: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Find boxes in every clip with Ray Data, and write one file. Call it again to go on after an interruption.

    Args:
        manifest: the videos.
        out: file to write: on a disk that all nodes share, or s3://...
        settings: of the detector.
        roots: where videos may be; None: anywhere.
        gpus_a_task: share of a GPU that one task gets; 0: the detector runs on the CPU.
        progress: called with the number of clips done and of all clips.

    Returns:
        The result of each clip, with the columns of RESULT_SCHEMA.

    Raises:
        InputError: no decoder has that name, a video is outside the roots, the weights cannot be used, or `out` cannot
            be written or was begun with other settings or from other clips.
    """
    require_decoder(settings.decoder)
    check_roots(manifest, roots)
    document = {**settings.document(), "clips": manifest.fingerprint()}
    _detector(settings.weights, settings.short_side, settings.most)  # so that wrong weights fail here
    _detector.cache_clear()
    parts = storage_path(f"{out}.parts")
    require_writable(parts)
    claim(
        parts / SETTINGS_NAME,
        document,
        lambda names: f"{parts}: was begun with another {names}; name another file, or remove it",
    )
    table = manifest.table.select(["clip_id", "uri", "start_s", "end_s"])
    table = table.set_column(1, SCHEMA.field("uri"), pa.chunked_array([manifest.resolved_uris()], pa.string()))
    names = unique_stems(table["clip_id"].to_pylist())
    table = table.append_column("part", pa.array(names, pa.string()))
    plugins = shipment((), sources_of([("decoders", settings.decoder)]))
    work = _Detect(settings, parts, None if roots is None else tuple(roots), plugins)
    entries = for_every_clip(table, work, progress, clips_a_task=_CLIPS_A_TASK, gpus_a_task=gpus_a_task)
    made = []
    for entry, name in zip(entries, names, strict=True):
        if entry["ok"]:
            made.append(pq.read_table(pa.BufferReader((parts / f"{name}.parquet").read_bytes())))
        else:
            made.append(pa.Table.from_pylist(_rows(entry["clip_id"], 0.0, np.zeros((0, 4))), schema=BOXES_SCHEMA))
    write_boxes(out, pa.concat_tables([one.cast(BOXES_SCHEMA) for one in made]), own_times=manifest.own_times)
    if all(entry["ok"] for entry in entries):
        remove_tree(parts)
    return pa.Table.from_pylist(entries, schema=RESULT_SCHEMA)


def write_grid(manifest: Manifest, out: str, cells: int) -> int:
    """Write a fixed grid of boxes for every clip. No video is read. Returns the number of boxes of a clip.

    Raises:
        InputError: `cells` is below 1, or `out` cannot be written.
    """
    if cells < 1:
        raise InputError(f"--grid {cells}: must be at least 1")
    boxes_N4 = grid_boxes(cells)
    require_writable(storage_path(out).parent)
    ids = manifest.table["clip_id"].combine_chunks()
    count, each = len(ids), len(boxes_N4)
    columns = {
        "clip_id": ids.take(pa.array(np.repeat(np.arange(count), each))),
        "time_s": pa.array(np.zeros(count * each, np.float32)),
        **{name: pa.array(np.tile(boxes_N4[:, i], count)) for i, name in enumerate(("x1", "y1", "x2", "y2"))},
        "score": pa.array(np.ones(count * each, np.float32)),
    }
    write_boxes(out, pa.table(columns, schema=BOXES_SCHEMA), own_times=manifest.own_times)
    return each

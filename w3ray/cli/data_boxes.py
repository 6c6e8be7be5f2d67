"""`w3ray data boxes`: find boxes of things in all clips once."""

import time
from typing import Annotated, Any

import typer

from w3ray._redact import redacted
from w3ray.cli._common import EXIT_FAILED, JsonOption, finish, run_command
from w3ray.cli._console import RenderableType
from w3ray.cli._console import lines as as_lines
from w3ray.cli._options import AddressOption, DecoderOption, RootsOption, StrictOption
from w3ray.cli._progress import Progress
from w3ray.data.manifest import read_manifest
from w3ray.errors import InputError

_SHOWN = 5


@run_command
def boxes(
    manifest: Annotated[str, typer.Argument(help="Manifest of videos.")],
    out: Annotated[str, typer.Argument(help="Parquet file to write, where all nodes see it, or s3://...")],
    weights: Annotated[
        str | None, typer.Option(help="State dict of torchvision's fasterrcnn_resnet50_fpn: find boxes with it.")
    ] = None,
    grid: Annotated[int | None, typer.Option(help="Write N x N equal boxes instead. No video is read.")] = None,
    boxes_from: Annotated[
        str | None, typer.Option("--from", help="Check a file of your own boxes against the manifest, and copy it.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Detector: frames of a clip to look at.")] = 16,
    most: Annotated[int, typer.Option(help="Detector: maximum number of boxes of a frame, best first.")] = 50,
    short_side: Annotated[int, typer.Option(help="Detector: short side of a frame, pixels.")] = 224,
    gpus: Annotated[float, typer.Option(min=0, help="Detector: share of a GPU for one task; 0: CPU.")] = 0.0,
    decoder: DecoderOption = "pyav",
    roots: RootsOption = None,
    address: AddressOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write boxes of things for networks that need them (`data.boxes`). Call it again to resume."""
    from w3ray.data.find_boxes import DetectorSettings, write_grid

    if sum(one is not None for one in (weights, grid, boxes_from)) != 1:
        raise InputError("name one of --weights FILE, --grid N and --from FILE")
    clips = read_manifest(manifest)
    began_s = time.perf_counter()
    bad: list[dict[str, Any]] = []
    if grid is not None:
        count = write_grid(clips, out, grid) * clips.table.num_rows
    elif boxes_from is not None:
        count = _copied(boxes_from, out, clips)
    else:
        assert weights is not None
        settings = DetectorSettings(weights=weights, frames=frames, most=most, short_side=short_side, decoder=decoder)
        rows = _found(clips, out, settings, roots=roots or None, gpus=gpus, address=address)
        count = sum(row["boxes"] or 0 for row in rows)
        bad = [row for row in rows if not row["ok"]]
    document = redacted(
        {
            "boxes": out,
            "clips": clips.table.num_rows,
            "count": count,
            "failures": [{name: row[name] for name in ("clip_id", "uri", "reason")} for row in bad],
            "seconds": round(time.perf_counter() - began_s, 3),
        }
    )
    finish(document, as_json=as_json, text=_text(document))
    if len(bad) == clips.table.num_rows or (strict and bad):
        raise typer.Exit(EXIT_FAILED)


def _found(
    clips: Any, out: str, settings: Any, *, roots: list[str] | None, gpus: float, address: str | None
) -> list[dict[str, Any]]:
    from w3ray.cluster.connect import connect, disconnect, job_address
    from w3ray.data.find_boxes import find_boxes

    settings.document()  # absent weights are reported before Ray starts
    connect(address or job_address())
    try:
        progress = Progress("looked at {done} of {total} clips")
        result = find_boxes(clips, out, settings, roots=roots, gpus_a_task=gpus, progress=progress)
    finally:
        disconnect()
    rows: list[dict[str, Any]] = result.to_pylist()
    return rows


def _copied(source: str, out: str, clips: Any) -> int:
    """Check a file of boxes and copy it. Returns its number of boxes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from w3ray.data.boxes import read_boxes
    from w3ray.storage import storage_path, write_bytes

    read_boxes(source).joined(clips.table.select(["clip_id"]), clips.location, own_times=clips.own_times)
    content = storage_path(source).read_bytes()
    write_bytes(storage_path(out), content)
    return int(pq.read_metadata(pa.BufferReader(content)).num_rows)


def _text(document: dict[str, Any]) -> RenderableType:
    lines = [f"{document['count']} boxes for {document['clips']} clips ({document['seconds']:.1f} s)"]
    failures = document["failures"]
    lines += [f"{row['clip_id']}: {row['reason']}" for row in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(f"and {len(failures) - _SHOWN} more clips could not be read; --json lists them")
    return as_lines([*lines, f"boxes  {document['boxes']}"])

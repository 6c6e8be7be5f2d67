"""`w3ray data pack`: store all clips small, once."""

import time
from typing import Annotated, Any

import typer

from w3ray._redact import redacted
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._console import RenderableType
from w3ray.cli._console import lines as as_lines
from w3ray.cli._options import AddressOption, DecoderOption, RootsOption
from w3ray.cli._progress import Progress
from w3ray.data.manifest import read_manifest

_SHOWN = 5


@run_command
def pack(
    manifest: Annotated[str, typer.Argument(help="Manifest of videos or folders of frames.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder to make, which all nodes share, or s3://...")],
    short_side: Annotated[int, typer.Option(help="Larger frames are made smaller, pixels.")] = 256,
    crf: Annotated[int, typer.Option(help="Quality of x264, 1 to 51: smaller files with a larger number.")] = 18,
    gop: Annotated[int, typer.Option(help="Frames from one key frame to the next.")] = 8,
    split: Annotated[
        list[str] | None, typer.Option(help="Pack only the clips of this split. Can be repeated; default: all.")
    ] = None,
    decoder: DecoderOption = "pyav",
    roots: RootsOption = None,
    address: AddressOption = None,
    max_failed_share: Annotated[
        float, typer.Option(min=0, max=1, help="Fail if more than this share of the clips cannot be read.")
    ] = 0.01,
    as_json: JsonOption = False,
) -> None:
    """Store clips small and quick to decode, and write a manifest of them. Call it again to resume."""
    from w3ray.cluster.connect import connect, disconnect, job_address
    from w3ray.data.pack import PackSettings, pack_clips

    clips = read_manifest(manifest)
    settings = PackSettings(short_side=short_side, crf=crf, gop=gop, decoder=decoder)
    began_s = time.perf_counter()
    connect(address or job_address())
    try:
        packed = pack_clips(
            clips, out, settings, splits=split or (), roots=roots or None, max_failed_share=max_failed_share,
            progress=Progress("packed {done} of {total} clips"),
        )  # fmt: skip
    finally:
        disconnect()
    rows = [row for row in packed.result.to_pylist() if row["ok"]]
    document = redacted(
        {
            "manifest": packed.manifest.location,
            "clips": packed.manifest.table.num_rows,
            "fingerprint": packed.manifest.fingerprint(),
            "settings": settings.document(),
            "files": len(rows),
            "kept": sum(row["kept"] for row in rows),
            "frames": sum(row["frames"] for row in rows),
            "bytes": sum(row["bytes"] for row in rows),
            "failures": list(packed.failures),
            "seconds": round(time.perf_counter() - began_s, 3),
        }
    )
    finish(document, as_json=as_json, text=_text(document))


def _text(document: dict[str, Any]) -> RenderableType:
    kept = f", {document['kept']} of them from an earlier call" if document["kept"] else ""
    lines = [
        f"{document['clips']} clips in {document['files']} files{kept}: {document['frames']} frames, "
        f"{document['bytes'] / 2**20:.1f} MiB ({document['seconds']:.1f} s)"
    ]
    failures = document["failures"]
    lines += [f"{row['clip_id']}: {row['reason']}" for row in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(f"and {len(failures) - _SHOWN} more clips could not be read; --json lists them")
    return as_lines([*lines, f"manifest  {document['manifest']}"])

"""`w3ray data flow`: compute the optical flow of all clips once."""

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

_SHOWN = 5


@run_command
def flow(
    manifest: Annotated[str, typer.Argument(help="Manifest of videos.")],
    out: Annotated[str, typer.Argument(help="Folder to make, which all nodes share, or s3://...")],
    method: Annotated[
        str, typer.Option(help="dis-medium, dis-fast, dis-ultrafast, farneback, or tvl1 (as in the papers; slow).")
    ] = "dis-medium",
    short_side: Annotated[int, typer.Option(help="Larger frames are made smaller first, pixels.")] = 256,
    decoder: DecoderOption = "pyav",
    roots: RootsOption = None,
    address: AddressOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compute optical flow on the cluster, and write a manifest of it. Call it again to resume."""
    from w3ray.cluster.connect import connect, disconnect, job_address
    from w3ray.data.flow import FlowSettings, compute_flow

    clips = read_manifest(manifest)
    settings = FlowSettings(method=method, short_side=short_side, decoder=decoder)  # type: ignore[arg-type]
    began_s = time.perf_counter()
    connect(address or job_address())
    try:
        made, result = compute_flow(
            clips, out, settings, roots=roots or None, progress=Progress("computed {done} of {total} clips")
        )
    finally:
        disconnect()
    bad = [row for row in result.to_pylist() if not row["ok"]]
    document = redacted(
        {
            "manifest": None if made is None else made.location,
            "clips": 0 if made is None else made.table.num_rows,
            "settings": settings.document(),
            "fields": sum(row["fields"] or 0 for row in result.to_pylist()),
            "failures": [{name: row[name] for name in ("clip_id", "uri", "reason")} for row in bad],
            "seconds": round(time.perf_counter() - began_s, 3),
        }
    )
    finish(document, as_json=as_json, text=_text(document))
    if made is None or (strict and bad):
        raise typer.Exit(EXIT_FAILED)


def _text(document: dict[str, Any]) -> RenderableType:
    lines = [
        f"{document['fields']} fields of flow for {document['clips']} clips with {document['settings']['method']} "
        f"({document['seconds']:.1f} s)"
    ]
    failures = document["failures"]
    lines += [f"{row['clip_id']}: {row['reason']}" for row in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(f"and {len(failures) - _SHOWN} more clips could not be read; --json lists them")
    if document["manifest"] is not None:
        lines.append(f"manifest  {document['manifest']}")
    return as_lines(lines)

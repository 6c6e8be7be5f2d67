"""`w3ray data check`: which clips of a manifest cannot be read, and why?"""

import time
from typing import Annotated, Any

import typer

from w3ray._redact import redacted
from w3ray.cli._common import EXIT_FAILED, JsonOption, finish, run_command
from w3ray.cli._console import Group, Line, RenderableType, Table
from w3ray.cli._options import AddressOption, DecoderOption, RootsOption, StrictOption
from w3ray.cli._progress import Progress
from w3ray.data.manifest import read_manifest
from w3ray.errors import InputError


@run_command
def check(
    manifest: Annotated[str, typer.Argument(help="Manifest to check.")],
    ledger: Annotated[str | None, typer.Option(help="Parquet file for the result of every clip.")] = None,
    decoder: DecoderOption = "pyav",
    frames: Annotated[int, typer.Option(min=1, help="Frames sampled of each clip.")] = 8,
    roots: RootsOption = None,
    address: AddressOption = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Also compare every frame with a decode of the whole video. Slow.")
    ] = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read every clip on the cluster; say which cannot be read and why."""
    from w3ray.cluster.connect import connect, disconnect, job_address
    from w3ray.data.audit import check_clips, reason_counts, write_ledger
    from w3ray.data.decoders import require_decoder
    from w3ray.data.roots import check_roots

    clips = read_manifest(manifest)
    require_decoder(decoder)
    if ledger is not None and not ledger.endswith(".parquet"):
        raise InputError(f"--ledger {ledger}: the name must end in .parquet")
    check_roots(clips, roots or None)
    began_s = time.perf_counter()
    connect(address or job_address())
    try:
        result = check_clips(
            clips,
            decoder,
            num_frames=frames,
            progress=Progress("checked {done} of {total} clips"),
            roots=roots or None,
            exact=exact,
        )
    finally:
        disconnect()
    if ledger is not None:
        write_ledger(result, ledger)
    bad = [row for row in result.to_pylist() if not row["ok"]]
    document = {
        "manifest": clips.location,
        "decoder": decoder,
        "exact": exact,
        "clips": result.num_rows,
        "readable": result.num_rows - len(bad),
        "unreadable": len(bad),
        "reasons": reason_counts(result),
        "failures": [{"clip_id": row["clip_id"], "uri": row["uri"], "reason": row["reason"]} for row in bad],
        "ledger": ledger,
        "seconds": round(time.perf_counter() - began_s, 3),
    }
    document = redacted(document)
    finish(document, as_json=as_json, text=_check_text(document))
    if strict and bad:
        raise typer.Exit(EXIT_FAILED)


def _check_text(document: dict[str, Any]) -> RenderableType:
    head = Line(
        f"{document['readable']} of {document['clips']} clips can be read with {document['decoder']}"
        f"{', every frame as in a decode of the whole video' if document['exact'] else ''} "
        f"({document['seconds']:.1f} s)"
    )
    if not document["unreadable"]:
        return head
    from w3ray.data.decoders._common import kind_of_reason

    kinds = Table(box=None, pad_edge=False)
    kinds.add_column("clips", justify="right")
    kinds.add_column("reason")
    kinds.add_column("for example")
    for kind, count in document["reasons"].items():
        example = next(row["clip_id"] for row in document["failures"] if kind_of_reason(row["reason"]) == kind)
        kinds.add_row(str(count), kind, example)
    ledger = document["ledger"]
    foot = f"each clip's result: {ledger}" if ledger else "add --ledger FILE.parquet to keep each clip's result"
    return Group(head, kinds, Line(foot))

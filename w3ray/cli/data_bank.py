"""`w3ray data bank`: compute what a model sees in whole videos once, for networks that read a bank."""

import time
from typing import Annotated

import typer

from w3ray._redact import redacted
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._console import lines as as_lines
from w3ray.cli._models import MODEL_HELP, TrackingOption, opened_models
from w3ray.cli._options import AddressOption, RootsOption
from w3ray.cli._progress import Progress

_SHOWN = 5


@run_command
def bank(
    model: Annotated[str, typer.Argument(help=f"The model that the network's own bank was made with. {MODEL_HELP}")],
    manifest: Annotated[str, typer.Argument(help="Manifest of the videos.")],
    out: Annotated[str, typer.Argument(help="Folder to write, where all nodes see it, or s3://...")],
    every_s: Annotated[float, typer.Option(help="Seconds from one feature to the next.")] = 1.0,
    span_s: Annotated[float, typer.Option(help="Seconds of video that a feature is made of.")] = 2.0,
    roots: RootsOption = None,
    address: AddressOption = None,
    max_failed_share: Annotated[
        float, typer.Option(min=0, max=1, help="Fail if more than this share of the videos cannot be read.")
    ] = 0.01,
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a bank of all videos of a manifest (`w3ray evaluate --bank`). Call it again to resume."""
    from w3ray.scoring.manifest_bank import bank_of_manifest

    began_s = time.perf_counter()
    failures: list[dict[str, str]] = []
    with opened_models([model], tracking) as (found,):
        made = bank_of_manifest(
            found.folder,
            manifest,
            out,
            every_s=every_s,
            span_s=span_s,
            roots=roots or None,
            address=address,
            max_failed_share=max_failed_share,
            on_progress=Progress("computed {done} of {total} features"),
            on_failure=lambda video, reason: failures.append({"video": video, "reason": reason}),
        )
    document = redacted(
        {
            "bank": out,
            "videos": len(made.moments),
            "features": sum(made.moments.values()),
            "channels": made.channels,
            "failures": failures,
            "seconds": round(time.perf_counter() - began_s, 3),
        }
    )
    lines = [f"{document['features']} features of {document['videos']} videos ({document['seconds']:.1f} s)"]
    lines += [f"{one['video']}: {one['reason']}" for one in document["failures"][:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(f"and {len(failures) - _SHOWN} more videos could not be read; --json lists them")
    finish(document, as_json, as_lines([*lines, f"bank  {out}"]))
